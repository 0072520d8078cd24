"""
Tests for L{deferrals.spool.postgresql.offline}; those with a real database are in
L{tests.integration.test_cluster_move}.
"""

from __future__ import annotations

import psycopg

from deferrals.errors import SpoolError
from deferrals.spool.postgresql import offline
from deferrals.spool.postgresql.connection import Access
from deferrals.spool.postgresql.offline import OfflineDatabase
from tests.spool.postgresql.fakes import FakeConnection, LinkCase


class OfflineDatabaseTests(LinkCase):
    """
    L{OfflineDatabase}.
    """

    def test_unusable(self) -> None:
        """Tables of another version are left alone, and the connection is closed."""
        link = FakeConnection()
        self.patch(psycopg, "connect", lambda *_, **options: link)
        self.patch(offline, "versionOf", lambda db: 7)
        error = self.assertRaises(SpoolError, OfflineDatabase, Access("host=db"))
        self.assertIn("install a newer deferrals", str(error))
        self.assertTrue(link.closed)
