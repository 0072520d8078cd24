"""
What an operator's commands do to recipients: a table.
"""

from __future__ import annotations

from deferrals.spool.changes import Changes
from deferrals.spool.rows import (
    DAMAGED,
    ENDED,
    HELD,
    HOLD,
    LEASED,
    QUEUED,
    STAGED,
    STATUS_NAMES,
    STUCK,
)
from deferrals.spool.sqlite.ledger import SqliteLedger
from tests.databases import DatabaseCase

#: No recipient is there any longer.
GONE = -1

#: What a recipient in each state becomes by each command; what is not here
#: stays.
BECOMES = {
    "retry": {QUEUED: QUEUED, STUCK: ENDED, DAMAGED: QUEUED},
    "hold": {QUEUED: HELD, LEASED: LEASED},
    "release": {HELD: QUEUED},
    "remove": {QUEUED: GONE, HELD: GONE, ENDED: GONE, STUCK: GONE, DAMAGED: GONE},
}


class ChangesTests(DatabaseCase):
    """
    L{Changes}, at the time 100.
    """

    def changes(self, idle: bool = False) -> Changes:
        return Changes(SqliteLedger(self.db, 100.0, wall=2e9), idle)

    def test_table(self) -> None:
        """Each command changes recipients in some states, and says how many."""
        for command, becomes in BECOMES.items():
            for status, name in enumerate(STATUS_NAMES):
                number = self.add("a@b.example", status=status, due=500.0, destination="mx a")
                changes = self.changes()
                count = changes.make(command, [(number, 0)])
                found = self.recipients(number, "status") or [GONE]
                self.assertEqual(found, [becomes.get(status, status)], f"{command} {name}")
                self.assertEqual(count, status in becomes, f"{command} {name}")
                self.assertEqual(changes.active, status == LEASED, f"{command} {name}")

    def test_underWay(self) -> None:
        """What is under way is marked to be held, once; and is not any longer, if released."""
        number = self.add("a@b.example", "c@b.example", status=LEASED)
        keys = [(number, 0), (number, 1)]
        self.assertEqual(self.changes().make("hold", keys[:1]), 1)
        self.assertEqual(self.changes().make("hold", keys[:1]), 0)
        self.assertEqual(self.recipients(number, "status", "action")[0], (LEASED, HOLD))
        changes = self.changes()
        self.assertEqual((changes.make("release", keys), changes.active), (1, 2))
        self.assertEqual(self.recipients(number, "action"), [None, None])

    def test_underWayBefore(self) -> None:
        """Where the server has died meanwhile, what was to be held is held."""
        number = self.add("a@b.example", status=LEASED)
        self.changes().make("hold", [(number, 0)])
        idle = self.changes(idle=True)
        self.assertEqual((idle.make("retry", [(number, 0)]), idle.active), (0, 0))
        self.assertEqual(idle.make("release", [(number, 0)]), 1)
        self.assertEqual(self.recipients(number, "status", "action"), [(QUEUED, None)])

    def test_retry(self) -> None:
        """What is tried again is due now, whatever its destination has done."""
        number = self.add("a@b.example", due=500.0, destination="mx a")
        self.db.execute("UPDATE destinations SET gate = 900, ready = 900")
        self.changes().make("retry", [(number, 0)])
        self.assertEqual(self.recipients(number, "due"), [100.0])
        self.assertEqual(self.all("SELECT ready, gate FROM destinations"), [(100.0, 0.0)])

    def test_retryStuck(self) -> None:
        """What could not be told is told again."""
        number = self.add("a@b.example", status=STUCK, notice=500.0, due=7.0)
        self.changes().make("retry", [(number, 0)])
        self.assertEqual(self.recipients(number, "due", "notice"), [(100.0, None)])

    def test_retryDamaged(self) -> None:
        """What is tried again is given up when it would have been."""
        number = self.add("a@b.example", status=DAMAGED, notice=900.0, expires=500.0)
        self.changes().make("retry", [(number, 0)])
        self.assertEqual(self.recipients(number, "notice"), [500.0])

    def test_idle(self) -> None:
        """Where no server delivers, what is leased or staged is changed as what waits is."""
        leased = self.add("a@b.example", status=LEASED)
        staged = self.add("a@b.example", state=STAGED)
        keys = [(leased, 0), (staged, 0)]
        self.assertEqual(self.changes().make("remove", keys), 0)
        self.assertEqual(self.changes(idle=True).make("hold", keys), 2)
        self.assertEqual(self.recipients(leased, "status", "owner"), [(HELD, None)])

    def test_remove(self) -> None:
        """A message leaves with its last recipient, and is named: its file goes, too."""
        number = self.add("a@b.example", "c@b.example")
        changes = self.changes()
        changes.make("remove", [(number, 0)])
        self.assertEqual(changes.emptied, [])
        changes.make("remove", [(number, 1)])
        self.assertEqual(changes.emptied, [number])
        self.assertEqual(self.all("SELECT id FROM messages"), [])
        self.assertEqual(self.all("SELECT id FROM bodies"), [])

    def test_unknown(self) -> None:
        """A recipient that has left meanwhile is not counted."""
        number = self.add("a@b.example")
        self.assertEqual(self.changes().make("retry", [(number, 5), (1, 0)]), 0)

    def test_history(self) -> None:
        """The history tells what the operator has done, at which time of day."""
        number = self.add("a@b.example", status=LEASED)
        self.changes().make("remove", [(number, 0)])
        self.changes(idle=True).make("hold", [(number, 0)])
        self.assertEqual(
            self.all("SELECT message, seq, at, event FROM history"),
            [(number, 0, 2e9, "hold by operator")],
        )
