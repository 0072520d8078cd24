"""
Tests for L{deferrals.spool.postgresql.moving}; those with a real database are in
L{tests.integration.test_cluster_move}.
"""

from __future__ import annotations

import psycopg

from deferrals.errors import StoreAway
from deferrals.spool.postgresql.connection import Access
from deferrals.spool.postgresql.moving import PostgresqlEnd
from tests.spool.postgresql.fakes import FakeConnection, LinkCase


class PostgresqlEndTests(LinkCase):
    """
    L{PostgresqlEnd}.
    """

    def test_away(self) -> None:
        """One that is lost at its beginning is not there, and closed."""
        link = FakeConnection()
        link.answers["SELECT"] = lambda: link.lose() if len(link.said) > 1 else []
        self.patch(psycopg, "connect", lambda *_, **options: link)
        self.assertRaises(StoreAway, PostgresqlEnd, Access("host=db"), "mx1")
        self.assertTrue(link.closed)
        link.close()
