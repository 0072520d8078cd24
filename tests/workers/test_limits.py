"""
What there may be over all workers.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import LineError
from deferrals.spool.memory import MemorySpool
from deferrals.workers import limits as module
from deferrals.workers.limits import COUNT_SECONDS, LimitsRegister, WorkerLimits
from deferrals.workers.line import BEAT_SECONDS, WorkerLine
from tests.workers import contracts
from tests.workers.wires import Wire, settle

STEPS = ("enter", "enter", "leave", "carry", "cancel", "kill", "stop", "spend")


class Counting:
    """
    A parent and its workers, in one process.
    """

    def __init__(self, number: int = 3) -> None:
        self.clock = Clock()
        self.clock.advance(1e9)
        self.spools = [MemorySpool(self.clock) for _ in range(number)]
        self.wires: dict[int, Wire] = {}
        self.limits: dict[int, WorkerLimits] = {}
        self.startParent()

    def startParent(self) -> None:
        """
        All begins anew, but for the spools.
        """
        for worker in list(self.wires):
            self.stop(worker)
        self.register = LimitsRegister(self.clock)
        for worker in range(len(self.spools)):
            self.start(worker)

    def start(self, worker: int) -> Deferred[None]:
        parent = WorkerLine(self.clock, lost=lambda _: self.register.detach(worker))
        mine = WorkerLine(self.clock)
        self.wires[worker] = Wire(self.clock, parent, mine)
        self.register.attach(worker, parent)
        limits = self.limits[worker] = WorkerLimits(self.clock, mine)
        limits.keepIn(self.spools[worker])
        loaded = limits.load()
        self.settle()
        return loaded

    def stop(self, worker: int) -> None:
        self.limits[worker].close()
        self.kill(worker)

    def kill(self, worker: int) -> None:
        self.wires.pop(worker).lose()
        timer = self.limits.pop(worker)._timer
        if timer is not None and timer.active():
            timer.cancel()

    def settle(self) -> None:
        settle(self.clock, *self.wires.values())

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / BEAT_SECONDS)):
            self.clock.advance(BEAT_SECONDS)
            self.settle()


class ThreeTests(contracts.LimitsContract):
    """
    The contract, for three workers.
    """

    def setUp(self) -> None:
        self.counting = Counting()
        self.clock = self.counting.clock
        self.limits = list(self.counting.limits.values())

    def settle(self) -> None:
        self.counting.settle()


class CountingTests(SynchronousTestCase):
    """
    L{LimitsRegister} and L{WorkerLimits}.
    """

    def setUp(self) -> None:
        self.counting = Counting()

    def enter(self, worker: int, most: int = 2) -> Any:
        d = self.counting.limits[worker].enter("n", "k", most)
        self.counting.settle()
        return self.successResultOf(d)

    def spend(self, worker: int, amount: int) -> Any:
        d = self.counting.limits[worker].spend("s", "a key", amount, 5, 3600)
        self.counting.settle()
        return self.successResultOf(d)

    def test_dies(self) -> None:
        """What a worker has entered is left when it ends; what it has spent is spent."""
        self.assertEqual([self.enter(0), self.enter(0), self.enter(1)], [True, True, False])
        self.spend(0, 5)
        self.counting.kill(0)
        self.assertEqual([self.enter(1), self.spend(1, 1)], [True, False])
        self.counting.start(0)
        self.assertFalse(self.spend(0, 1))

    def test_parentRestarts(self) -> None:
        """When all begin anew what was spent is spent, of all workers together."""
        self.patch(module, "PIECE", 1)
        self.assertTrue(self.spend(0, 2))
        self.assertTrue(self.spend(1, 2))
        self.counting.startParent()
        self.assertEqual([self.spend(2, 2), self.spend(2, 1)], [False, True])

    def test_toldOnce(self) -> None:
        """A worker that starts again is not counted twice, even if it died in the middle."""
        self.spend(0, 2)
        for worker in (1, 2):
            self.counting.kill(worker)
        for _ in range(3):
            self.counting.stop(0)
            self.counting.start(0)
        self.assertTrue(self.spend(0, 3))
        self.counting.register = LimitsRegister(self.counting.clock)
        self.counting.stop(0)
        parent = WorkerLine(self.counting.clock)
        self.counting.register.attach(0, parent)
        self.counting.register._tell(0, [("s", "a key", 3600.0, [(0.0, 5)])])
        self.counting.register.detach(0)
        self.counting.start(0)
        self.counting.start(1)
        self.assertEqual(
            [self.spend(1, 1), self.spend(0, -1), self.spend(1, 1)], [False, True, True]
        )

    def test_keptByItsWorker(self) -> None:
        """Each worker keeps what it has spent itself."""
        self.spend(0, 2)
        self.spend(1, 3)
        self.assertEqual(
            [one.used("s") for one in self.counting.limits.values()],
            [{"a key": 2}, {"a key": 3}, {}],
        )

    def test_adopted(self) -> None:
        """What a worker had spent that there is no longer is another's, and counts once."""
        self.spend(2, 3)
        self.counting.stop(2)
        self.counting.register = LimitsRegister(self.counting.clock)
        for worker in (0, 1):
            self.counting.stop(worker)
            self.counting.start(worker)
        left = self.counting.spools[2]
        done = Deferred.fromCoroutine(self.counting.limits[0].adopt(left))
        self.counting.settle()
        self.successResultOf(done)
        self.assertEqual(self.successResultOf(left.notes()), {})
        self.assertEqual([self.spend(1, 3), self.spend(1, 2)], [False, True])
        self.assertEqual(self.counting.limits[0].used("s"), {"a key": 3})
        self.counting.stop(0)
        self.assertEqual(len(self.successResultOf(self.counting.spools[0].notes())), 1)

    def test_waits(self) -> None:
        """Nothing is spent before the parent knows what was."""
        self.spend(0, 3)
        self.counting.startParent()
        self.counting.stop(0)
        limits = self.counting.limits[0] = WorkerLimits(self.counting.clock, WorkerLine(Clock()))
        limits.keepIn(self.counting.spools[0])
        d = limits.spend("s", "a key", 1, 5, 3600)
        self.assertNoResult(d)
        errors: list[str] = []
        self.patch(module._log, "error", lambda text, **_: errors.append(text))
        self.successResultOf(limits.load())
        self.failureResultOf(d, LineError)
        self.assertEqual(len(errors), 1)

    def test_noAnswer(self) -> None:
        """Without an answer a question fails; whatever came of it is undone."""
        self.counting.wires[0].stopped = True
        entering = self.counting.limits[0].enter("n", "k", 2)
        spending = self.counting.limits[0].spend("s", "a key", 1, 5, 3600)
        self.counting.wait(COUNT_SECONDS + BEAT_SECONDS)
        self.failureResultOf(entering, TimeoutError)
        self.failureResultOf(spending, TimeoutError)
        self.counting.wires[0].stopped = False
        self.counting.settle()
        self.assertEqual([self.enter(1), self.enter(2), self.enter(0)], [True, True, False])

    def test_cancelled(self) -> None:
        """A connection that ends before it is known whether it may be is not counted."""
        for carried in (False, True):
            d = self.counting.limits[0].enter("n", "k", 1)
            if carried:
                self.counting.clock.advance(0)
                self.counting.wires[0].carry()
            d.cancel()
            self.failureResultOf(d, CancelledError)
            self.counting.settle()
            self.assertEqual(self.counting.register._limits._entered, {})
        self.assertTrue(self.enter(1, 1))

    @given(st.data())
    @settings(deadline=None, max_examples=60)
    def test_exact(self, data: st.DataObject) -> None:
        """
        Whatever happens in whatever order, never more are in than may be, as far as
        workers live that say so; and in the end what the parent counts is what they have.
        """
        counting = Counting()
        most, spent = 3, 0
        pending: list[Deferred[Any]] = []
        for _ in range(data.draw(st.integers(0, 30))):
            what = data.draw(
                st.sampled_from(
                    ["enter", "enter", "leave", "carry", "cancel", "kill", "stop", "spend"]
                )
            )
            worker = data.draw(st.integers(0, 2))
            limits = counting.limits[worker]
            if what == "enter":
                pending.append(limits.enter("n", "k", most))
                pending[-1].addErrback(lambda failure: failure.trap(LineError, CancelledError))
            elif what == "leave" and limits._in.get(("n", "k")):
                limits.leave("n", "k")
            elif what == "cancel" and pending:
                pending.pop().cancel()
            elif what == "carry":
                counting.clock.advance(0)
                counting.wires[worker].carry()
            elif what == "kill":
                counting.kill(worker)
                counting.start(worker)
            elif what == "stop":
                counting.wires[worker].stopped = not counting.wires[worker].stopped
            elif what == "spend":
                found: list[bool] = []
                limits.spend("s", "k", 1, 5, 3600).addCallback(found.append).addErrback(
                    lambda failure: failure.trap(LineError)
                )
                counting.settle()
                spent += found == [True]
            entered = counting.register._limits._entered.get(("n", "k"), 0)
            self.assertLessEqual(entered, most)
        for wire in counting.wires.values():
            wire.stopped = False
        counting.settle()
        self.assertLessEqual(spent, 5)
        have = Counter(
            {key: len(found) for one in counting.limits.values() for key, found in one._in.items()}
        )
        total = sum(len(one._in.get(("n", "k"), ())) for one in counting.limits.values())
        self.assertEqual(counting.register._limits._entered.get(("n", "k"), 0), total, have)
