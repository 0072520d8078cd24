"""
Tests for L{deferrals.server.storelimits}; those with a real database are in
L{tests.integration.test_cluster_limits}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.errors import OutcomeUnknown, StoreAway
from deferrals.interfaces import ILimits
from deferrals.server.company import Company
from deferrals.server.limits import SharedLimits
from deferrals.server.storelimits import (
    ANSWER_SECONDS,
    REST_SECONDS,
    TRIM_SECONDS,
    TRIM_SPENT,
    StoreLimits,
)
from deferrals.spool.postgresql import spending
from deferrals.spool.postgresql.owners import Living


class _Connection:
    """
    Notes what it is asked for.

    @ivar answer: makes an answer.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answer: Callable[[], Deferred[Any]] = lambda: succeed(True)

    def alone(self, *asked: Any) -> Deferred[Any]:
        self.asked.append(asked)
        return self.answer()

    run = alone


class StoreLimitsTests(SynchronousTestCase):
    """
    L{StoreLimits}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.connection = _Connection()
        connection: Any = self.connection
        self.company = Company()
        self.own = SharedLimits(self.clock)
        self.limits = StoreLimits(self.own, connection, self.clock, self.company)
        self.said: list[Any] = []
        globalLogPublisher.addObserver(self.said.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.said.append)

    def spend(self, amount: int, most: int = 5) -> bool:
        return self.successResultOf(self.limits.spend("n", "k", amount, most, 60))

    def enter(self, limit: str = "per", most: int = 8) -> bool:
        return self.successResultOf(self.limits.enter(limit, "k", most))

    def states(self) -> list[str]:
        """
        What was logged.
        """
        return [event["state"] for event in self.said if event.get("event") == "limits"]

    def test_interface(self) -> None:
        """They are what stages are promised."""
        self.assertTrue(verifyObject(ILimits, self.limits))

    def test_spent(self) -> None:
        """It is spent for all; what is too much for one machine is not asked for."""
        self.assertTrue(self.spend(4))
        self.assertEqual(self.connection.asked, [(spending.spend, "n", "k", 4, 5, 60)])
        self.assertFalse(self.spend(2))
        self.assertEqual(len(self.connection.asked), 1)
        self.assertTrue(self.spend(-4))
        self.assertEqual(self.connection.asked[1:], [(spending.spend, "n", "k", -4, 5, 60)])

    def test_refused(self) -> None:
        """What the database says no to is not spent here, either."""
        self.connection.answer = lambda: succeed(False)
        for amount in (3, 0):
            self.assertFalse(self.spend(amount))
        self.assertEqual(self.limits.used("n"), {})
        self.connection.answer = lambda: succeed(True)
        self.assertTrue(self.spend(5))
        self.assertEqual(self.limits.used("n"), {"k": 5})

    def test_away(self) -> None:
        """Without the database this machine's own count stands; that is said once."""
        self.connection.answer = lambda: fail(StoreAway("gone"))
        self.assertEqual([self.spend(2) for _ in range(3)], [True, True, False])
        self.assertEqual(self.states(), ["away"])
        self.connection.answer = lambda: succeed(True)
        self.spend(0)
        self.spend(1)
        self.assertEqual(self.states(), ["away", "back"])

    def test_late(self) -> None:
        """An answer is not waited for any longer than two seconds."""
        self.connection.answer = Deferred
        d = self.limits.spend("n", "k", 1, 5, 60)
        self.clock.advance(ANSWER_SECONDS - 0.1)
        self.assertNoResult(d)
        self.clock.advance(0.1)
        self.assertTrue(self.successResultOf(d))
        self.assertEqual(self.states(), ["away"])
        self.assertLessEqual(ANSWER_SECONDS, 2)
        self.connection.answer = lambda: succeed(True)
        self.assertTrue(self.spend(1))
        self.assertEqual(len(self.connection.asked), 1)
        self.clock.advance(REST_SECONDS)
        self.assertTrue(self.spend(1))
        self.assertEqual((len(self.connection.asked), self.states()), (2, ["away", "back"]))

    def test_givenBackLate(self) -> None:
        """
        What could not be given back is given back as soon as the database answers: a
        password that was right is no failure, however long it was silent.
        """
        self.spend(1)
        self.connection.answer = Deferred
        d = self.limits.spend("n", "k", -1, 5, 60)
        self.clock.advance(ANSWER_SECONDS)
        self.successResultOf(d)
        self.connection.answer = lambda: fail(StoreAway("gone"))
        self.clock.pump([REST_SECONDS] * 3)
        asked = len(self.connection.asked)
        self.connection.answer = lambda: succeed(True)
        self.clock.pump([REST_SECONDS] * 2)
        self.assertEqual(self.connection.asked[asked:], [(spending.spend, "n", "k", -1, 0, 60)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_neverTold(self) -> None:
        """What the database was never told of is not given back there."""
        self.connection.answer = lambda: fail(StoreAway("gone"))
        self.spend(2)
        self.connection.answer = lambda: succeed(True)
        asked = len(self.connection.asked)
        self.spend(-1)
        self.assertEqual(self.connection.asked[asked:], [])
        self.spend(-2)
        self.assertEqual(self.connection.asked[asked:], [(spending.spend, "n", "k", -1, 5, 60)])

    def test_maybeTold(self) -> None:
        """What it may have heard is given back there; twice is nothing."""
        self.connection.answer = lambda: fail(OutcomeUnknown("lost"))
        self.spend(1)
        self.spend(-1)
        asked = len(self.connection.asked)
        self.clock.advance(REST_SECONDS)
        self.assertEqual(self.connection.asked[asked:], [(spending.spend, "n", "k", -1, 0, 60)])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.spend(-1)
        self.limits.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_alone(self) -> None:
        """A machine that is alone asks nothing of what is there at once."""
        self.company.heard(1, Living(4, 1))
        self.assertEqual([self.enter() for _ in range(9)], [True] * 8 + [False])
        self.limits.leave("per", "k")
        self.assertTrue(self.enter())
        self.assertEqual(self.connection.asked, [])

    def test_divided(self) -> None:
        """All connections are divided by the machines that live, without a question."""
        self.company.heard(1, Living(4, 2))
        entered = [self.enter("connections") for _ in range(5)]
        self.assertEqual(entered, [True] * 4 + [False])
        self.company.heard(1, Living(2, 1))
        self.assertEqual([self.enter("connections") for _ in range(4)], [True] * 4)
        self.company.heard(1, Living(20, 20))
        self.assertTrue(self.successResultOf(self.limits.enter("connections", "other", 8)))
        self.assertEqual(self.connection.asked, [])

    def test_common(self) -> None:
        """A quarter is divided, and costs no question; the rest is for all."""
        self.company.heard(7, Living(2, 2))
        self.assertEqual([self.enter() for _ in range(3)], [True] * 3)
        asked = [(spending.enter, 7, "per", "k", mine, 6) for mine in (1, 2)]
        self.assertEqual(self.connection.asked, asked)
        self.connection.answer = lambda: succeed(False)
        self.assertFalse(self.enter())
        self.connection.answer = lambda: succeed(None)
        for mine in (1, 0):
            self.limits.leave("per", "k")
            self.assertEqual(self.connection.asked[-1], (spending.settle, 7, "per", "k", mine))
        asked = [*self.connection.asked]
        self.limits.leave("per", "k")
        self.assertEqual((self.connection.asked, self.own._entered), (asked, {}))

    def test_commonAway(self) -> None:
        """
        Without the database this machine's own count stands for that, too; what others were
        not told they are told later.
        """
        self.company.heard(7, Living(2, 2))
        self.assertEqual([self.enter() for _ in range(3)], [True] * 3)
        self.connection.answer = lambda: fail(StoreAway("gone"))
        entered = [self.enter() for _ in range(7)]
        self.assertEqual(entered, [True] * 5 + [False] * 2)
        self.limits.leave("per", "k")
        self.connection.answer = lambda: succeed(None)
        del self.connection.asked[:]
        self.limits.start()
        self.clock.advance(TRIM_SECONDS)
        (settled, trimmed) = self.connection.asked
        self.assertEqual(settled, (spending.settle, 7, "per", "k", 6))  # what it let in, too
        self.assertEqual(trimmed[0], spending.trim)
        self.clock.advance(TRIM_SECONDS)
        self.assertEqual(len(self.connection.asked), 3)
        self.limits.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def settled(self) -> list[int]:
        """
        What others were told.
        """
        return [asked[-1] for asked in self.connection.asked if asked[0] is spending.settle]

    def test_machinesChange(self) -> None:
        """
        Who was let in counts when another machine comes or goes, however that was; and so
        does that it has left.
        """
        self.company.heard(7, Living(1, 1))
        self.assertEqual([self.enter() for _ in range(9)], [True] * 8 + [False])
        self.company.heard(7, Living(2, 2))
        self.assertEqual(self.settled(), [7])
        self.connection.answer = lambda: succeed(False)
        self.assertFalse(self.enter())
        self.assertEqual(self.connection.asked[-1], (spending.enter, 7, "per", "k", 8, 6))
        self.limits.leave("per", "k")
        self.assertEqual(self.settled(), [7, 6])
        self.company.heard(7, Living(1, 1))
        self.assertEqual([self.enter() for _ in range(2)], [True, False])

    def test_goneMachine(self) -> None:
        """What was let in together with another machine counts when that is gone."""
        self.company.heard(7, Living(2, 2))
        self.assertEqual([self.enter() for _ in range(7)], [True] * 7)
        self.company.heard(7, Living(1, 1))
        self.assertEqual([self.enter() for _ in range(2)], [True, False])

    def test_untold(self) -> None:
        """What one answer has told stays untold where a later one is not heard."""
        self.company.heard(7, Living(2, 2))
        self.assertEqual([self.enter() for _ in range(3)], [True] * 3)
        answers: list[Deferred[None]] = [Deferred(), Deferred()]
        for answer in answers:
            self.connection.answer = lambda answer=answer: answer
            self.limits.leave("per", "k")
        answers[0].callback(None)
        answers[1].errback(StoreAway("gone"))
        self.connection.answer = lambda: succeed(None)
        self.limits.start()
        self.clock.advance(TRIM_SECONDS)
        self.assertEqual(self.settled()[-1], 0)
        self.assertEqual(len(self.settled()), 3)
        self.limits.stop()

    def test_leftMeanwhile(self) -> None:
        """Who leaves while another one waits for an answer leaves this machine's own part."""
        self.company.heard(7, Living(2, 2))
        self.assertTrue(self.enter())
        answer: Deferred[bool] = Deferred()
        self.connection.answer = lambda: answer
        d = self.limits.enter("per", "k", 8)
        self.limits.leave("per", "k")
        answer.callback(False)
        self.assertFalse(self.successResultOf(d))
        self.assertEqual((self.own._entered, dict(self.limits._common)), ({}, {}))

    def test_gone(self) -> None:
        """Who does not wait for the answer has not entered."""
        self.company.heard(7, Living(2, 2))
        self.assertTrue(self.enter())
        answer: Deferred[bool] = Deferred()
        self.connection.answer = lambda: answer
        d = self.limits.enter("per", "k", 8)
        self.connection.answer = lambda: succeed(None)
        d.cancel()
        self.failureResultOf(d)
        self.assertEqual(self.connection.asked[-1], (spending.settle, 7, "per", "k", 0))

    def test_woken(self) -> None:
        """Who has another number among the owners tells the others what it has."""
        self.company.heard(7, Living(2, 2))
        self.assertEqual([self.enter() for _ in range(2)], [True] * 2)
        self.company.heard(9, Living(2, 2))
        self.limits.start()
        self.clock.advance(TRIM_SECONDS)
        self.assertIn((spending.settle, 9, "per", "k", 1), self.connection.asked)
        self.limits.stop()

    def test_unknown(self) -> None:
        """Before it is known who lives, this machine's own count stands."""
        self.assertEqual([self.enter() for _ in range(9)], [True] * 8 + [False])

    def test_trimmed(self) -> None:
        """After so many that were spent, what is too much goes."""
        for _ in range(TRIM_SPENT):
            self.spend(0)
        trims = [asked for asked in self.connection.asked if asked[0] is spending.trim]
        self.assertEqual(len(trims), 1)
