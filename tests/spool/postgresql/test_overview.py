"""
Tests for L{deferrals.spool.postgresql.overview}; those with a real database are in
L{tests.integration.test_cluster}.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from deferrals.spool.postgresql.overview import owners
from tests.spool.postgresql.fakes import FakeConnection, LinkCase


class OverviewTests(LinkCase):
    """
    L{owners}.
    """

    def test_owners(self) -> None:
        """What JSON can carry."""
        row = (3, "mx1", 0, 991, "0.2", 1, Decimal("1.23456"), True, 2, 17)
        db: Any = FakeConnection(SELECT=[row])
        self.addCleanup(db.close)
        wanted = {
            **{"owner": 3, "machine": "mx1", "worker": 0, "pid": 991, "version": "0.2"},
            **{"schema": 1, "seen_seconds": 1.235, "alive": True, "staged": 2, "leased": 17},
        }
        self.assertEqual(owners(db), [wanted])
