"""
Tests for L{deferrals.model.store}.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.settings import BadSetting
from deferrals.model.store import SpoolSettings


class SpoolSettingsTests(SynchronousTestCase):
    """
    L{SpoolSettings}.
    """

    def test_alone(self) -> None:
        """Without a database nothing that is about one may stand there."""
        self.assertFalse(SpoolSettings().isShared)
        others: dict[str, Any] = {
            **{"conninfo": "host=db", "password_file": "p", "schema": "mail"},
            **{"timeout": 1.0, "upgrade": False, "bodies": "/mnt/bodies"},
        }
        for name, value in others.items():
            error = self.assertRaises(BadSetting, SpoolSettings, **{name: value})
            self.assertEqual(error.key, name)
        error = self.assertRaises(BadSetting, SpoolSettings, bodies="/mnt/bodies")
        self.assertIn('only with use = "postgresql"', str(error))

    def test_use(self) -> None:
        """A queue that is shared has notes that are; a lease is only for that."""
        found = SpoolSettings(use="postgresql", conninfo="", lease=5.0, machine="mx1")
        self.assertTrue(found.isShared)
        wrong: dict[str, dict[str, Any]] = {
            "notes": {"use": "postgresql", "conninfo": "", "notes": "own"},
            "lease": {"notes": "postgresql", "conninfo": "", "lease": 5.0},
            "bodies": {"notes": "postgresql", "conninfo": "", "bodies": "/mnt/bodies"},
            "machine": {"use": "postgresql", "conninfo": "", "machine": "a\nb"},
            "conninfo": {"use": "postgresql"},
        }
        for name, settings in wrong.items():
            error = self.assertRaises(BadSetting, lambda some=settings: SpoolSettings(**some))
            self.assertEqual(error.key, name)

    def test_shared(self) -> None:
        """With one it has to be said how it is reached; its schema has a plain name."""
        error = self.assertRaises(BadSetting, SpoolSettings, notes="postgresql")
        self.assertEqual(error.key, "conninfo")
        for schema in ("Mail", "pg_mail", "a" * 32, "", 'a"b', "1a"):
            error = self.assertRaises(
                BadSetting, SpoolSettings, notes="postgresql", conninfo="", schema=schema
            )
            self.assertEqual(error.key, "schema")
        for schema in ("mail", "_1", "a" * 31):
            found = SpoolSettings(notes="postgresql", conninfo="host=s3cret", schema=schema)
            self.assertTrue(found.isShared)
            self.assertNotIn("s3cret", repr(found))
