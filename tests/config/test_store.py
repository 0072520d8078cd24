"""
Tests for L{deferrals.config.store}.
"""

from __future__ import annotations

import importlib.util

from tests.configs import LISTEN, ConfigCase


class StoreTests(ConfigCase):
    """
    L{deferrals.config.store.storeProblems}.
    """

    def problem(self, conninfo: str) -> str:
        """
        What is wrong with one.
        """
        table = f'[spool]\nnotes = "postgresql"\nconninfo = "{conninfo}"'
        (found,) = self.problems(f"{LISTEN}{table}")
        return found

    def test_conninfo(self) -> None:
        """It has to be libpq's; what might be a part of a password is not shown."""
        expected = "spool.conninfo: expected a libpq connection string"
        self.assertEqual(self.problem("hots=a"), f'{expected}: invalid connection option "hots"')
        for bad in ("host=db password=se cret", "postgresql://u:secret@[db/x"):
            self.assertEqual(self.problem(bad), expected)

    def test_driver(self) -> None:
        """Without the driver it cannot be."""
        self.patch(importlib.util, "find_spec", lambda name: None)
        expected = "expected the extra deferrals[postgresql] to be installed"
        self.assertEqual(self.problem("host=db"), f"spool.notes: {expected}")
