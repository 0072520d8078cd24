"""
What a spool does now and then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from deferrals.spool.ledger import HistoryEntry
from deferrals.spool.message import PART
from deferrals.spool.rows import ASIDE, DAMAGED
from deferrals.spool.sqlite import housekeeping, leaving, upkeep
from deferrals.spool.sqlite.clock import SpoolClock
from deferrals.spool.sqlite.files import SpoolFiles
from deferrals.spool.sqlite.housekeeping import EVERY_SECONDS, PAUSE_SECONDS, Housekeeping
from deferrals.spool.sqlite.ledger import SqliteLedger
from deferrals.spool.sqlite.recovery import savedClock
from deferrals.spool.sqlite.store import Incoming, Store
from tests.databases import DatabaseCase


class HousekeepingTests(DatabaseCase):
    """
    L{Housekeeping}, with a clock that stands still.
    """

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.files = SpoolFiles(os.path.abspath(self.mktemp()))
        self.files.make()
        self.incoming = Incoming()
        self.did: list[str] = []
        self.after: list[int] = []
        self.held: Deferred[None] | None = None
        self.broken = False
        store = Store(
            self.files,
            SpoolClock(self.clock.seconds, lambda: 2e9 + self.clock.seconds()),
            self.run_,
        )
        self.keeper = Housekeeping(store, self.clock, maybeDeferred, self.incoming)

    def run_(self, function: Callable[..., Any], *args: Any, **more: Any) -> Deferred[Any]:
        self.did.append(function.__name__)
        if function is upkeep.nextMessages:
            self.after += args
        if self.broken:
            return maybeDeferred(self.fail, "broken")
        if self.held is not None:
            return self.held.addCallback(lambda _: function(self.db, *args, **more))
        return maybeDeferred(function, self.db, *args, **more)

    def started(self) -> None:
        self.keeper.start()
        self.addCleanup(self.keeper.stop)

    def body(self, number: int) -> str:
        path = self.files.body(number)
        with open(path, "w") as file:
            file.write("x")
        return path

    def rest(self) -> None:
        """
        Let all pauses of a round pass.
        """
        for _ in range(10):
            self.clock.advance(PAUSE_SECONDS)

    def test_rounds(self) -> None:
        """Each minute the time is saved, and each kind of work is looked at."""
        self.started()
        expected = ["saveClock", "raiseGeneration", "leaving", "trimHistory", "trimNotes", "vacuum"]
        self.assertEqual(self.did[:1], expected[:1])
        for name in expected:
            self.assertEqual(self.did.count(name), 1)
        self.did.clear()
        self.clock.advance(EVERY_SECONDS)
        self.assertEqual(self.did[:6], expected)
        self.assertEqual(savedClock(self.db), (2e9 + EVERY_SECONDS, EVERY_SECONDS))

    def test_slices(self) -> None:
        """Between two slices there is a pause, in which others have their turn."""
        self.patch(upkeep, "SLICE", 2)
        self.patch(upkeep, "HISTORY_ROWS", 1)
        for _ in range(6):
            SqliteLedger(self.db, 0.0, wall=2e9).tell([HistoryEntry(1, 0, "retry")])
        self.started()
        left = []
        for _ in range(4):
            left.append(self.all("SELECT COUNT(*) FROM history")[0][0])
            self.clock.advance(PAUSE_SECONDS)
        self.assertEqual(left, [4, 2, 1, 1])

    def test_files(self) -> None:
        """A file that no message has is set aside; one of a message, or that comes in, is not."""
        number = self.add("a@b.example")
        kept, coming, dead = self.body(number), self.body(number + 1), self.body(number + 2)
        self.incoming.begin(number + 1)
        self.started()
        self.rest()
        found = [os.path.exists(path) for path in (kept, coming, dead)]
        self.assertEqual(found, [True, True, False])
        self.assertEqual(self.files.namesAside(), [os.path.basename(dead)])

    def test_unfinished(self) -> None:
        """Content that never became whole is removed, unless it is coming in now."""
        for number in (7, 8):
            os.rename(self.body(number), f"{self.files.body(number)}{PART}")
        self.incoming.begin(8)
        self.started()
        self.rest()
        self.assertEqual(self.files.unfinished(), [8])
        self.assertEqual(self.files.namesAside(), [])

    def test_unnamed(self) -> None:
        """Content that has a row gets its name, and is not removed."""
        number = self.add("a@b.example")
        os.rename(self.body(number), self.files.part(number))
        self.started()
        self.rest()
        self.assertEqual((self.files.unfinished(), self.files.bodyNumbers()), ([], [number]))

    def test_leaving(self) -> None:
        """The file of a message that has left is removed, and that is forgotten then."""
        path = self.body(7)
        leaving.noted(self.db, [7])
        self.started()
        self.rest()
        self.assertFalse(os.path.exists(path))
        self.assertEqual(self.files.namesAside(), [])
        self.assertEqual(leaving.leaving(self.db), [])

    def test_ownerless(self) -> None:
        """A message without recipients is kept, and set aside."""
        number = self.add("a@b.example")
        self.db.execute("DELETE FROM recipients WHERE message = ?", (number,))
        self.started()
        self.rest()
        self.assertEqual(self.all("SELECT id, state FROM messages"), [(number, ASIDE)])
        self.assertEqual(self.all("SELECT id FROM bodies"), [(number,)])

    def test_filesRarely(self) -> None:
        """Files are looked through at the start, and then every so many rounds."""
        self.patch(housekeeping, "FILES_ROUNDS", 3)
        number = self.body(7)
        self.started()
        self.rest()
        self.assertFalse(os.path.exists(number))
        looked = []
        for _ in range(3):
            path = self.body(7)
            self.clock.advance(EVERY_SECONDS)
            self.rest()
            looked.append(not os.path.exists(path))
        self.assertEqual(looked, [False, False, True])

    def test_missing(self) -> None:
        """A message whose content is missing is set aside; one whose content is there is not."""
        inDatabase, inFile, missing = (self.add("a@b.example") for _ in range(3))
        self.db.execute("DELETE FROM bodies WHERE id IN (?, ?)", (inFile, missing))
        self.body(inFile)
        self.started()
        self.rest()
        self.assertEqual(self.recipients(missing, "status"), [DAMAGED])
        for number in (inDatabase, inFile):
            self.assertNotEqual(self.recipients(number, "status"), [DAMAGED])

    def test_messagesInTurn(self) -> None:
        """A round looks at some messages; the next goes on from there, and in the end anew."""
        self.patch(upkeep, "SLICE", 2)
        numbers = [self.add("a@b.example") for _ in range(3)]
        self.started()
        for _ in range(2):
            self.clock.advance(EVERY_SECONDS)
            self.rest()
        self.assertEqual(self.after, [-1, numbers[1], -1])

    def test_error(self) -> None:
        """A round that fails ends, and the next one comes."""
        self.broken = True
        self.started()
        self.did.clear()
        self.broken = False
        self.clock.advance(EVERY_SECONDS)
        self.assertIn("trimNotes", self.did)

    def test_stop(self) -> None:
        """It has stopped when nothing is under way; a pause is cut short."""
        self.assertIsNone(self.successResultOf(self.keeper.stop()))
        self.held = Deferred()
        self.keeper.start()
        stopped = self.keeper.stop()
        self.assertNoResult(stopped)
        held, self.held = self.held, None
        held.callback(None)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopPause(self) -> None:
        """A pause is cut short by the end."""
        self.patch(upkeep, "SLICE", 1)
        for name in ("a", "b"):
            self.db.execute("INSERT INTO notes VALUES (?, '', 0)", (name,))
        self.keeper.start()
        self.successResultOf(self.keeper.stop())
        self.assertEqual(len(self.all("SELECT name FROM notes")), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
