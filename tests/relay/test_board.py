"""
The board on which those who wait for a delivery find its outcome.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.errors import StageError
from deferrals.interfaces import IDeliveryStage, Work
from deferrals.model.reply import Reply
from deferrals.model.verdict import Delivered, Failed, Retry
from deferrals.relay.board import Board
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage

FULL = Retry(Reply(452, "4.2.2", "the mailbox is full"))
NEVER = Failed(Reply(550, "5.6.0", "no such content"))


class Stage:
    """
    A delivery that comes to what it is told.
    """

    def __init__(self) -> None:
        self.result: Any = succeed({})

    def destination(self, recipient: Any) -> str:
        return "here"

    def deliver(self, message: Any, envelope: Any, recipients: Any) -> Any:
        return self.result


class BoardTests(SynchronousTestCase):
    """
    L{Board}.
    """

    def setUp(self) -> None:
        self.board, self.stage = Board(), Stage()
        self.people = makeAddressees("a@x.example", "b@x.example", "c@x.example")
        self.work = Work(makeEnvelope(), makeMessage(), tuple(self.people))

    def deliver(self, *outcomes: Any, people: Any = None) -> Any:
        group = people or self.people
        self.stage.result = succeed(dict(zip(group, outcomes, strict=True)))
        watched = self.board.watch(self.stage)
        return self.successResultOf(watched.deliver(self.work.message, self.work.envelope, group))

    def test_notWaiting(self) -> None:
        """Where nobody waits, a stage is itself; and none is none."""
        self.assertIs(self.board.watch(self.stage), self.stage)
        self.assertIsNone(self.board.watch(None))

    def test_known(self) -> None:
        """What is known is there; the scheduler gets it as it is (SMTP)."""
        expectation = self.board.expect(self.work, False)
        watched = self.board.watch(self.stage)
        self.assertTrue(verifyObject(IDeliveryStage, watched))
        self.assertEqual(watched.destination(self.people[0].recipient), "here")
        found = self.deliver(Delivered(), FULL, NEVER)
        self.assertEqual(list(found.values()), [Delivered(), FULL, NEVER])
        self.successResultOf(expectation.done)
        self.assertEqual(expectation.outcomes, {0: Delivered(), 1: FULL, 2: NEVER})
        self.assertIs(self.board.watch(self.stage), self.stage)

    def test_handedBack(self) -> None:
        """Who is refused over LMTP is the client's again: no retry, no notice (RFC 2033)."""
        self.board.expect(self.work, True)
        found = self.deliver(Delivered(), FULL, NEVER)
        self.assertEqual(
            list(found.values()),
            [Delivered(), Failed(FULL.reply, told=True), Failed(NEVER.reply, told=True)],
        )

    def test_groups(self) -> None:
        """Several deliveries of one message: it ends with the last one."""
        expectation = self.board.expect(self.work, True)
        self.deliver(Delivered(), people=self.people[:1])
        self.assertNoResult(expectation.done)
        self.deliver(FULL, NEVER, people=self.people[1:])
        self.successResultOf(expectation.done)

    def test_tooLate(self) -> None:
        """Once nobody waits, a refusal goes its usual way."""
        expectation = self.board.expect(self.work, True)
        watched, self.stage.result = self.board.watch(self.stage), Deferred()
        d = watched.deliver(self.work.message, self.work.envelope, self.people)
        expectation.end()
        self.stage.result.callback({self.people[0]: FULL})
        self.assertEqual(self.successResultOf(d), {self.people[0]: FULL})
        self.assertEqual(expectation.outcomes, {})

    def test_failure(self) -> None:
        """A stage that fails, or answers nonsense, leaves its recipients in the queue."""
        expectation = self.board.expect(self.work, True)
        watched, self.stage.result = self.board.watch(self.stage), fail(StageError("broken"))
        d = watched.deliver(self.work.message, self.work.envelope, self.people)
        self.failureResultOf(d, StageError)
        self.successResultOf(expectation.done)
        self.assertEqual(expectation.outcomes, {})
        expectation = self.board.expect(self.work, True)
        watched, self.stage.result = self.board.watch(self.stage), succeed(None)
        watched.deliver(self.work.message, self.work.envelope, self.people)
        expectation.end()
        self.assertEqual(expectation.outcomes, {})
