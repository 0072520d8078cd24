"""
What the operator's socket answers.
"""

from __future__ import annotations

import io
import json
import os
import sys
import unittest.mock
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.cli import parser
from deferrals.model.ids import formatId
from deferrals.operator import control
from deferrals.operator.commands import change, list_
from deferrals.operator.control import ControlLine


class UnixReactor(Clock):
    """
    A reactor that makes a file for each socket.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Any] = []

    def listenUNIX(self, path: str, factory: Any, mode: int) -> Any:
        if os.path.exists(path):
            raise OSError(98, "address already in use")
        with open(path, "w"):
            pass
        os.chmod(path, mode)
        port = unittest.mock.Mock()
        port.stopListening.side_effect = lambda: os.unlink(path)
        self.ports.append(port)
        return port


class PortTests(SynchronousTestCase):
    """
    L{listen} and L{ControlPort<control.ControlPort>}.
    """

    def setUp(self) -> None:
        self.reactor: Any = UnixReactor()
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory, 0o700)
        self.path = os.path.join(self.directory, "control")
        self.said: list[str] = []
        for level in ("warn", "error"):
            self.patch(control._log, level, lambda text, **values: self.said.append(text))
        operator: Any = None
        self.port = control.listen(self.reactor, self.path, operator)

    def look(self) -> None:
        self.reactor.advance(control.LOOK_SECONDS)

    def test_stays(self) -> None:
        """What is there stays."""
        self.look()
        self.look()
        self.assertEqual((len(self.reactor.ports), self.said), (1, []))

    def test_notOurs(self) -> None:
        """What is no socket is left where it is, and told."""
        os.unlink(self.path)
        with open(self.path, "w") as file:
            file.write("another's")
        control.listen(self.reactor, self.path, None)  # type: ignore[arg-type]
        with open(self.path) as file:
            self.assertEqual(file.read(), "another's")
        self.assertEqual(self.said, ["no control socket {path}: {error}"])

    def test_removed(self) -> None:
        """A socket that was removed, or another in its place, is made again; that is said."""
        for _ in range(2):
            os.unlink(self.path)
            self.look()
            self.assertTrue(os.path.exists(self.path))
        os.rename(self.path, f"{self.path}.away")
        with open(self.path, "w"):
            pass
        self.look()
        self.assertEqual(len(self.reactor.ports), 4)
        self.assertEqual(self.said, ["{path} was taken away: made again"] * 3)

    def test_directory(self) -> None:
        """So is its directory, for the server's own user alone."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        os.unlink(self.path)
        os.rmdir(self.directory)
        self.look()
        self.assertTrue(os.path.exists(self.path))
        self.assertEqual(os.stat(self.directory).st_mode & 0o777, 0o700)

    def test_impossible(self) -> None:
        """Where it cannot be made now, it is when it can."""
        os.unlink(self.path)
        os.rmdir(self.directory)
        with open(self.directory, "w"):
            pass
        self.look()
        self.look()
        self.assertEqual(self.said, ["no control socket {path}: {error}"])
        os.unlink(self.directory)
        self.look()
        self.assertTrue(os.path.exists(self.path))

    def test_stop(self) -> None:
        """After the end nothing is made."""
        self.successResultOf(self.port.stopListening())
        self.look()
        self.assertFalse(os.path.exists(self.path))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_later(self) -> None:
        """A server that cannot have one at the start goes on without, until it can."""
        operator: Any = None
        path = os.path.join(self.directory, "later", "control")
        self.addCleanup(control.listen(self.reactor, path, operator).stopListening)
        self.assertEqual(self.said, ["no control socket {path}: {error}"])
        self.look()
        self.assertTrue(os.path.exists(path))


class ActiveTests(SynchronousTestCase):
    """
    A command for recipients of which some are being delivered.
    """

    def said(self, verb: str, count: int, active: int, *more: str) -> tuple[int, list[str]]:
        queue = unittest.mock.Mock(missing={})
        queue.call = lambda *args: (count, active, None)
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        status = change(queue, parser().parse_args(["queue", verb, "--all", *more]))
        return status, out.getvalue().splitlines()

    def test_said(self) -> None:
        """How many these are, and what becomes of them, is said."""
        status, lines = self.said("hold", 30, 11)
        self.assertEqual((status, lines[0]), (0, "30 recipients held"))
        self.assertEqual(
            lines[1:],
            [
                "11 are being delivered at the moment: they are held when that ends and has not"
                " delivered them"
            ],
        )
        self.assertEqual(self.said("hold", 30, 0), (0, ["30 recipients held"]))
        for verb in ("retry", "release", "remove"):
            _, lines = self.said(verb, 1, 2)
            self.assertIn("2 are being delivered at the moment: they ", lines[1])
        _, (line,) = self.said("hold", 3, 1, "--json")
        self.assertEqual(json.loads(line), {"command": "hold", "recipients": 3, "active": 1})

    def test_status(self) -> None:
        """1 where nothing was changed; for a removal also where something was left."""
        for verb, count, active, wanted in (
            ("hold", 1, 1, 0),
            ("retry", 1, 1, 0),
            ("retry", 0, 1, 1),
            ("remove", 1, 0, 0),
            ("remove", 1, 1, 1),
            ("remove", 0, 0, 1),
        ):
            self.assertEqual(self.said(verb, count, active)[0], wanted, (verb, count, active))


class ManyTests(SynchronousTestCase):
    """
    A command with thousands of message ids.
    """

    def test_ids(self) -> None:
        """They go to the server in lines that it takes, each id once."""
        ids = [formatId(number) for number in range(30_000)]
        lines: list[int] = []
        asked: list[str] = []

        def call(name: str, *args: Any) -> Any:
            lines.append(len(json.dumps({"call": name, "args": args})))
            (selection,) = (one for one in args if isinstance(one, dict))
            asked.extend(selection["ids"])
            return (len(selection["ids"]), 0, None) if name == "change" else ([], None)

        queue = unittest.mock.Mock(call=call)
        for verb, run in (("list", list_), ("remove", change)):
            words = parser().parse_args(["queue", verb, *ids, ids[0].lower()])
            self.patch(sys, "stdout", io.StringIO())
            self.assertEqual(run(queue, words), 0)
            self.assertEqual(asked, ids)
            asked.clear()
        self.assertLess(max(lines), ControlLine.MAX_LENGTH)
