"""
What all workers know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import Changed, LineError
from deferrals.spool.memory import MemorySpool
from deferrals.workers import notes as module
from deferrals.workers.line import BEAT_SECONDS, WorkerLine
from deferrals.workers.notes import PUT_SECONDS, SILENT_SECONDS, NotesRegister, WorkerNotes
from tests.workers import contracts
from tests.workers.wires import Wire, settle


class Cluster:
    """
    A parent and its workers, in one process.

    @ivar spools: outlive the workers.
    """

    def __init__(self, number: int = 3, most: int = 100, kinds: Sequence[str] = ("k",)) -> None:
        self.clock = Clock()
        self.clock.advance(1e9)
        self.most = dict.fromkeys(kinds, most)
        self.spools = [MemorySpool(self.clock) for _ in range(number)]
        self.wires: dict[int, Wire] = {}
        self.notes: dict[int, WorkerNotes] = {}
        self.loads: dict[int, Deferred[None]] = {}
        self.startParent()

    def startParent(self) -> None:
        """
        All begins anew, but for the spools.
        """
        for worker in list(self.wires):
            self.kill(worker)
        self.register = NotesRegister(self.clock, self.most)
        for worker in range(len(self.spools)):
            self.start(worker)

    def start(self, worker: int) -> None:
        parent = WorkerLine(self.clock, lost=lambda _: self.register.detach(worker))
        mine = WorkerLine(self.clock)
        self.wires[worker] = Wire(self.clock, parent, mine)
        self.notes[worker] = WorkerNotes(self.clock, worker, mine, self.most)
        self.register.attach(worker, parent)
        self.loads[worker] = self.notes[worker].load(self.spools[worker])
        self.settle()

    def kill(self, worker: int) -> None:
        self.wires.pop(worker).lose()
        del self.notes[worker]

    def settle(self) -> None:
        settle(self.clock, *self.wires.values())

    def wait(self, seconds: float) -> None:
        """
        Let time pass, with everything that is said meanwhile.
        """
        for _ in range(int(seconds / BEAT_SECONDS)):
            self.clock.advance(BEAT_SECONDS)
            self.settle()

    def found(self, worker: int) -> list[tuple[str, Any]]:
        return [(key, value) for key, value, _ in self.notes[worker].find("k", "o g")]


class ThreeTests(contracts.NotesContract):
    """
    The contract, for three workers.
    """

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.clock = self.cluster.clock
        self.notes = list(self.cluster.notes.values())

    def settle(self) -> None:
        self.cluster.settle()


class SharingTests(SynchronousTestCase):
    """
    L{NotesRegister} and L{WorkerNotes}.
    """

    def setUp(self) -> None:
        self.cluster = Cluster()

    def put(self, worker: int, key: str = "key", value: Any = 1, was: Any = None) -> Any:
        return self.cluster.notes[worker].put("k", "o g", key, value, 600, was)

    def test_notBefore(self) -> None:
        """A put does not fire before every other worker has it, and its own one, too."""
        put = self.put(0)
        settle(self.cluster.clock, self.cluster.wires[0])
        self.assertNoResult(put)
        settle(self.cluster.clock, self.cluster.wires[1], self.cluster.wires[0])
        self.assertNoResult(put)
        self.cluster.settle()
        self.successResultOf(put)
        for worker in range(3):
            self.assertEqual(self.cluster.found(worker), [("key", 1)])

    def test_kept(self) -> None:
        """The worker that has put a note keeps it, and no other; the newest one only."""

        def keepers() -> list[int]:
            spools = self.cluster.spools
            return [len(self.successResultOf(spool.notes())) for spool in spools]

        self.put(1)
        self.cluster.settle()
        self.assertEqual(keepers(), [0, 1, 0])
        self.put(2)
        self.cluster.settle()
        self.assertEqual(keepers(), [0, 0, 1])
        self.cluster.notes[0].forget("k", "o g", "key")
        self.cluster.settle()
        self.assertEqual(keepers(), [0, 0, 0])

    def test_restart(self) -> None:
        """When all begin anew all know what was noted, and versions go on."""
        before = []
        for worker in range(3):
            put = self.put(worker, f"k{worker}")
            self.cluster.settle()
            before.append(self.successResultOf(put))
        self.cluster.startParent()
        for worker in range(3):
            self.successResultOf(self.cluster.loads[worker])
            found = self.cluster.found(worker)
            self.assertEqual(found, [("k0", 1), ("k1", 1), ("k2", 1)])
        put = self.put(0)
        self.cluster.settle()
        self.assertGreater(self.successResultOf(put), max(before))

    def test_newestCounts(self) -> None:
        """Of two spools that have a key, the newer note counts, whoever starts first."""
        for first in (0, 1):
            self.cluster.kill(1)
            self.put(0, value="old")
            self.cluster.settle()
            self.cluster.kill(0)
            self.cluster.start(1)
            self.cluster.clock.advance(1)
            self.put(1, value="new")
            self.cluster.settle()
            self.cluster.kill(1)
            self.cluster.kill(2)
            self.cluster.register = NotesRegister(self.cluster.clock, self.cluster.most)
            for worker in (first, 1 - first, 2):
                self.cluster.start(worker)
            for worker in range(3):
                self.assertEqual(self.cluster.found(worker), [("key", "new")])

    def test_startsLate(self) -> None:
        """A worker that starts has all, and first of all what is noted meanwhile."""
        self.patch(module, "PIECE", 2)
        self.cluster.kill(2)
        for number in range(7):
            self.put(0, f"k{number}")
        self.cluster.settle()
        self.cluster.start(2)
        self.successResultOf(self.cluster.loads[2])
        self.assertEqual(self.cluster.found(2), self.cluster.found(0))

    def test_once(self) -> None:
        """A worker that starts, or adopts, is sent each note once."""
        self.put(0)
        self.cluster.settle()
        self.cluster.kill(2)
        self.cluster.start(2)
        writes = self.cluster.wires[2].ends[0].writes
        self.assertEqual(b"".join(writes).count(b"notes.take"), 1)
        done = self.cluster.notes[2].adopt(MemorySpool(self.cluster.clock))
        self.cluster.settle()
        self.successResultOf(done)
        self.assertEqual(b"".join(writes).count(b"notes.take"), 1)

    def test_forgottenMeanwhile(self) -> None:
        """What was forgotten while its keeper was away stays forgotten."""
        self.put(2)
        self.cluster.settle()
        self.cluster.kill(2)
        self.cluster.notes[0].forget("k", "o g", "key")
        self.cluster.settle()
        self.cluster.start(2)
        for worker in range(3):
            self.assertEqual(self.cluster.found(worker), [])
        self.assertEqual(self.successResultOf(self.cluster.spools[2].notes()), {})

    def test_keeperLost(self) -> None:
        """A note whose keeper ended before it had it on its disk is kept by its successor."""
        put = self.put(2)
        self.cluster.clock.advance(0)
        self.cluster.wires[2].carry()  # the parent knows it
        self.cluster.kill(2)
        self.cluster.settle()
        self.failureResultOf(put, LineError)
        self.assertEqual(self.successResultOf(self.cluster.spools[2].notes()), {})
        self.cluster.start(2)
        self.assertEqual(len(self.successResultOf(self.cluster.spools[2].notes())), 1)
        for worker in range(3):
            self.assertEqual(self.cluster.found(worker), [("key", 1)])

    def test_watched(self) -> None:
        """Who watches hears what others have noted and forgotten, and not what it has itself."""
        heard: list[Any] = []
        self.cluster.notes[1].watch("k", lambda *what: heard.append(what))
        for worker in (0, 1):
            self.put(worker, value=worker)
            self.cluster.settle()
        self.assertEqual(heard, [("o g", "key", 0)])
        self.cluster.notes[2].forget("k", "o g", "key")
        self.cluster.settle()
        self.assertEqual(heard[1:], [("o g", "key", None)])

    def test_adopted(self) -> None:
        """What is kept by a worker that there is no longer becomes another's, known to all."""
        self.put(2)
        self.cluster.settle()
        self.cluster.kill(2)
        self.cluster.register = NotesRegister(self.cluster.clock, self.cluster.most)
        for worker in (0, 1):
            self.cluster.kill(worker)
            self.cluster.start(worker)
            self.assertEqual(self.cluster.found(worker), [])
        left = self.cluster.spools[2]
        left.note("limit x y", "z", 60)
        done = self.cluster.notes[0].adopt(left)
        self.cluster.settle()
        self.successResultOf(done)
        for worker in (0, 1):
            self.assertEqual(self.cluster.found(worker), [("key", 1)])
        self.assertEqual([*self.successResultOf(left.notes())], ["limit x y"])
        self.assertEqual(len(self.successResultOf(self.cluster.spools[0].notes())), 1)

    def test_silent(self) -> None:
        """A worker that does not turn is waited for one second, and then not at all."""
        self.cluster.wires[2].stopped = True
        first = self.put(0)
        self.cluster.settle()
        self.assertNoResult(first)
        self.cluster.wait(SILENT_SECONDS + 2 * BEAT_SECONDS)
        self.successResultOf(first)
        second = self.put(0, value=2)
        self.cluster.settle()
        self.successResultOf(second)
        self.assertEqual(self.cluster.found(2), [])
        self.cluster.wires[2].stopped = False
        self.cluster.wait(1)
        self.assertEqual(self.cluster.found(2), [("key", 2)])

    def test_dies(self) -> None:
        """A worker that dies is not waited for."""
        put = self.put(0)
        settle(self.cluster.clock, self.cluster.wires[0], self.cluster.wires[1])
        self.assertNoResult(put)
        self.cluster.kill(2)
        self.cluster.settle()
        self.successResultOf(put)

    def test_parentSilent(self) -> None:
        """Where the parent does not turn a put fails in time."""
        self.cluster.wires[0].stopped = True
        put = self.put(0)
        self.cluster.wait(PUT_SECONDS + 2 * BEAT_SECONDS)
        self.failureResultOf(put, TimeoutError)

    def test_loadWithoutParent(self) -> None:
        """A worker whose parent has gone starts with what it has."""
        self.put(0)
        self.cluster.settle()
        errors: list[str] = []
        self.patch(module._log, "error", lambda text, **_: errors.append(text))
        alone = WorkerNotes(self.cluster.clock, 0, WorkerLine(self.cluster.clock), {"k": 5})
        self.successResultOf(alone.load(self.cluster.spools[0]))
        self.assertEqual(len(alone.find("k", "o g")), 1)
        self.assertEqual(len(errors), 1)


