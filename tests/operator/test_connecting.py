"""
Tests for L{deferrals.operator.connecting}; the ways through a socket and into a spool are
in L{tests.operator.test_commands} and L{tests.operator.test_control}.
"""

from __future__ import annotations

import os
from typing import Any

import psycopg

from deferrals.errors import SpoolError
from deferrals.operator.connecting import connect, spoolsOf
from tests.configs import LISTEN, ConfigCase


class ConnectTests(ConfigCase):
    """
    L{connect} and L{spoolsOf}.
    """

    def test_database(self) -> None:
        """A queue in a database is looked for there, and nowhere else."""

        def refused(*args: Any, **options: Any) -> Any:
            raise psycopg.OperationalError("connection refused")

        self.patch(psycopg, "connect", refused)
        self.load(f'{LISTEN}[spool]\nuse = "postgresql"\nconninfo = "host=db"')
        error = self.assertRaises(SpoolError, connect, self.path)
        self.assertEqual(str(error), "connection refused")

    def test_spoolsOf(self) -> None:
        """Those of all processes that there are, or were; the first one's, at least."""
        config = self.load(f'state_dir = "{os.path.abspath(self.mktemp())}"\n{LISTEN}')
        self.assertEqual(spoolsOf(config), {0: config.spoolOf(0)})
        for worker in (0, 3):
            os.makedirs(config.spoolOf(worker))
        self.assertEqual([*spoolsOf(config)], [0, 3])
