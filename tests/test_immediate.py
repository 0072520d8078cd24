"""
Delivery first, then the answer (S-6).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.errors import StageError
from deferrals.interfaces import IDeliveryStage, Work
from deferrals.model.deliveryreport import MAX_LINES, resultLine, shortened
from deferrals.model.reply import Reply
from deferrals.model.verdict import Delivered, Failed, Refuse, Retry
from deferrals.relay.board import Board
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage
from tests.harness import Bench

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


class SessionTests(SynchronousTestCase):
    """
    A session whose listener has C{enumerate = "delivery"}.
    """

    outcome: Any = None

    def start(self, *locals: str, sender: str = "<me@client.test>", **settings: Any) -> list[str]:
        self.board = Board()
        self.bench = Bench(backend={"attempt": self.attempt, "deliverySeconds": 20.0}, **settings)
        lmtp = settings.get("protocol") == "lmtp"
        self.bench.content.verdicts["spammed@x.example"] = Refuse(Reply(550, "5.7.1", "spam"))
        self.bench.say("LHLO c" if lmtp else "EHLO c", f"MAIL FROM:{sender}")
        for local in locals:
            self.bench.envelope.verdicts[f"{local}@x.example"] = (
                "defer" if local == "spammed" else "accept"
            )
            self.bench.say(f"RCPT TO:<{local}@x.example>")
        return self.bench.say("DATA", "Subject: x", "", "hello", ".")[1:]

    def attempt(self, work: Work, handsBack: bool) -> Any:
        self.work, self.handsBack = work, handsBack
        self.expectation = self.board.expect(work, handsBack)
        self.bench._release(work)
        if self.outcome is not None:
            found = dict.fromkeys(work.addressees, self.outcome)
            self.board.posted(work.envelope.transaction, list(found), found)
        return self.expectation

    def post(self, *outcomes: Any) -> list[str]:
        found = dict(zip(self.work.addressees, outcomes, strict=True))
        self.board.posted(self.work.envelope.transaction, list(found), found)
        return self.bench.take().decode().splitlines()

    def test_smtp(self) -> None:
        """
        Responsibility first, then the results of delivery, enumerated in one
        multi-line 250 (S-6).
        """
        said = self.start("one", "two", "three")
        self.assertEqual(said, [])
        self.assertEqual(len(self.bench.released), 3)
        first, *lines = self.post(Delivered(), FULL, NEVER)
        self.assertTrue(first.startswith("250-2.6.0 message accepted, id "), first)
        self.assertEqual(
            lines,
            [
                "250-2.6.0 <one@x.example> delivered",
                "250-2.6.0 <two@x.example> queued for retry: 452 4.2.2 the mailbox is full",
                "250 2.6.0 <three@x.example> refused, a notice is on its way:"
                " 550 5.6.0 no such content",
            ],
        )
        self.assertFalse(self.handsBack)
        self.assertEqual(len(self.bench.works), 1)
        self.assertEqual(self.bench.say("NOOP"), ["250 2.0.0 ok"])

    def test_atOnce(self) -> None:
        """A delivery that has ended before anybody could wait for it."""
        self.outcome = Delivered()
        (said,) = self.start("one", protocol="lmtp")
        self.assertEqual(said, "250 2.1.5 <one@x.example> delivered")
        self.assertEqual(self.bench.say("NOOP"), ["250 2.0.0 ok"])

    def test_lmtp(self) -> None:
        """LMTP: one reply for each, and whoever is refused is the client's (RFC 2033 §4.2)."""
        self.start("one", "two", "three", protocol="lmtp")
        self.assertTrue(self.handsBack)
        with capturedLogs() as logged:
            said = self.post(Delivered(), FULL, NEVER)
        self.assertEqual(
            said,
            [
                "250 2.1.5 <one@x.example> delivered",
                "452 4.2.2 <two@x.example> the mailbox is full",
                "550 5.6.0 <three@x.example> no such content",
            ],
        )
        # Nor does the log speak of notices and retries that there are not.
        text = "".join(map(formatEvent, logged))
        self.assertIn("message accepted", text)
        self.assertNotRegex(text, "notice|queued")

    def test_contentToo(self) -> None:
        """Who refuses on content is never delivered, and has its own reply."""
        said = self.start("one", "spammed", protocol="lmtp")
        self.assertEqual((said, self.bench.released), ([], ["one@x.example"]))
        self.assertEqual(
            self.post(Delivered()),
            [
                "250 2.1.5 <one@x.example> delivered",
                "550 5.7.1 <spammed@x.example> spam",
            ],
        )

    def test_twice(self) -> None:
        """A mailbox that was named twice is delivered once, and answered twice."""
        self.start("one", "one", protocol="lmtp")
        self.assertEqual(self.post(FULL), ["452 4.2.2 <one@x.example> the mailbox is full"] * 2)

    def test_deadline(self) -> None:
        """What is not known in time is in the queue, and that is the answer."""
        for protocol, wanted in (
            ("smtp", "250 2.6.0 <one@x.example> queued"),
            ("lmtp", "250 2.1.5 <one@x.example> queued, not delivered yet"),
        ):
            self.start("one", protocol=protocol)
            self.bench.clock.advance(19)
            self.assertEqual(self.bench.take(), b"")
            self.bench.clock.advance(1)
            self.assertEqual(self.bench.take().decode().splitlines()[-1], wanted)
            found = {self.work.addressees[0]: NEVER}
            self.assertIs(self.board.posted(self.work.envelope.transaction, [], found), found)

    def test_replyDeadline(self) -> None:
        """Never longer than C{reply_deadline} (D-25)."""
        self.start("one", limits={"replyDeadlineSeconds": 5.0})
        self.bench.clock.advance(5)
        self.assertIn("queued", self.bench.take().decode())

    def test_lost(self) -> None:
        """A client that is gone meanwhile: the message is ours, and goes its usual way."""
        self.start("one", protocol="lmtp")
        self.bench.lose()
        self.assertEqual(self.bench.spool.abandoned, [])
        found = {self.work.addressees[0]: NEVER}
        self.assertIs(self.board.posted(self.work.envelope.transaction, [], found), found)
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_shutdown(self) -> None:
        """A server that stops says what it knows."""
        self.start("one", "two")
        self.expectation.outcomes[0] = Delivered()
        self.bench.session._postData.giveUp(Reply(421, "4.3.2", "stopping"))
        said = self.bench.take().decode()
        self.assertIn("<one@x.example> delivered", said)
        self.assertIn("<two@x.example> queued", said)

    def test_nullSender(self) -> None:
        """Nobody is told that a notice is on its way when there is none."""
        self.start("one", sender="<>")
        self.assertEqual(
            self.post(NEVER)[-1], "250 2.6.0 <one@x.example> refused: 550 5.6.0 no such content"
        )


class LineTests(SynchronousTestCase):
    """
    The lines.
    """

    def test_notify(self) -> None:
        """NOTIFY=NEVER means no notice."""
        self.assertNotIn("notice", resultLine("a@b.c", NEVER, frozenset({"NEVER"}), True))

    def test_many(self) -> None:
        """No client is asked to read thousands of lines."""
        lines = shortened([f"line {number}" for number in range(1000)])
        self.assertEqual((len(lines), lines[-1]), (MAX_LINES, "and 801 more recipients"))
        self.assertEqual(shortened(["one"]), ["one"])