class AnyOrderTests(SynchronousTestCase):
    """
    Whatever happens, in whatever order.
    """

    @given(st.data())
    @settings(deadline=None, max_examples=60)
    def test_agree(self, data: st.DataObject) -> None:
        """
        Of changes of one version one wins; in the end all agree, and so they do after
        a restart of all.
        """
        cluster = Cluster()
        keys = ["a", "b"]
        won: dict[int | None, list[int]] = {}
        for number in range(data.draw(st.integers(0, 25))):
            what = data.draw(
                st.sampled_from(["put", "was", "forget", "carry", "kill", "stop", "tick"])
            )
            worker = data.draw(st.integers(0, 2))
            key = data.draw(st.sampled_from(keys))
            if what == "kill" and worker in cluster.notes:
                cluster.kill(worker)
                cluster.start(worker)
            elif what == "stop":
                cluster.wires[worker].stopped = not cluster.wires[worker].stopped
            elif what == "tick":
                cluster.wait(0.5)
            elif what == "carry":
                cluster.clock.advance(0)
                cluster.wires[worker].carry()
            elif what == "forget":
                cluster.notes[worker].forget("k", "o g", key).addErrback(lambda _: None)
            else:
                found = {k: version for k, _, version in cluster.notes[worker].find("k", "o g")}
                was = found.get(key) if what == "was" else None
                if what == "was" and was is None:
                    continue
                put = cluster.notes[worker].put("k", "o g", key, number, 600, was)
                put.addCallback(
                    lambda version, was=was: won.setdefault(was, []).append(version)
                ).addErrback(lambda failure: failure.trap(Changed, LineError, TimeoutError))
        for wire in cluster.wires.values():
            wire.stopped = False
        cluster.wait(4)
        for was, versions in won.items():
            if was is not None:
                self.assertEqual(len(versions), 1)
        every = [version for versions in won.values() for version in versions]
        self.assertEqual(len(every), len(set(every)))
        found = [cluster.notes[worker].find("k", "o g") for worker in range(3)]
        self.assertEqual(found, found[:1] * 3)
        cluster.startParent()
        again = [cluster.notes[worker].find("k", "o g") for worker in range(3)]
        self.assertEqual(again, found)
