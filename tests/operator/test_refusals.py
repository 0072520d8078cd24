"""
C{deferrals refusals}, C{admit}, C{admissions} and C{digest}, where no server runs; and
what they say of what one answers.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from argparse import Namespace
from typing import Any

from deferrals.cli import main
from deferrals.config.tables import Config
from deferrals.model.admission import OWNERS
from deferrals.operator import refusals as module
from deferrals.server.notes import Notes
from deferrals.spool.sqlite.database import connect
from deferrals.spool.sqlite.files import SpoolFiles
from deferrals.spool.sqlite.offline import OfflineSpool, immediately
from deferrals.spool.sqlite.refusals import SqliteRefusals
from deferrals.spool.sqlite.schema import prepare
from tests.configs import LISTEN, RULES, ConfigCase
from tests.model.test_digest import HOSTILE
from tests.model.test_refusal import makeRefusal

ANNA, BOB = "anna@example.net", "bob@example.net"


class Answering:
    """
    A server that answers what it was given to answer.
    """

    running = True

    def __init__(self, answer: Any) -> None:
        self.missing: dict[int, str] = {}
        self.answer = answer
        self.calls: list[Any] = []

    def call(self, name: str, *args: Any) -> Any:
        self.calls.append((name, *args))
        return self.answer

    def close(self) -> None:
        """Nothing."""


class RefusalCommandTests(ConfigCase):
    """
    The commands, from the command line to the files.
    """

    def setUp(self) -> None:
        self.path = os.path.join(self.mktemp(), "mx.toml")
        os.makedirs(os.path.dirname(self.path))
        text = f'{LISTEN}{RULES}\n[refusals]\nkeep = "14d"\nadmit_for = "1h"\n'
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(text)
        self.configuration: Config = self.load(text)
        self.configuration.cameFrom(self.path, text)
        self.spool(0)
        now = time.time()
        store = SqliteRefusals(self.configuration.refusalsPath, immediately)
        self.one = makeRefusal(1, time=now - 60, subject="Hello", rule="rspamd: score 16")
        self.other = makeRefusal(2, BOB, time=now, admits=(), sender="x@y.example")
        self.successResultOf(store.add([(ANNA, self.one), (BOB, self.other)]))
        store.close()

    def spool(self, worker: int) -> None:
        files = SpoolFiles(self.configuration.spoolOf(worker))
        os.makedirs(files.directory)
        files.make()
        db = connect(files.database)
        prepare(db)
        db.close()

    def run_(self, *words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([*words, "--config", self.path])
        return status, out.getvalue(), err.getvalue()

    def notes(self, worker: int = 0) -> Notes:
        """
        What a server finds that starts now.
        """
        spool = OfflineSpool(self.configuration.spoolOf(worker))
        found = spool.notes()
        spool.close()
        notes = Notes(_Clock())
        notes._loaded(found)
        return notes

    def test_refusals(self) -> None:
        """What was refused for one, and nothing else."""
        status, out, _ = self.run_("refusals", ANNA)
        self.assertEqual(status, 0)
        for what in (self.one.id, "friend@example.org", "Hello", "score 16", "1 refusals"):
            self.assertIn(what, out)
        self.assertNotIn("y.example", out)
        status, out, _ = self.run_("refusals", ANNA, "--json")
        self.assertEqual(json.loads(out), [self.one.toJSON()])
        self.assertEqual(json.loads(self.run_("refusals", ANNA, "--json", "--since", "5s")[1]), [])
        self.assertEqual(self.run_("refusals", "nonsense")[0], 2)

    def test_admit(self) -> None:
        """The server finds it when it starts."""
        status, out, err = self.run_("admit", self.one.id, ANNA)
        self.assertEqual((status, err), (0, ""))
        self.assertIn("by network 192.0.2.0/24, until", out)
        self.assertEqual([one[0] for one in self.notes().find("admission", OWNERS)], [ANNA])
        ((key, value, _),) = self.notes().find("admission", ANNA)
        self.assertEqual(key, "network 192.0.2.0/24 <friend@example.org>")
        assert isinstance(value, dict)
        self.assertEqual(round(float(str(value["until"])) - float(str(value["begun"]))), 3600)

    def test_how(self) -> None:
        """Once, for a while, and by what."""
        status, out, _ = self.run_("admit", self.one.id, ANNA, "--once", "--json")
        self.assertEqual((status, json.loads(out)["once"]), (0, True))
        _, out, err = self.run_("admit", self.one.id, ANNA, "--for", "2d", "--by", "sender")
        self.assertIn("by sender friend@example.org", out)
        self.assertIn("anyone can write", err)
        _, _, err = self.run_("admit", self.one.id, ANNA, "--by", "dkim")
        self.assertIn("cannot be known by dkim", err)
        _, out, _ = self.run_("admissions", "list", "--json")
        self.assertEqual(len(json.loads(out)), 2)

    def test_unknown(self) -> None:
        """Another's reference, or none, is said not to be there."""
        for reference in (self.other.id, "x"):
            status, _, err = self.run_("admit", reference, ANNA)
            self.assertEqual(status, 1)
            self.assertIn("is kept", err)
        self.assertEqual(self.notes().find("admission", ANNA), [])

    def test_remove(self) -> None:
        """What was said is taken back, of one or of all, whichever worker has it."""
        self.run_("admit", self.one.id, ANNA)
        self.run_("admit", self.other.id, BOB)
        self.assertIn("2 admissions", self.run_("admissions", "list")[1])
        self.assertIn(BOB, self.run_("admissions", "list", BOB)[1])
        self.assertEqual(self.run_("admissions", "remove")[0], 2)
        status, out, _ = self.run_("admissions", "remove", ANNA)
        self.assertEqual((status, out), (0, "1 admissions removed\n"))
        self.assertEqual(self.run_("admissions", "remove", ANNA)[0], 1)
        self.spool(1)
        self.assertIn("1 admissions", self.run_("admissions", "list")[1])
        self.assertEqual(self.run_("admissions", "remove", "--all")[0], 0)
        self.assertEqual(self.notes().find("admission", BOB), [])

    def test_digest(self) -> None:
        """Only a server can send one."""
        status, _, err = self.run_("digest")
        self.assertEqual(status, 2)
        self.assertIn("no server runs", err)

    def test_hostile(self) -> None:
        """What senders say is one line of text, whatever it is; JSON has it whole."""
        one = {**self.one.toJSON(), **dict.fromkeys(("sender", "subject", "reply"), HOSTILE)}
        out = io.StringIO()
        arguments = Namespace(recipient=ANNA, since=None, json=False)
        with contextlib.redirect_stdout(out):
            module.refusals(Answering([one]), arguments)
        self.assertEqual(len(out.getvalue().splitlines()), 5)
        self.assertNotIn("\u202e", out.getvalue())
        arguments.json = True
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            module.refusals(Answering([one]), arguments)
        self.assertEqual(json.loads(out.getvalue())[0]["subject"], HOSTILE)

    def test_digestLines(self) -> None:
        """Whom was told, or would be."""
        for said, what, status in (
            ([{"recipient": ANNA, "count": 2, "id": "1M"}], f"<{ANNA}> 2 refusals: 1M", 0),
            ([{"recipient": ANNA, "count": 2, "text": "a\nb"}], "would be told\n  a\n  b", 0),
            ([], "0 recipients", 1),
        ):
            out = io.StringIO()
            arguments = Namespace(recipient=None, dry_run=True, json=False)
            with contextlib.redirect_stdout(out):
                self.assertEqual(module.digest(Answering(said), arguments), status)
            self.assertIn(what, out.getvalue())


class _Clock:
    """
    Whose time is the system's.
    """

    def seconds(self) -> float:
        return time.time()
