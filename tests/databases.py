"""
The embedded spool's database in memory, for what runs in its thread.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.batch import Insert, Value, WriteBatch
from deferrals.spool.rows import QUEUED, RELEASED, STAGED, Lease, insertion
from deferrals.spool.sqlite.ledger import SqliteLedger
from deferrals.spool.sqlite.schema import prepare
from deferrals.spool.sqlite.writing import apply
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage


def insert(*addresses: str, state: int = STAGED, lease: Lease = Lease("us", 300.0)) -> Insert:
    """
    A message to be staged, at the time 0.
    """
    return insertion(
        *(makeEnvelope(), makeMessage(), makeAddressees(*addresses)),
        state=state,
        now=0.0,
        lease=lease,
    )


class DatabaseCase(SynchronousTestCase):
    """
    A database in memory, with the tables of the spool.
    """

    def setUp(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.db.close)
        prepare(self.db)

    def add(self, *addresses: str, state: int = RELEASED, **columns: Value) -> int:
        """
        Put a message into the spool at the time 0.

        @param columns: of its recipients: by default they are queued, and due.
        @return: its number.
        """
        message = insert(*addresses, state=state, lease=Lease("another", 0.0))
        apply(WriteBatch(inserts=[message]), self.db)
        values: dict[str, Value] = {"status": QUEUED, "owner": None, "due": 0.0, **columns}
        self.change(message.number, **values)
        if values["status"] == QUEUED:
            self.waitFor(str(values.get("destination", "")), float(values["due"] or 0.0))
        return message.number

    def waitFor(self, name: str, due: float) -> None:
        """
        A recipient waits for this destination.
        """
        SqliteLedger(self.db, 0.0).waitFor({name: due})

    def change(self, number: int, seq: int | None = None, **columns: Value) -> None:
        """
        Change the rows of a message's recipients.
        """
        names = ", ".join(f"{name} = ?" for name in columns)
        which = "" if seq is None else f" AND seq = {seq}"
        self.db.execute(
            f"UPDATE recipients SET {names} WHERE message = ?{which}", (*columns.values(), number)
        )

    def recipients(self, number: int, *columns: str) -> list[Any]:
        """
        What a message's recipients have in some columns, in their order: tuples,
        or the values of one column.
        """
        found = self.db.execute(
            f"SELECT {', '.join(columns)} FROM recipients WHERE message = ? ORDER BY seq",
            (number,),
        ).fetchall()
        return [row[0] for row in found] if len(columns) == 1 else found

    def all(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        """
        All rows of a query.
        """
        return self.db.execute(sql, values).fetchall()
