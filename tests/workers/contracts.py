"""
What is promised of what a whole server shares, however many processes it is.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.errors import Changed
from deferrals.interfaces import ILimits, INotes
from deferrals.model.json import JSON


class Contract(SynchronousTestCase):
    """
    @ivar clock: the time of all.
    """

    clock: Clock

    def settle(self) -> None:
        """
        Let all be said between processes that is to be said now.
        """

    def got(self, d: Deferred[Any]) -> Any:
        """
        What is there without any time passing.
        """
        self.settle()
        return self.successResultOf(d)


class NotesContract(Contract):
    """
    @ivar notes: those of each process.
    """

    notes: list[INotes]

    def put(self, which: int, key: str, value: JSON, was: int | None = None) -> int:
        put = self.notes[which].put("k", "o g", key, value, 60, was)
        version: int = self.got(put)
        return version

    def everywhere(self) -> list[tuple[str, JSON, int]]:
        """
        What all find; it is the same.
        """
        found = [list(one.find("k", "o g")) for one in self.notes]
        self.assertEqual(found, found[:1] * len(found))
        return found[0]

    def test_notesInterface(self) -> None:
        """They are what stages are promised."""
        for one in self.notes:
            self.assertTrue(verifyObject(INotes, one))

    def test_putEverywhere(self) -> None:
        """When a put has fired, all find it, the last of a key; who put first is first."""
        versions = [self.put(which, f"k{which}", which) for which in range(len(self.notes))]
        self.assertEqual(versions, sorted(set(versions)))
        wanted = [(f"k{which}", which, versions[which]) for which in range(len(self.notes))]
        self.assertEqual(self.everywhere(), wanted)
        again = self.put(-1, "k0", "new")
        self.assertEqual(self.everywhere(), [*wanted[1:], ("k0", "new", again)])

    def test_putWas(self) -> None:
        """Only if it is still what its writer has read; who comes late is told what it is."""
        version = self.put(0, "key", 1)
        newer = self.put(-1, "key", 2, version)
        late = self.notes[0].put("k", "o g", "key", 3, 60, version)
        self.settle()
        error = self.failureResultOf(late, Changed).value
        self.assertEqual((error.value, error.version), (2, newer))
        gone = self.notes[0].put("k", "o g", "other", 3, 60, version)
        self.settle()
        error = self.failureResultOf(gone, Changed).value
        self.assertEqual((error.value, error.version), (None, None))
        self.assertEqual(self.everywhere(), [("key", 2, newer)])

    def test_oneWins(self) -> None:
        """Of all that change the same version at once, one can."""
        self.oneWins(self.put(0, "key", 1))

    def oneWins(self, version: int) -> None:
        puts = [one.put("k", "o g", "key", n, 60, version) for n, one in enumerate(self.notes * 2)]
        self.settle()
        won: list[int] = []
        for d in puts:
            d.addCallback(won.append).addErrback(lambda failure: failure.trap(Changed))
        self.assertEqual(len(won), 1)
        self.assertEqual(self.everywhere()[0][2], won[0])

    def test_firstWins(self) -> None:
        """Of all that note at once what was not noted, one can; what has expired was not."""
        for seconds in (0, 60):
            self.clock.advance(seconds)
            self.oneWins(0)

    def test_forgotten(self) -> None:
        """When it has fired no process finds it; twice is no error."""
        self.put(0, "key", 1)
        for one in (self.notes[-1], self.notes[0]):
            self.got(one.forget("k", "o g", "key"))
            self.assertEqual(self.everywhere(), [])

    def test_expired(self) -> None:
        """What has expired is not found."""
        self.put(0, "key", 1)
        self.clock.advance(60)
        self.assertEqual(self.everywhere(), [])

    def test_flooded(self) -> None:
        """A flood takes the notes of who makes it, the oldest first, everywhere."""
        self.put(0, "honest", 1)
        for number in range(300):
            which = number % len(self.notes)
            self.notes[which].put("k", f"evil g{number}", "key", 1, 60)
            if not number % 50:
                self.settle()
        self.settle()
        self.assertEqual(len(self.everywhere()), 1)
        for one in self.notes:
            self.assertEqual(len(list(one.find("k", "evil g299"))), 1)
            self.assertEqual(list(one.find("k", "evil g0")), [])

    def test_ownValues(self) -> None:
        """What a reader does with a value changes nothing of what is noted."""
        self.put(0, "key", {"a": [1]})
        for one in self.notes:
            for _ in range(2):
                ((_, value, _),) = one.find("k", "o g")
                self.assertEqual(value, {"a": [1]})
                value.clear()


class LimitsContract(Contract):
    """
    @ivar limits: those of each process.
    """

    limits: list[ILimits]

    def enter(self, which: int, most: int, key: str = "k") -> bool:
        entered: bool = self.got(self.limits[which].enter("n", key, most))
        return entered

    def spend(self, which: int, amount: int, most: int = 5) -> bool:
        spent: bool = self.got(self.limits[which].spend("s", "a key", amount, most, 3600))
        return spent

    def test_limitsInterface(self) -> None:
        """They are what stages are promised."""
        for one in self.limits:
            self.assertTrue(verifyObject(ILimits, one))

    def test_entered(self) -> None:
        """So many at once over all; one that leaves makes room, wherever it was."""
        last = len(self.limits) - 1
        entered = [self.enter(which % (last + 1), 4) for which in range(6)]
        self.assertEqual(entered, [True] * 4 + [False] * 2)
        self.assertTrue(self.enter(0, 4, "other"))
        self.limits[last].leave("n", "k")
        self.settle()
        self.assertEqual([self.enter(0, 4), self.enter(last, 4)], [True, False])

    def test_enterAtOnce(self) -> None:
        """Of many that come at once, so many enter."""
        asked = [one.enter("n", "k", 7) for one in self.limits * 10]
        self.settle()
        entered = [self.successResultOf(d) for d in asked]
        self.assertEqual(entered.count(True), min(7, len(asked)))

    def test_spent(self) -> None:
        """What one process spends is spent for all; what is given back is there for all."""
        last = len(self.limits) - 1
        self.assertEqual([self.spend(0, 3), self.spend(last, 3)], [True, False])
        self.assertEqual([self.spend(last, 2), self.spend(0, 0)], [True, False])
        self.spend(0, -1)
        self.assertEqual([self.spend(last, 1), self.spend(0, 1)], [True, False])
        self.assertEqual(sum(one.used("s").get("a key", 0) for one in self.limits), 5)

    def test_window(self) -> None:
        """It slides."""
        self.assertTrue(self.spend(0, 5))
        self.clock.advance(3700)
        self.assertTrue(self.spend(-1, 5))
