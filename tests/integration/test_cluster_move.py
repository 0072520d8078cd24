"""
A queue that is carried from SQLite into a real PostgreSQL, and back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

from deferrals.errors import SpoolError
from deferrals.spool.moving import move
from deferrals.spool.postgresql.connection import Access
from deferrals.spool.postgresql.directory import MARKER, Directory
from deferrals.spool.postgresql.moving import PostgresqlEnd
from deferrals.spool.sqlite.moving import SqliteEnd, make
from tests.integration.clusters import primary
from tests.integration.support import ROOT, cli, until
from tests.moves import LARGE, MoveCase


class MoveTests(MoveCase):
    """
    L{move}, between L{SqliteEnd} and L{PostgresqlEnd}.
    """

    def setUp(self) -> None:
        self.server = primary()
        self.access = Access(self.server.conninfo, None, self.server.newSchema())
        self.directory: Directory | None = None

    def postgresql(self) -> PostgresqlEnd:
        """
        The same one each time.
        """
        return PostgresqlEnd(self.access, "mx1", self.directory)

    def test_thereAndBack(self) -> None:
        """What is in the queue is the same after it went to PostgreSQL and came back."""
        first = self.sqlite()
        self.fill(first)
        before = self.shown(first)
        self.assertEqual(len(before), 3)
        there = self.postgresql()
        self.assertEqual(self.moved(first, there), ["", "", ""])
        self.assertEqual((self.shown(first), self.shown(there)), ([], before))
        schema = self.access.schema
        turns = self.server.ask(f"SELECT name, ready <= now() FROM {schema}.destinations")
        self.assertEqual(turns, [("x", True)])
        back = self.sqlite()
        self.assertEqual(self.moved(there, back), ["", "", ""])
        self.assertEqual((self.shown(there), self.shown(back)), ([], before))
        there.close()
        for table in ("messages", "recipients", "pieces", "owners"):
            count = self.server.ask(f"SELECT count(*) FROM {self.access.schema}.{table}")
            self.assertEqual(count, [(0,)], table)
        self.assertEqual(len(os.listdir(back._files.bodies)), 1)

    def test_directory(self) -> None:
        """Large contents go into the directory, if there is one, and come back from it."""
        path = os.path.abspath(self.mktemp())
        os.mkdir(path)
        self.directory = Directory(path)
        self.test_thereAndBack()
        left = [name for _, _, names in os.walk(path) for name in names]
        self.assertEqual(left, [MARKER])

    def test_unnamed(self) -> None:
        """A queue with contents in a directory is not moved by who does not name it."""
        path = os.path.abspath(self.mktemp())
        os.mkdir(path)
        self.directory = Directory(path)
        first = self.sqlite()
        self.fill(first)
        there = self.postgresql()
        self.assertEqual(self.moved(first, there), ["", "", ""])
        there.close()
        self.directory = None
        error = self.assertRaises(SpoolError, self.postgresql)
        self.assertIn("spool.bodies has to name it", str(error))

    def test_broken(self) -> None:
        """After a break between the two, what is there already is not taken twice."""
        source, there = self.sqlite(), self.postgresql()
        self.addCleanup(there.close)
        self.fill(source)
        before = self.shown(source)
        numbers = source.numbers(-1, 10)
        for number in numbers:
            there.put(source.take(number))
        self.assertEqual(self.moved(source, there), ["", "", ""])
        self.assertEqual((self.shown(source), self.shown(there)), ([], before))

    def test_stays(self) -> None:
        """What cannot be carried stays, and is named: damaged, or another one's number."""
        source, there = self.sqlite(), self.postgresql()
        self.addCleanup(there.close)
        self.fill(source)
        one, two, large = source.numbers(-1, 10)
        os.truncate(source._files.body(large), 10)
        there.put(source.take(one))
        self.server.ask(f"UPDATE {self.access.schema}.messages SET digest = '\\x00'")
        found = dict(move(source, there))
        self.assertEqual(found[one], "another message has its id there")
        self.assertEqual(found[two], "")
        self.assertTrue(found[large])
        self.assertEqual(source.numbers(-1, 10), [one, large])

    def test_killed(self) -> None:
        """
        A move that is killed, again and again, goes on where it was: there and back, each
        message is in one of both, and in the end all are there.
        """
        directory = os.path.abspath(self.mktemp())
        os.mkdir(directory)
        paths = [os.path.join(directory, name) for name in ("from.toml", "to.toml")]
        listen = 'bounces = "none"\n[[listen]]\nendpoint = "tcp:25"\n'
        database = (
            f'[spool]\nuse = "postgresql"\nconninfo = "{self.access.conninfo}"\n'
            f'schema = "{self.access.schema}"\n'
        )
        for path, more in zip(paths, ("", database), strict=True):
            with open(path, "w", encoding="utf-8") as file:
                file.write(f'state_dir = "{os.path.basename(path)}-state"\n{listen}{more}')
        spool = os.path.join(directory, "from.toml-state", "spool")
        make(spool)
        end = SqliteEnd(spool)
        for _ in range(40):
            self.fill(end)
        before = [one[0] for one in self.shown(end, 1000)]
        end.close()
        self.assertEqual(len(before), 120)
        self.kills = 0
        self.movedThrough(*paths)
        self.movedThrough(*reversed(paths))
        self.assertGreater(self.kills, 2)
        end = SqliteEnd(spool)
        self.addCleanup(end.close)
        self.assertEqual([one[0] for one in self.shown(end, 1000)], before)
        left = self.server.ask(f"SELECT count(*) FROM {self.access.schema}.messages")
        self.assertEqual(left, [(0,)])

    def movedThrough(self, *paths: str) -> None:
        """
        Move, and kill that at other moments each time, until it comes to its end.
        """
        seconds = 0.05
        while True:
            argv = [sys.executable, "-m", "deferrals.cli", "spool", "move", *paths]
            env = {**os.environ, "PYTHONPATH": ROOT}
            moving = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE)
            self.addCleanup(moving.communicate)
            until(lambda moving=moving: self.begun(paths) or moving.poll() is not None, "begun")
            try:
                self.assertEqual(moving.wait(seconds), 0)
                return
            except subprocess.TimeoutExpired:
                moving.kill()
                moving.wait()
                self.kills += 1
                seconds *= 2

    def begun(self, paths: Sequence[str]) -> bool:
        """
        Whether a move has the database.
        """
        schema = self.access.schema
        found = self.server.ask("SELECT to_regclass(%s) IS NOT NULL", f"{schema}.owners")
        asked = f"SELECT seen > clock_timestamp() - interval '1 second' FROM {schema}.owners"
        return bool(found[0][0] and self.server.ask(asked) == [(True,)])

    def test_used(self) -> None:
        """A store that a server uses is left alone."""
        there = self.postgresql()
        error = self.assertRaises(SpoolError, self.postgresql)
        self.assertIn("a server uses the database", str(error))
        there.close()
        self.postgresql().close()
        source = self.sqlite()
        self.assertRaises(SpoolError, SqliteEnd, source._files.directory)

    def test_commands(self) -> None:
        """
        C{deferrals spool move} carries a queue into the database; C{queue} lists, holds and
        exports there, from any machine and while no server runs; and back.
        """
        directory = os.path.abspath(self.mktemp())
        os.mkdir(directory)
        source, target = (os.path.join(directory, name) for name in ("from.toml", "to.toml"))
        listen = 'bounces = "none"\n[[listen]]\nendpoint = "tcp:25"\n'
        database = (
            f'[spool]\nuse = "postgresql"\nconninfo = "{self.access.conninfo}"\n'
            f'schema = "{self.access.schema}"\n'
        )
        for path, text in ((source, listen), (target, f'state_dir = "t"\n{listen}{database}')):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        make(os.path.join(directory, "state", "spool"))
        end = SqliteEnd(os.path.join(directory, "state", "spool"))
        self.fill(end)
        before = self.shown(end)
        end.close()
        done = cli("spool", "move", source, target)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        found = cli("queue", "list", "--json", "-c", target)
        rows = [json.loads(line) for line in found.stdout.splitlines()]
        self.assertEqual((found.returncode, len(rows)), (0, 12), found.stderr)
        states = {"queued": 6, "held": 2, "ended": 2, "damaged": 2}
        self.assertEqual(Counter(row["status"] for row in rows), Counter(states))
        held = cli("queue", "hold", "--all", "-c", target)
        self.assertEqual(held.returncode, 0, held.stderr)
        found = cli("queue", "list", "--status", "queued", "-c", target)
        self.assertEqual((found.returncode, found.stdout), (0, "0 recipients\n"))
        large = max(rows, key=lambda row: row["size"])
        exported = cli("queue", "export", large["id"], "-c", target)
        self.assertEqual((exported.returncode, len(exported.stdout)), (0, LARGE))
        done = cli("spool", "move", target, source, "--json")
        self.assertEqual((done.returncode, json.loads(done.stdout)["moved"]), (0, 3))
        end = SqliteEnd(os.path.join(directory, "state", "spool"))
        self.addCleanup(end.close)
        self.assertEqual([one[0] for one in self.shown(end)], [one[0] for one in before])
