"""
Tests for L{deferrals.spool.sqlite.moving}; to PostgreSQL and back are in
L{tests.integration.test_cluster_move}.
"""

from __future__ import annotations

import os

from deferrals.errors import SpoolError
from deferrals.spool.rows import ASIDE
from deferrals.spool.sqlite.moving import SqliteEnd, make
from tests.moves import MoveCase


class SqliteEndTests(MoveCase):
    """
    L{SqliteEnd}, at both ends.
    """

    def test_moved(self) -> None:
        """What is in the queue is the same after it was moved; the files go along."""
        source, target = self.sqlite(), self.sqlite()
        self.fill(source)
        before = self.shown(source)
        self.assertEqual(len(before), 3)
        self.assertEqual(self.moved(source, target), ["", "", ""])
        self.assertEqual((self.shown(source), self.shown(target)), ([], before))
        bodies = [os.listdir(one._files.bodies) for one in (source, target)]
        self.assertEqual([len(one) for one in bodies], [0, 1])

    def test_broken(self) -> None:
        """After a break between the two, what is there already is not taken twice."""
        source, target = self.sqlite(), self.sqlite()
        self.fill(source)
        before = self.shown(source)
        for number in source.numbers(-1, 10):
            target.put(source.take(number))
        self.assertEqual(self.moved(source, target), ["", "", ""])
        self.assertEqual((self.shown(source), self.shown(target)), ([], before))

    def test_aside(self) -> None:
        """A message whose recipients are not known stays."""
        source, target = self.sqlite(), self.sqlite()
        self.fill(source)
        source._run(lambda ledger: ledger.db.execute(f"UPDATE messages SET state = {ASIDE}"))
        why = "it was set aside: its recipients are not known"
        self.assertEqual(self.moved(source, target), [why] * 3)
        self.assertEqual(len(source.numbers(-1, 10)), 3)

    def test_used(self) -> None:
        """One that a process has is left alone; one that is there is not made anew."""
        source = self.sqlite()
        self.fill(source)
        self.assertRaises(SpoolError, SqliteEnd, source._files.directory)
        make(source._files.directory)
        self.assertEqual(len(source.numbers(-1, 10)), 3)
