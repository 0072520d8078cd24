"""
Messages taken out of the queue.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shutil
import sys
import unittest.mock
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.cli import main
from deferrals.errors import DeferralsError
from deferrals.model.ids import parseId
from deferrals.operator import commands
from deferrals.operator.commands import export_, rescue_
from deferrals.spool.sqlite.files import SpoolFiles, SpoolLock
from tests.configs import LISTEN
from tests.spool.sqlite import test_belonging


class ExportTests(SynchronousTestCase):
    """
    L{export_}.
    """

    def export(self, *parts: bytes | None) -> bytes:
        """
        @return: what is written of a message that is read in these parts.
        """
        found = [None if part is None else base64.b64encode(part).decode() for part in parts]
        queue = unittest.mock.Mock()
        queue.call = lambda name, number, offset: found.pop(0)
        out = io.TextIOWrapper(io.BytesIO())
        self.patch(sys, "stdout", out)
        self.assertEqual(export_(queue, argparse.Namespace(id="x")), 0)
        return out.buffer.getvalue()  # type: ignore[attr-defined, no-any-return]

    def test_export(self) -> None:
        """Part by part; one that is delivered meanwhile is never taken for a whole one."""
        self.assertEqual(self.export(b"a", b"b", b""), b"ab")
        self.assertRaises(DeferralsError, self.export, b"a", None)


class LogAloneTests(SynchronousTestCase):
    """
    C{deferrals explain}.
    """

    def test_logAlone(self) -> None:
        """A log that is named without a configuration is read alone: no spool is looked for."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("2026-11-29T16:00:00+00:00 [deferrals] 1T3B9C4V7K2M5 to=<a@b.example>\n")
        self.patch(commands, "connect", None)
        with redirect_stdout(io.StringIO()) as out:
            self.assertEqual(main(["explain", "--log", path, "a@b.example"]), 0)
        self.assertEqual(out.getvalue().count("\n"), 1)
        self.assertIn("to=<a@b.example>", out.getvalue())


class RescueTests(SynchronousTestCase):
    """
    L{rescue_}.
    """

    DONE = {
        "list": [
            {"name": "spool-1", "kind": "database", "id": "", "octets": 9, "why": "it is old"}
        ],
        "show": {
            **{"name": "spool-1", "kind": "database", "id": "", "octets": 9, "why": "it is old"},
            "count": 1,
            "messages": [{"id": "1M", "sender": "a@b", "recipients": ["c@d", "e@f"], "size": 5}],
        },
        "restore": {
            "name": "spool-1",
            "restored": ["1M"],
            "skipped": {"2M": "its content is missing"},
            "status": "held",
        },
        "remove": {"name": "spool-1"},
    }

    def run_(self, what: str, *names: str, isJSON: bool = False) -> tuple[int, list[str]]:
        connection: Any = unittest.mock.Mock()
        connection.call = lambda name, *args: self.DONE[args[0] if args else "list"]
        arguments = argparse.Namespace(what=what, names=names, json=isJSON)
        with redirect_stdout(io.StringIO()) as out:
            code = rescue_(connection, arguments)
        return code, out.getvalue().splitlines()

    def test_words(self) -> None:
        """What each says, and what its exit status is."""
        line = "spool-1  database, 9 octets: it is old"
        self.assertEqual(self.run_("list"), (0, [line, "1 set aside"]))
        shown = [line, "  1M 5 octets <a@b> -> <c@d>, <e@f>", "  1 messages"]
        self.assertEqual(self.run_("show", "spool-1"), (0, shown))
        code, lines = self.run_("restore", "spool-1")
        self.assertEqual(code, 1)
        self.assertIn("1M was taken back", lines)
        self.assertIn("2M was not: its content is missing", lines)
        self.assertIn("1 messages taken back, held", lines)
        self.assertEqual(self.run_("remove", "spool-1"), (0, ["spool-1 was removed"]))

    def test_programs(self) -> None:
        """A JSON object for each."""
        _, lines = self.run_("list", isJSON=True)
        self.assertEqual([json.loads(line) for line in lines], self.DONE["list"])
        _, lines = self.run_("restore", "spool-1", "spool-1", isJSON=True)
        self.assertEqual([json.loads(line) for line in lines], [self.DONE["restore"]] * 2)

    def test_which(self) -> None:
        """Nothing is removed that was not named."""
        for what in ("show", "restore", "remove"):
            self.assertRaises(ValueError, self.run_, what)


