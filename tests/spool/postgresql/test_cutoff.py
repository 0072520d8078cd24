"""
Tests for L{deferrals.spool.postgresql.cutoff}; the one with a real server is in
L{tests.integration.test_store}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import StoreAway
from deferrals.spool.postgresql.cutoff import CutOff
from tests.spool.postgresql.fakes import Rows


class Backends:
    """
    A server that knows of connections.

    @ivar looks: how often the one before is still there.
    """

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.ended: list[Any] = []
        self.pid = 0

    def execute(self, statement: str, values: Sequence[object] = ()) -> Rows:
        if "pg_terminate_backend" in statement:
            self.ended.append(values)
            self.looks -= 1
            return Rows([(True,)] if self.looks >= 0 else [])
        if "pg_backend_pid" in statement:
            self.pid += 1
            return Rows([(self.pid, f"at {self.pid}")])
        return Rows()


class CutOffTests(SynchronousTestCase):
    """
    L{CutOff}.
    """

    def test_first(self) -> None:
        """There is none before the first."""
        server: Any = Backends(0)
        CutOff().begin(server)
        self.assertEqual(server.ended, [])

    def test_ended(self) -> None:
        """The one before is ended, and waited for."""
        server: Any = Backends(3)
        cutOff = CutOff()
        cutOff.begin(server)
        cutOff.begin(server)
        self.assertEqual(server.ended, [(1, "at 1")] * 4)
        cutOff.begin(server)
        self.assertEqual(server.ended[4:], [(2, "at 2")])

    def test_stuck(self) -> None:
        """One that does not end is an error, and is still known the next time."""
        server: Any = Backends(100)
        cutOff = CutOff()
        cutOff.begin(server)
        with self.assertRaises(StoreAway):
            cutOff.begin(server)
        server.looks = 0
        cutOff.begin(server)
        self.assertEqual(server.ended[-1], (1, "at 1"))
