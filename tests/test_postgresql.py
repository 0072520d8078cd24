"""
Tests for L{deferrals.postgresql}.
"""

from __future__ import annotations

from typing import Any

from deferrals.postgresql import Link, checkConninfo, hasDriver
from tests.spool.postgresql.fakes import FakeConnection, LinkCase


class LinkTests(LinkCase):
    """
    L{Link}.
    """

    def test_cut(self) -> None:
        """It is shut down, and stays its user's to close; then there is nothing to cut."""
        connection: Any = FakeConnection()
        link = Link(connection)
        link.cut()
        self.assertTrue(connection.isCut())
        self.assertFalse(connection.closed)
        link.close()
        link.cut()
        self.assertTrue(connection.closed)


class ConninfoTests(LinkCase):
    """
    L{checkConninfo} and L{hasDriver}.
    """

    def test_checked(self) -> None:
        """What libpq reads is one."""
        self.assertTrue(hasDriver())
        for good in ("host=a,b dbname=mail", "postgresql://a,b/mail", ""):
            checkConninfo(good)
        error = self.assertRaises(ValueError, checkConninfo, "hots=a")
        self.assertEqual(str(error), 'invalid connection option "hots"')

    def test_password(self) -> None:
        """An error has nothing of what may be a password."""
        for bad in ("password=open sesame", "host=a password='secret", "postgresql://me:secret@[a"):
            error = self.assertRaises(ValueError, checkConninfo, bad)
            self.assertEqual(str(error), "")
