"""
C{deferrals}: what an operator does beside running the server.
"""

from __future__ import annotations

import io
import os
from contextlib import redirect_stderr, redirect_stdout
from typing import Any
from unittest import mock

from twisted.internet.defer import succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals import __version__, cli
from deferrals.client import Answer, Form, Result
from deferrals.model.reply import Reply
from deferrals.stages.content.match.findings import EICAR, GTUBE
from tests.configs import LISTEN

DEFERRALS = next(iter(Form))

OK, NO = Reply(250, "2.0.0", "ok"), Reply(550, "5.7.1", "no\nnever")


class CliCase(SynchronousTestCase):
    """
    Runs the program.
    """

    def run_(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """
        @return: the exit status, the output, and what was complained of.
        """
        typed = io.TextIOWrapper(io.BytesIO(stdin))
        out, error = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(error), mock.patch("sys.stdin", typed):
            try:
                status = cli.main(arguments)
            except SystemExit as ended:
                status = int(ended.code or 0)
        return status, out.getvalue(), error.getvalue()


class MainTests(CliCase):
    """
    The command line.
    """

    def test_version(self) -> None:
        """C{--version}."""
        self.assertEqual(self.run_("--version"), (0, f"{__version__}\n", ""))

    def test_usage(self) -> None:
        """A mistake in the command line is 2, and says what can be said."""
        for arguments in ((), ("nonsense",), ("send", "--to", "x:25")):
            status, out, error = self.run_(*arguments)
            self.assertEqual((status, out), (2, ""))
            self.assertIn("usage: deferrals", error)


class CheckConfigTests(CliCase):
    """
    C{deferrals check-config}.
    """

    def check(self, text: str) -> tuple[int, str, str]:
        self.path = os.path.abspath(self.mktemp())
        with open(self.path, "w") as file:
            file.write(text)
        return self.run_("check-config", self.path)

    def test_good(self) -> None:
        """A good one is 0, and nothing is started."""
        status, out, error = self.check(
            f"{LISTEN}\n[[recipients]]\nmatch = '*@x.example'\npolicy = 'p'\n"
            "deliver = { use = 'discard' }\n[policies.p]\n"
        )
        self.assertEqual((status, error), (0, ""))
        self.assertEqual(out, f"{self.path}: good: 1 listeners, 1 rules for recipients\n")

    def test_broken(self) -> None:
        """A broken one is 1, with the file, the key and what was expected."""
        for text, key in (
            ("listen = 7\n", "listen"),
            (LISTEN.replace("tcp:2525", "nonsense:1"), "listen[0].endpoint"),
        ):
            status, out, error = self.check(text)
            self.assertEqual((status, out), (1, ""))
            self.assertTrue(error.startswith(f"{self.path}: {key}: "), error)

    def test_nowhere(self) -> None:
        """So is one that is not there."""
        self.assertEqual(self.run_("check-config", "/nonexistent/file")[0], 1)

    def test_explain(self) -> None:
        """What was understood, and what is hardly meant."""
        self.check(f"{LISTEN}[policies.unused]\n")
        status, out, err = self.run_("check-config", "--explain", self.path)
        self.assertEqual(status, 0)
        self.assertIn("listens on tcp:2525: smtp", out)
        self.assertIn("policies.unused: no rule has it", err)

    def test_remarks(self) -> None:
        """What is hardly meant of the pages' users, of rules, and of files of rows."""
        users, rows = os.path.abspath(self.mktemp()), os.path.abspath(self.mktemp())
        for path, text in ((users, ""), (rows, "an*@example.net: x\n")):
            with open(path, "w") as file:
                file.write(text)
        status, _, err = self.check(
            f"{LISTEN}[web]\nendpoint = 'tcp:1:interface=127.0.0.1'\nusers = '{users}'\n"
            f"operators = ['alice']\n[tables.a]\nuse = 'file'\npath = '{rows}'\n"
            "[submission]\nsenders = ['a*@example.net']\n"
        )
        self.assertEqual(status, 0)
        for key in ("web.operators", "tables.a.path", "submission.senders"):
            self.assertEqual(err.count(f"{key}: "), 1, err)

    def test_queue(self) -> None:
        """What a start would do about a damaged queue is said, and the configuration is good."""
        state = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(state, "spool"))
        with open(os.path.join(state, "spool", "spool.sqlite"), "w") as file:
            file.write("no database")
        status, _, err = self.check(f'state_dir = "{state}"\n{LISTEN}')
        self.assertEqual(status, 0)
        self.assertIn("spool.sqlite is no database (11 octets): the next start", err)


