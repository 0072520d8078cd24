"""
Messages taken out of the queue.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import unittest.mock
from contextlib import redirect_stdout
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.cli import main
from deferrals.errors import DeferralsError
from deferrals.operator import commands
from deferrals.operator.commands import export_, rescue_


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
        self.patch(commands, "_connect", None)
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
