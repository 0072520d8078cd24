"""
Tests for L{deferrals.operator.moving}; into a real database in
L{tests.integration.test_cluster_move}.
"""

from __future__ import annotations

import contextlib
import io
import json
import os

from deferrals.cli import main
from deferrals.config.tables import load
from deferrals.plugins.finding import stagePlugins
from deferrals.spool.rows import ASIDE
from deferrals.spool.sqlite.moving import SqliteEnd, make
from tests.configs import LISTEN
from tests.moves import MoveCase


class MoveCommandTests(MoveCase):
    """
    C{deferrals spool move}.
    """

    def config(self) -> tuple[str, str]:
        """
        @return: the name of a configuration, and where its queue is to be.
        """
        path = os.path.abspath(self.mktemp())
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'state_dir = "{path}-state"\n{LISTEN}')
        return path, load(path, stagePlugins()).spoolOf(0)

    def run_(self, *words: str) -> tuple[int, str, str]:
        """
        @return: exit status, output and errors.
        """
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["spool", "move", *words])
        return status, out.getvalue(), err.getvalue()

    def test_moved(self) -> None:
        """All of it: 0; what stays is named: 1; where a server has it: 2."""
        (source, before), (target, after) = self.config(), self.config()
        make(before)
        end = SqliteEnd(before)
        self.fill(end)
        status, _, err = self.run_(source, target)
        self.assertEqual(status, 2)
        self.assertIn("in use by", err)
        (first, *_) = end.numbers(-1, 10)
        aside = f"UPDATE messages SET state = {ASIDE} WHERE id = {first}"
        end._run(lambda ledger: ledger.db.execute(aside))
        end.close()
        status, out, _ = self.run_(source, target, "--json")
        said = json.loads(out)
        self.assertEqual((status, said["moved"]), (1, 2))
        self.assertIn("was set aside", said["stayed"][0]["problem"])
        status, out, _ = self.run_(source, target)
        self.assertEqual(status, 1)
        self.assertIn("stays: it was set aside", out)
        there = SqliteEnd(after)
        self.addCleanup(there.close)
        self.assertEqual(len(there.numbers(-1, 10)), 2)

    def test_nothing(self) -> None:
        """A queue that is not there, or is the same, cannot be moved."""
        (source, _), (target, _) = self.config(), self.config()
        self.assertEqual(self.run_(source, target)[0], 2)
        status, _, err = self.run_(source, source)
        self.assertEqual((status, err), (2, "deferrals: both configurations have the same queue\n"))
        self.assertEqual(self.run_(source, self.mktemp())[0], 2)