class SendTests(CliCase):
    """
    C{deferrals send}, without a server.
    """

    def setUp(self) -> None:
        self.asked: dict[str, Any] = {}
        self.result: Any = Result((Answer("a@x.example", OK, "recipient"),), OK, DEFERRALS)
        self.patch(cli, "sendMessage", self.sendMessage)
        self.patch(cli.task, "react", self.react)

    def sendMessage(self, reactor: Any, endpoint: Any, *values: Any, **more: Any) -> Any:
        names = ("sender", "recipients", "message")
        self.asked = {"endpoint": endpoint, **dict(zip(names, values, strict=True)), **more}
        if isinstance(self.result, Exception):
            raise self.result
        if more["trace"] is not None:
            more["trace"]("C", "QUIT")
        return succeed(self.result)

    def react(self, run: Any) -> None:
        with self.assertRaises(StopIteration):
            run(Clock()).send(None)
        raise SystemExit(0)

    def send(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        arguments = arguments or ("--sample", "plain")
        words = ("--to", "mx.example:25", "--from", "me@y.example", "--rcpt", "a@x.example")
        return self.run_("send", *words, *arguments, stdin=stdin)

    def test_answers(self) -> None:
        """Each recipient's answer is shown; the status says whether all, some or none accepted."""
        yes = Answer("a@x.example", OK, "recipient")
        no = Answer("longer@x.example", NO, "recipient")
        for answers, status in (((yes,), 0), ((yes, no), 1), ((no,), 2)):
            self.result = Result(answers, OK, DEFERRALS)
            self.assertEqual(self.send()[0], status)
        self.result = Result((yes, no), None, DEFERRALS)
        self.assertEqual(
            self.send()[1].splitlines(),
            [
                "a@x.example       250  2.0.0    ok",
                "longer@x.example  550  5.7.1    no / never",
                "final reply       none",
            ],
        )

    def test_verbose(self) -> None:
        """C{--verbose} shows the dialogue, too."""
        self.assertEqual(self.send("--sample", "plain", "-v")[1].splitlines()[:2], ["C: QUIT", ""])
        self.assertNotIn("QUIT", self.send()[1])

    def test_asked(self) -> None:
        """What is asked for."""
        self.send("--sample", "plain", "--lmtp", "--hello", "me", "--ask", "prdr", "--rcpt", "b@x")
        self.assertEqual(self.asked["recipients"], ["a@x.example", "b@x"])
        self.assertEqual((self.asked["lmtp"], self.asked["hello"]), (True, "me"))
        self.assertEqual([form.value for form in self.asked["forms"]], ["prdr"])
        self.send("--sample", "plain", "--ask", "plain")
        self.assertEqual(self.asked["forms"], ())

    def test_samples(self) -> None:
        """Messages that are made up have what a scanner looks for, and a header."""
        for name, what in (("gtube", GTUBE.encode()), ("eicar", EICAR), ("plain", b"ordinary")):
            self.send("--sample", name)
            message = self.asked["message"]
            header, _, body = message.partition(b"\r\n\r\n")
            self.assertIn(what, body)
            self.assertIn(b"To: a@x.example\r\n", header)
            self.assertEqual(message.count(b"\n"), message.count(b"\r\n"))

    def test_files(self) -> None:
        """A message from a file, or from standard input, has the line ends of SMTP."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"Subject: x\n\nfile\n")
        self.send(path)
        self.assertEqual(self.asked["message"], b"Subject: x\r\n\r\nfile\r\n")
        self.send("-", stdin=b"Subject: x\n\ninput")
        self.assertEqual(self.asked["message"], b"Subject: x\r\n\r\ninput\r\n")
        status, _, error = self.send("/nonexistent/file")
        self.assertEqual(status, 2)
        self.assertIn("/nonexistent/file: No such file", error)

    def test_failures(self) -> None:
        """No session, or something that cannot be sent, is 2 and says why."""
        for result, text in (
            (ConnectionRefusedError(), "mx.example:25: Connection was refused"),
            (ValueError("an address: 'x'"), "an address: 'x'"),
        ):
            self.result = result
            status, out, error = self.send()
            self.assertEqual((status, out), (2, ""))
            self.assertIn(text, error)

    def test_ended(self) -> None:
        """A reactor that ends otherwise is told on."""

        def react(run: Any) -> None:
            raise SystemExit(7)

        self.patch(cli.task, "react", react)
        self.assertEqual(self.send()[0], 7)


class EndpointTests(SynchronousTestCase):
    """
    What C{--to} may be.
    """

    def test_to(self) -> None:
        """HOST:PORT with names and addresses, or an endpoint of Twisted."""
        for to, kind, values in (
            ("mx.example:25", None, ("mx.example", 25)),
            ("127.0.0.1:25", None, ("127.0.0.1", 25)),
            ("[::1]:25", None, ("::1", 25)),
            ("::1:25", None, ("::1", 25)),
            ("tcp:mx.example:25", None, ("mx.example", 25)),
            ("tcp:host=mx.example:port=25", None, ("mx.example", 25)),
            ("unix:/run/lmtp", UNIXClientEndpoint, ("/run/lmtp",)),
        ):
            endpoint: Any = cli._endpoint(Clock(), to)
            if kind is not None:
                self.assertIsInstance(endpoint, kind)
                self.assertEqual((endpoint._path,), values)
            else:
                host = getattr(endpoint, "_hostText", None) or endpoint._host
                self.assertEqual((host, endpoint._port), values)

    def test_none(self) -> None:
        """What names no server."""
        for to in ("mx.example", "nonsense:x", "tcp:mx.example:port:x"):
            with self.assertRaises(ValueError):
                cli._endpoint(Clock(), to)