class SeveralSpoolsTests(test_belonging.SpoolCase):
    """
    Commands where a server has several queues and does not run; and where a process of
    one that runs does not answer.
    """

    def setUp(self) -> None:
        super().setUp()
        self.state = os.path.abspath(self.mktemp())
        self.path = f"{self.state}.toml"
        with open(self.path, "w") as file:
            file.write(f'state_dir = "{self.state}"\n{LISTEN}\n[policies.open]\n')
        self.works = {worker: self.kept(worker) for worker in (0, 1, 12)}
        os.makedirs(os.path.join(self.state, "workers", "7"))

    def kept(self, worker: int) -> str:
        """
        @return: the id of a message in the queue of this worker.
        """
        parent = os.path.join(self.state, *(("workers", str(worker)) if worker else ()))
        os.makedirs(parent, exist_ok=True)
        spool = self.opened(os.path.join(parent, "spool"))
        work = self.staged(spool)
        self.reactor.wait(spool.close())
        return work.envelope.id

    def command(self, *arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = main([*arguments, "-c", self.path])
        return status, out.getvalue(), err.getvalue()

    def test_all(self) -> None:
        """All queues are one: in a list, a change, a search, a check, and in numbers."""
        status, said, _ = self.command("queue", "list", "--json")
        found = [json.loads(line)["id"] for line in said.splitlines()]
        self.assertEqual((status, found), (0, sorted(self.works.values())))
        for text in self.works.values():
            status, said, _ = self.command("queue", "show", text)
            self.assertEqual((status, text in said), (0, True))
        status, said, _ = self.command("queue", "hold", "--all", "--json")
        self.assertEqual(json.loads(said), {"command": "hold", "recipients": 3, "active": 0})
        status, said, _ = self.command("queue", "check", "--json")
        self.assertEqual(json.loads(said), {"messages": 3, "problems": 0, "moved_aside": []})
        status, said, _ = self.command("status", "--json")
        self.assertEqual((status, json.loads(said)["queue"]["messages"]), (1, 3))
        self.assertEqual(self.command("queue", "show", "1M84B9SJQ005Q")[0], 1)

    def test_locked(self) -> None:
        """A queue that cannot be read is named, and the others are shown."""
        lock = SpoolLock(SpoolFiles(os.path.join(self.state, "workers", "12", "spool")))
        lock.take()
        self.addCleanup(lock.release)
        status, said, wrong = self.command("queue", "list", "--json")
        self.assertEqual((status, len(said.splitlines())), (1, 2))
        self.assertTrue(wrong.startswith("deferrals: worker 12 cannot be read: "), wrong)
        _, said, _ = self.command("queue", "release", "--all", "--json")
        self.assertEqual(json.loads(said)["missing"], [12])
        _, said, _ = self.command("status", "--json")
        self.assertEqual(json.loads(said)["missing"], [12])

    def test_backup(self) -> None:
        """A copy has the queues in the places that they have."""
        copy = os.path.abspath(self.mktemp())
        status, said, _ = self.command("queue", "backup", copy)
        self.assertEqual((status, said), (0, f"3 messages are in {copy}\n"))
        for worker, text in self.works.items():
            parts = ("workers", str(worker)) if worker else ()
            files = SpoolFiles(os.path.join(copy, *parts, "spool"))
            self.assertEqual(self.ids(files), {parseId(text)})

    def test_alone(self) -> None:
        """Queues that are left do not need that of the first."""
        shutil.rmtree(os.path.join(self.state, "spool"))
        _, said, _ = self.command("queue", "list")
        self.assertIn("2 recipients", said)
        shutil.rmtree(os.path.join(self.state, "workers"))
        self.assertEqual(self.command("queue", "list")[0], 2)

    def test_notAnswering(self) -> None:
        """A process that does not answer is named once; the exit status says so."""
        connection = unittest.mock.MagicMock(running=True, missing={1: "does not answer"})
        connection.call = lambda *_: ([], None)
        self.patch(commands, "connect", lambda path: connection)
        found = self.command("queue", "list")
        self.assertEqual(found, (1, "0 recipients\n", "deferrals: worker 1 does not answer\n"))
