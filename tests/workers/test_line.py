"""
What is said between the parent and a worker.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import DeferralsError, LineError
from deferrals.model.json import JSON
from deferrals.workers import line as module
from deferrals.workers.line import BEAT_SECONDS, MAX_OCTETS, WorkerLine, _Arrays, _Waiting
from tests.work import linesRun
from tests.workers.wires import End, pair, settle

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _hear(heard: list[tuple[str, list[JSON]]], name: str, *args: JSON) -> list[JSON]:
    heard.append((name, list(args)))
    return list(args)


class LineTests(SynchronousTestCase):
    """
    L{WorkerLine}.
    """

    def setUp(self) -> None:
        self.clock = Clock()

    def pair(self, **handlers: Any) -> None:
        self.line, self.other, self.wire = pair(self.clock, handlers)

    def settle(self) -> None:
        settle(self.clock, self.wire)

    def test_answers(self) -> None:
        """A handler returns a value, a Deferred, or is a coroutine."""
        later: Deferred[str] = Deferred()

        async def third(one: int) -> int:
            return one + 1

        self.pair(first=lambda *args: list(args), second=lambda: later, third=third)
        ds = [self.line.ask("first", 1, "ü\n"), self.line.ask("second"), self.line.ask("third", 2)]
        self.settle()
        self.assertEqual(self.successResultOf(ds[0]), [1, "ü\n"])
        self.assertNoResult(ds[1])
        self.assertEqual(self.successResultOf(ds[2]), 3)
        later.callback("there")
        self.settle()
        self.assertEqual(self.successResultOf(ds[1]), "there")

    def test_both(self) -> None:
        """Either end may ask, also in the middle of an answer."""
        self.pair(outer=lambda: self.other.ask("inner").addCallback(lambda one: [one]))
        self.line.handle("inner", lambda: "in")
        d = self.line.ask("outer")
        self.settle()
        self.assertEqual(self.successResultOf(d), ["in"])

    def test_errors(self) -> None:
        """What is meant for people comes back as it is; what is a fault is logged once."""

        def refused() -> None:
            raise DeferralsError("there is none")

        def wrong() -> None:
            raise KeyError("key")

        def bad() -> None:
            raise ValueError("no such command")

        logged: list[str] = []
        self.patch(module._log, "raised", lambda *_, stage: logged.append(stage))
        self.pair(refused=refused, wrong=wrong, bad=bad)
        ds = [self.line.ask(name) for name in ("refused", "wrong", "bad", "unknown")]
        self.settle()
        errors = [self.failureResultOf(d, DeferralsError).value for d in ds]
        self.assertEqual(
            [str(one) for one in errors],
            ["there is none", "'key'", "no such command", "no such question: unknown"],
        )
        self.assertEqual([isinstance(one, LineError) for one in errors], [False, True, False, True])
        self.assertEqual(logged, ["wrong"])

    def test_told(self) -> None:
        """What is told has no answer, and its faults stay where they are."""
        heard: list[int] = []
        self.pair(count=heard.append, wrong=lambda: 1 // 0)
        logged: list[str] = []
        self.patch(module._log, "raised", lambda *_, stage, **__: logged.append(stage))
        self.patch(module._log, "error", lambda text, **_: logged.append(text))
        self.line.tell("count", 1)
        self.line.tell("wrong")
        self.line.tell("unknown")
        self.line.tell("count", 2)
        self.settle()
        self.assertEqual(heard, [1, 2])
        self.assertEqual(logged, ["wrong", "no such word on the line: {name}"])

    def test_silence(self) -> None:
        """An answer may take long where the other end lives, and not where it says nothing."""
        self.pair(never=lambda: Deferred())
        for isStopped in (False, True):
            self.wire.stopped = isStopped
            d = self.line.ask("never", seconds=100, silent=5)
            for _ in range(int(6 / BEAT_SECONDS)):
                self.clock.advance(BEAT_SECONDS)
                self.settle()
            if isStopped:
                self.failureResultOf(d, TimeoutError)
            else:
                self.assertNoResult(d)
                d.cancel()
                self.failureResultOf(d, CancelledError)

    def test_oneWrite(self) -> None:
        """All of one turn is one array and one write, and so are the answers to it."""
        self.pair(one=lambda: 1)
        self.settle()
        self.wire.ends[0].writes.clear()
        self.wire.ends[1].writes.clear()
        for _ in range(50):
            self.line.ask("one")
        self.line.tell("one")
        self.settle()
        for end, count in zip(self.wire.ends, (51, 50), strict=True):
            (written,) = end.writes
            self.assertEqual(len(json.loads(written)), count)

    def test_deadline(self) -> None:
        """An answer that is late is not heard, and what works on it is cancelled."""
        cancelled: list[Deferred[None]] = []
        self.pair(slow=lambda: Deferred(cancelled.append))
        d = self.line.ask("slow", seconds=3)
        self.settle()
        self.clock.advance(2.9)
        self.assertNoResult(d)
        self.clock.advance(BEAT_SECONDS)
        self.failureResultOf(d, TimeoutError)
        self.settle()
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(self.other._answering, {})
        self.assertEqual(self.line._asked, {})

    def test_cancelled(self) -> None:
        """A caller that leaves ends what works for it, and no answer is said."""
        self.pair(slow=lambda: Deferred(lambda d: d.callback("all the same")))
        d = self.line.ask("slow")
        self.settle()
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.settle()
        self.assertEqual((self.line._asked, self.other._answering), ({}, {}))

    def test_cancelledBefore(self) -> None:
        """Whoever leaves in the same turn has asked nothing that goes on."""
        self.pair(slow=lambda: Deferred())
        self.line.ask("slow").addErrback(lambda _: None).cancel()
        self.settle()
        self.assertEqual(self.other._answering, {})

    def test_lost(self) -> None:
        """When the line is gone all that is asked fails, what is answered is cancelled."""
        reasons: list[Any] = []
        cancelled: list[Any] = []
        self.pair(slow=lambda: Deferred(cancelled.append))
        self.line._lost = reasons.append
        d = self.line.ask("slow")
        self.settle()
        self.wire.lose()
        self.failureResultOf(d, LineError)
        self.assertEqual((len(cancelled), len(reasons)), (1, 1))
        self.failureResultOf(self.line.ask("slow"), LineError)
        self.line.tell("slow")
        self.line.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_beats(self) -> None:
        """An end that has nothing to say is heard all the same; one that is stopped is not."""
        self.pair()
        for _ in range(20):
            self.clock.advance(BEAT_SECONDS)
            self.wire.carry()
        self.assertEqual(self.line.silentSeconds, 0)
        self.wire.stopped = True
        for _ in range(20):
            self.clock.advance(BEAT_SECONDS)
            self.wire.carry()
        self.assertEqual(self.line.silentSeconds, 20 * BEAT_SECONDS)

    def test_stoodStill(self) -> None:
        """Who stood still (SIGSTOP) has not listened: the other end was not silent."""
        self.pair()
        self.clock.advance(600)
        self.assertLessEqual(self.line.silentSeconds, BEAT_SECONDS)

    def test_descriptors(self) -> None:
        """Descriptors come with what is asked; each belongs to its message."""
        got: list[list[int]] = []
        self.pair(
            take=lambda name, descriptors=(): got.append([name, *descriptors]), none=lambda: None
        )
        ends = [os.pipe() for _ in range(3)]
        mine = [one for end in ends for one in end]
        self.addCleanup(lambda: [os.close(one) for one in mine])
        self.line.ask("take", "two", descriptors=mine[:2])
        self.line.ask("none")
        self.line.ask("take", "none")
        self.line.ask("take", "one", descriptors=mine[2:3])
        self.settle()
        self.assertEqual([one[0] for one in got], ["two", "none", "one"])
        found = [descriptor for one in got for descriptor in one[1:]]
        same = [
            os.path.samestat(os.fstat(a), os.fstat(b)) for a, b in zip(found, mine, strict=False)
        ]
        self.assertEqual(same, [True] * 3)
        self.assertFalse(any(map(os.get_inheritable, found)))
        for one in found:
            os.close(one)

    def test_descriptorsUnclaimed(self) -> None:
        """Descriptors that no message takes are closed."""
        self.pair()
        mine = os.pipe()
        self.addCleanup(lambda: [os.close(one) for one in mine])
        spare = os.dup(mine[0])
        self.line.ask("unknown", descriptors=[mine[0]]).addErrback(lambda _: None)
        before = len(os.listdir("/proc/self/fd"))
        self.settle()  # it was copied, and the copy is closed
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.other.fileDescriptorReceived(spare)
        self.wire.lose()
        self.assertRaises(OSError, os.fstat, spare)

    def test_tooLong(self) -> None:
        """What does not fit is an error of who says it; the line goes on."""
        self.pair(large=lambda: "x" * MAX_OCTETS, small=lambda: 1)
        self.failureResultOf(self.line.ask("small", "x" * MAX_OCTETS), LineError)
        self.assertRaises(LineError, self.line.tell, "small", "x" * MAX_OCTETS)
        large, small = self.line.ask("large"), self.line.ask("small")
        self.settle()
        self.assertIn("too many", str(self.failureResultOf(large, DeferralsError).value))
        self.assertEqual(self.successResultOf(small), 1)
        self.assertEqual(self.line._asked, {})

    def test_arrays(self) -> None:
        """What is more than an array may hold becomes several, in order."""
        self.patch(module, "MAX_OCTETS", 200)
        heard: list[str] = []
        self.pair(hear=heard.append)
        said = [f"{number} {'x' * (number % 90)}" for number in range(100)]
        for one in said:
            self.line.tell("hear", one)
        self.settle()
        self.assertEqual(heard, said)
        self.assertLessEqual(max(map(len, self.wire.ends[0].writes)), 200)

    def test_tooMany(self) -> None:
        """There is a bound of what may be asked at once."""
        self.patch(module, "MAX_ASKED", 2)
        self.pair(slow=lambda: Deferred())
        ds = [self.line.ask("slow") for _ in range(3)]
        self.failureResultOf(ds[2], LineError)
        self.wire.lose()
        for d in ds[:2]:
            self.failureResultOf(d, LineError)

    def test_notRead(self) -> None:
        """Where the other end does not read, so much waits and no more."""
        self.patch(module, "MAX_WAITING_OCTETS", 1000)
        logged: list[str] = []
        self.patch(module._log, "error", lambda text, **_: logged.append(text))
        heard: list[int] = []
        self.pair(hear=heard.append)
        self.settle()
        self.line.pauseProducing()
        self.wire.ends[0].writes.clear()
        self.line.tell("hear", 1)
        self.clock.advance(10 * BEAT_SECONDS)
        self.assertEqual(self.wire.ends[0].writes, [])
        self.line.resumeProducing()
        self.settle()
        self.assertEqual(heard, [1])
        self.line.pauseProducing()
        for number in range(100):
            self.line.tell("hear", number)
        self.settle()
        self.assertTrue(self.wire.ends[0].isLost)
        self.assertTrue(logged)

    def test_nonsense(self) -> None:
        """What is not understood ends the line, and is logged."""
        for said in (
            b"\xff\n",
            b"{\n",
            b"[1]\n",
            b'[["ask"]]\n',
            b'[["hear",1]]\n',
            b'[["ask",1,"take",[],1]]\n',
            b"[" * 100_000 + b"\n",
            b"x" * (MAX_OCTETS + 1),
        ):
            logged: list[str] = []
            self.patch(module._log, "failure", lambda text, logged=logged: logged.append(text))
            line = WorkerLine(self.clock)
            end = End(line)
            line.dataReceived(said)
            self.assertTrue(end.disconnecting, said[:30])
            self.assertEqual(len(logged), 1)
            end.lose()

    def test_linear(self) -> None:
        """Twice as many octets, in pieces of any size, are twice the work."""

        def incoming(count: int) -> None:
            arrays = _Arrays()
            for _ in range(count):
                list(arrays.add(b"x" * 1000))
            list(arrays.add(b"\n"))

        def outgoing(count: int) -> None:
            waiting = _Waiting()
            for _ in range(count):
                waiting.add(b"x", ())
            waiting.take()

        for work in (incoming, outgoing):
            self.assertLess(linesRun(work, 2000), 2.2 * linesRun(work, 1000))

    @given(st.lists(st.tuples(st.text(min_size=1), st.lists(VALUES, max_size=3)), max_size=6))
    @settings(deadline=None, max_examples=100)
    def test_anyPieces(self, said: list[tuple[str, list[Any]]]) -> None:
        """However the octets come, octet by octet too, each message is what it was."""
        outcomes = []
        for step in (1, 2, 3, 7, 1 << 20):
            clock = Clock()
            heard: list[Any] = []
            handlers = {name: functools.partial(_hear, heard, name) for name, _ in said}
            line, _, wire = pair(clock, handlers, step)
            answers = [line.ask(name, *args) for name, args in said]
            settle(clock, wire)
            outcomes.append((heard, [self.successResultOf(d) for d in answers]))
            wire.lose()
        self.assertEqual(outcomes[0], ([*said], [args for _, args in said]))
        self.assertEqual(outcomes, outcomes[:1] * 5)

    @given(st.data())
    @settings(deadline=None, max_examples=100)
    def test_anyEnd(self, data: st.DataObject) -> None:
        """Wherever the line breaks, each question has one outcome, and nothing is left."""
        clock = Clock()
        later: list[Deferred[int]] = []

        def slow() -> Deferred[int]:
            later.append(Deferred())
            return later[-1]

        line, other, wire = pair(clock, {"quick": lambda: 1, "slow": slow})
        outcomes: list[list[Any]] = []
        for step in data.draw(st.lists(st.sampled_from("qsacdl"), max_size=20)):
            if step in "qs":
                found: list[Any] = []
                d = line.ask("quick" if step == "q" else "slow")
                d.addBoth(found.append)
                outcomes.append(found)
                if data.draw(st.booleans()):
                    d.cancel()
            elif step == "a" and later and not later[0].called:
                later.pop(0).callback(2)
            elif step == "c":
                settle(clock, wire)
            elif step == "d":
                clock.advance(11)
            elif step == "l":
                wire.lose()
        wire.lose()
        clock.advance(11)
        self.assertEqual([len(found) for found in outcomes], [1] * len(outcomes))
        self.assertEqual((line._asked, other._answering), ({}, {}))
        self.assertEqual(clock.getDelayedCalls(), [])
