"""
What a spool takes over from the process before.
"""

from __future__ import annotations

from deferrals.spool.rows import ENDED, HELD, LEASED, QUEUED, STAGED
from deferrals.spool.sqlite import recovery
from deferrals.spool.sqlite.recovery import interrupted, recover, saveClock, savedClock
from tests.databases import DatabaseCase


class ClockTests(DatabaseCase):
    """
    L{saveClock} and L{savedClock}.
    """

    def test_saved(self) -> None:
        """The last one counts."""
        self.assertIsNone(savedClock(self.db))
        saveClock(self.db, 2e9, 5.0)
        saveClock(self.db, 2e9 + 60.0, 65.0)
        self.assertEqual(savedClock(self.db), (2e9 + 60.0, 65.0))

    def test_damaged(self) -> None:
        """What is no number was not saved."""
        saveClock(self.db, 2e9, 5.0)
        for value in ("?", None):
            self.db.execute("UPDATE info SET value = ? WHERE name = 'clock.now'", (value,))
            self.assertIsNone(savedClock(self.db))


class RecoverTests(DatabaseCase):
    """
    L{recover}, at the time 100.
    """

    def test_staged(self) -> None:
        """What was staged is ours: its sender may have seen the reply."""
        self.add("a@b.example", status=LEASED, due=400.0, state=STAGED)
        self.add("c@d.example")
        self.assertEqual(recover(self.db, 100.0), 1)
        self.assertEqual(self.all("SELECT state FROM messages"), [(1,), (1,)])

    def test_leased(self) -> None:
        """What was leased is due now, and its destination knows of it."""
        number = self.add("a@b.example", status=LEASED, owner="dead", due=400.0, destination="mx a")
        recover(self.db, 100.0)
        found = self.recipients(number, "status", "owner", "due")
        self.assertEqual(found, [(QUEUED, None, 100.0)])
        self.assertEqual(self.all("SELECT name, ready FROM destinations"), [("mx a", 100.0)])

    def test_allDestinations(self) -> None:
        """Whatever was leased, all of its destinations know of it."""
        for name in ("mx a", "mx b"):
            self.add("a@b.example", status=LEASED, owner="dead", due=400.0, destination=name)
        recover(self.db, 100.0)
        found = self.all("SELECT name, ready FROM destinations ORDER BY name")
        self.assertEqual(found, [("mx a", 100.0), ("mx b", 100.0)])

    def test_interrupted(self) -> None:
        """What the process before had in hand is known until it is recovered."""
        number = self.add("a@b.example", status=LEASED, owner="dead", due=400.0)
        self.add("c@d.example")
        self.assertEqual(interrupted(self.db), [number])
        recover(self.db, 100.0)
        self.assertEqual(interrupted(self.db), [])

    def test_ended(self) -> None:
        """What has ended is told now; what is held stays."""
        ended = self.add("a@b.example", status=ENDED, owner="dead", due=400.0)
        held = self.add("a@b.example", status=HELD, due=400.0)
        recover(self.db, 100.0)
        self.assertEqual(self.recipients(ended, "status", "due"), [(ENDED, 100.0)])
        self.assertEqual(self.recipients(held, "status", "due"), [(HELD, 400.0)])

    def test_retried(self) -> None:
        """Some recipients of each destination are tried again, those due first."""
        self.patch(recovery, "RETRIED_AT_START", 4)
        for name in ("mx a", "mx b"):
            for due in (700.0, 500.0, 600.0):
                self.add("a@b.example", destination=name, due=due)
        self.db.execute("UPDATE destinations SET gate = 900, ready = 900")
        recover(self.db, 100.0)
        found = self.all("SELECT destination, due FROM recipients ORDER BY destination, due")
        expected = [(name, due) for name in ("mx a", "mx b") for due in (100.0, 100.0, 700.0)]
        self.assertEqual(found, expected)
        self.assertEqual(self.all("SELECT ready, gate FROM destinations"), [(100.0, 0.0)] * 2)
