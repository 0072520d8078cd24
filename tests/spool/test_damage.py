"""
What operators read of messages that cannot be read.
"""

from __future__ import annotations

from twisted.logger import capturedLogs, formatEvent

from deferrals.model.ids import formatId
from deferrals.spool.claims import Claims
from deferrals.spool.damage import logUnread
from deferrals.spool.sqlite.files import SpoolFiles
from deferrals.spool.sqlite.ledger import SqliteLedger
from tests.databases import DatabaseCase


class DamageTests(DatabaseCase):
    """
    L{logUnread<deferrals.spool.damage.logUnread>}.
    """

    def test_both(self) -> None:
        """What is damaged is told apart from what cannot be read this time."""
        claims = Claims(SqliteLedger(self.db, 0.0, "us", 2e9, SpoolFiles(self.mktemp())))
        claims.damaged.append((1, "its content is gone"))
        claims.later.append((2, "the disk is busy"))
        with capturedLogs() as logged:
            logUnread(claims)
        self.assertEqual(
            [(one.get("event"), formatEvent(one)) for one in logged],
            [
                (
                    "damaged",
                    f"{formatId(1)} is damaged, and was moved aside: its content is gone",
                ),
                (None, f"{formatId(2)} cannot be read now: the disk is busy"),
            ],
        )
