"""
Notes that outlive a restart.
"""

from __future__ import annotations

from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.errors import Changed, SpoolError
from deferrals.interfaces import INotes
from deferrals.model.json import JSON
from deferrals.server.notes import Notes
from deferrals.spool.memory import MemorySpool
from tests.workers import contracts


class OneProcessTests(contracts.NotesContract):
    """
    The contract, for one process.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.notes = [Notes(self.clock, {"k": 100})]


class NotesTests(SynchronousTestCase):
    """
    L{Notes}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.spool = MemorySpool(self.clock)
        self.notes = self.started()

    def started(self, most: int = 100) -> Notes:
        """
        Those of a process that has just started.
        """
        notes = Notes(self.clock, {"k": most})
        self.successResultOf(notes.load(self.spool))
        return notes

    def put(self, group: str, key: str, value: int = 1, seconds: float = 60) -> int:
        return self.successResultOf(self.notes.put("k", group, key, value, seconds))

    def found(self, notes: Notes, group: str) -> list[tuple[str, object]]:
        return [(key, value) for key, value, _ in notes.find("k", group)]

    def test_interface(self) -> None:
        """They are what stages are promised."""
        self.assertTrue(verifyObject(INotes, self.notes))

    def test_found(self) -> None:
        """What was put is found, under its group only; the newest of a key."""
        first, second = self.put("o g", "a", 1), self.put("o g", "a", 2)
        self.assertLess(first, second)
        self.put("o g", "b", 3)
        self.assertEqual(self.found(self.notes, "o g"), [("a", 2), ("b", 3)])
        self.assertEqual(self.found(self.notes, "o other"), [])

    def test_restart(self) -> None:
        """So it is after a restart, and versions go on."""
        self.put("o g", "a")
        version = self.put("o g", "b")
        again = self.started()
        self.assertEqual(self.found(again, "o g"), [("a", 1), ("b", 1)])
        self.assertGreater(self.successResultOf(again.put("k", "o g", "c", 1, 60)), version)

    def test_expires(self) -> None:
        """What has expired is found no more, with or without a restart."""
        self.put("o g", "a", seconds=5)
        self.put("o g", "b", seconds=50)
        self.clock.advance(5)
        for notes in (self.notes, self.started()):
            self.assertEqual(self.found(notes, "o g"), [("b", 1)])

    def test_changed(self) -> None:
        """Only if it is still what the writer read."""
        version = self.put("o g", "a")
        put = self.notes.put("k", "o g", "a", 2, 60, was=version)
        newer = self.successResultOf(put)
        error = self.failureResultOf(self.notes.put("k", "o g", "a", 3, 60, was=version), Changed)
        self.assertEqual((error.value.value, error.value.version), (2, newer))
        error = self.failureResultOf(self.notes.put("k", "o g", "z", 3, 60, was=1), Changed)
        self.assertEqual((error.value.value, error.value.version), (None, None))

    def test_forget(self) -> None:
        """What is forgotten is gone, also after a restart; twice is no error."""
        self.put("o g", "a")
        for _ in range(2):
            self.successResultOf(self.notes.forget("k", "o g", "a"))
        for notes in (self.notes, self.started()):
            self.assertEqual(self.found(notes, "o g"), [])
        self.assertEqual(self.successResultOf(self.spool.notes()), {})

    def test_flood(self) -> None:
        """
        A flood takes the notes of who makes it: the oldest of the owner that has
        most go first.
        """
        self.put("honest g", "a")
        for number in range(1000):
            self.put(f"evil g{number}", "a")
        self.assertEqual(self.found(self.notes, "honest g"), [("a", 1)])
        self.assertEqual(self.found(self.notes, "evil g999"), [("a", 1)])
        self.assertEqual(self.found(self.notes, "evil g0"), [])
        self.assertLessEqual(len(self.successResultOf(self.spool.notes())), 100)

    def test_manyOwners(self) -> None:
        """Of many owners with one note each, the oldest goes first."""
        for number in range(150):
            self.put(f"o{number} g", "a")
        self.assertEqual(self.found(self.notes, "o0 g"), [])
        self.assertEqual(self.found(self.notes, "o149 g"), [("a", 1)])

    def test_octets(self) -> None:
        """Large values are bounded by what they take together."""
        self.notes = self.started(10**6)
        text = "x" * 1024 * 1024
        for number in range(100):
            self.successResultOf(self.notes.put("k", f"o{number} g", "a", text, 60))
        self.assertLessEqual(len(self.successResultOf(self.spool.notes())), 32)

    def test_ownValue(self) -> None:
        """What a reader does with a value changes nothing of what is noted."""
        given: dict[str, JSON] = {"a": [1]}
        self.successResultOf(self.notes.put("k", "o g", "a", given, 60))
        given["a"] = 5
        for _ in range(2):
            ((_, value, _),) = self.notes.find("k", "o g")
            self.assertEqual(value, {"a": [1]})
            assert isinstance(value, dict)
            value.clear()

    def test_corrupt(self) -> None:
        """Notes that cannot be read are left out, and take no others with them."""
        self.put("o g", "a")
        name = '["k", "g", "%d"]'
        broken = ("[" * 100_000, "[1, 1e999, 5]", "[1, 5, null]", "[1, NaN, 5]", "", "\0", "{}")
        for number, text in enumerate(broken):
            self.spool.note(name % number, text, 60)
        self.spool.note("[" * 100_000, "[1, 1, 1]", 60)
        again = self.started()
        self.assertEqual(self.found(again, "o g"), [("a", 1)])
        self.assertEqual(again.find("k", "g"), [])

    def test_others(self) -> None:
        """Notes of others, and of a version before, are left alone."""
        for name, value in (("mixed f", "{}"), ('["k", "g"]', "[1]"), ('["k","g","a"]', "5")):
            self.spool.note(name, value, 60)
        self.assertEqual(self.found(self.started(), "g"), [])

    def test_notRead(self) -> None:
        """A spool that is out of reach just now is no reason not to start."""
        self.patch(self.spool, "notes", lambda: fail(SpoolError("away")))
        self.assertEqual(self.found(self.started(), "o g"), [])

    def test_notShared(self) -> None:
        """A value is what it was when it was put, whatever its writer does to it."""
        value: dict[str, object] = {"a": [1]}
        self.successResultOf(self.notes.put("k", "o g", "a", value, 60))  # type: ignore[arg-type]
        value["a"] = 5
        self.assertEqual(self.found(self.notes, "o g"), [("a", {"a": [1]})])
