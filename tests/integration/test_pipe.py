"""
The delivery C{pipe}, with real programs.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any

from twisted.internet.defer import CancelledError, inlineCallbacks
from twisted.internet.process import reapProcessHandlers
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from deferrals.model.settings import Seconds
from deferrals.model.verdict import Delivered, Failed, Retry
from deferrals.stages.delivery import pipe
from deferrals.stages.delivery.pipe import (
    R451_TOO_MUCH,
    R451_TOO_SLOW,
    PipeDelivery,
    PipeSettings,
)
from deferrals.stages.processgroup import Orphans
from deferrals.testing import FakeServices, makeAddressees, makeEnvelope, makeMessage


class PipeTests(TestCase):
    """
    L{PipeDelivery}.
    """

    def stage(self, *words: str, **settings: Any) -> PipeDelivery:
        from twisted.internet import reactor

        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        services = FakeServices(self.directory, reactor)
        services.inThread = deferToThread  # type: ignore[method-assign, assignment]
        return PipeDelivery(PipeSettings(words, **settings), services)

    def script(self, text: str, *arguments: str, **settings: Any) -> PipeDelivery:
        return self.stage(
            sys.executable, "-c", text.replace("{", "{{").replace("}", "}}"), *arguments, **settings
        )

    @inlineCallbacks
    def outcome(self, stage: PipeDelivery, address: str = "a@x.example") -> Any:
        people = makeAddressees(address)
        found = yield stage.deliver(
            makeMessage(b"Subject: x\r\n\r\nhello\r\n"), makeEnvelope(), people
        )
        return found[people[0]]

    @inlineCallbacks
    def test_delivered(self) -> Any:
        """The message is on stdin, with the line ends of programs; 0 is delivered."""
        stage = self.script("import sys; open('got','wb').write(sys.stdin.buffer.read())")
        self.assertIsInstance((yield self.outcome(stage)), Delivered)
        with open(os.path.join(self.directory, "got"), "rb") as file:
            got = file.read()
        self.assertTrue(got.startswith(b"Return-Path: <sender@example.com>\nDelivered-To: a@x"))
        self.assertTrue(got.endswith(b"\n\nhello\n"))
        self.assertNotIn(b"\r", got)

    @inlineCallbacks
    def test_noShell(self) -> Any:
        """An address is one word, whatever it has; the environment is small."""
        stage = self.script(
            "import sys, os; print(sys.argv[1:], sorted(os.environ))",
            "--to={recipient}",
            "{sender}",
        )
        outcome = yield self.outcome(stage, '"a b;$(touch x)`"@x.example')
        said = outcome.details.cause
        self.assertIn("--to=", said)
        self.assertIn("$(touch x)`", said)
        self.assertIn("'RECIPIENT', 'SENDER', 'TRANSACTION'", said)
        self.assertEqual(os.listdir(self.directory), [])

    @inlineCallbacks
    def test_exits(self) -> Any:
        """sysexits.h."""
        for status, kind, enhanced in (
            (65, Failed, "5.6.0"),
            (67, Failed, "5.1.1"),
            (75, Retry, "4.3.0"),
            (78, Retry, "4.3.5"),
            (77, Failed, "5.7.0"),
            (1, Failed, "5.3.0"),
        ):
            stage = self.script(f"import sys; print('no  way'); sys.exit({status})")
            outcome = yield self.outcome(stage)
            self.assertEqual((type(outcome), outcome.reply.enhanced), (kind, enhanced))
            self.assertNotIn("no way", outcome.reply.text)
            self.assertIn("no way", outcome.details.cause)

    @inlineCallbacks
    def test_signal(self) -> Any:
        """A program that dies of a signal is tried again; so is one that is not there."""
        stage = self.script("import os; os.kill(os.getpid(), 9)")
        self.assertIsInstance((yield self.outcome(stage)), Retry)
        outcome = yield self.outcome(self.stage("/no/such/program"))
        self.assertEqual((type(outcome), outcome.reply.enhanced), (Retry, "4.3.5"))

    @inlineCallbacks
    def test_noProgram(self) -> Any:
        """
        What is executable and cannot be executed is tried again, and no traceback
        is told to anybody; nor is one in which no process can be started (E4).
        """
        for text in ("#!/no/such/interpreter\n", "no program at all", ""):
            stage = self.stage("/bin/true")
            path = os.path.join(self.directory, "program")
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
            os.chmod(path, 0o755)
            outcome = yield self.outcome(self.stageAt(path))
            self.assertEqual((type(outcome), outcome.reply.enhanced), (Retry, "4.3.5"), text)
            self.assertNotIn("program\n", outcome.reply.text)
            self.assertNotIn("Traceback", outcome.details.cause)
        stage = self.script("import sys; print('sh: 0: Cannot fork', file=sys.stderr); sys.exit(2)")
        self.assertIsInstance((yield self.outcome(stage)), Retry)

    def stageAt(self, path: str) -> PipeDelivery:
        from twisted.internet import reactor

        return PipeDelivery(PipeSettings((path,)), FakeServices(self.directory, reactor))

    @inlineCallbacks
    def test_timeout(self) -> Any:
        """One that takes too long is killed."""
        stage = self.script(
            "import os, time; open('pid','w').write(str(os.getpid())); time.sleep(600)",
            timeout=Seconds(3),
        )
        outcome = yield self.outcome(stage)
        self.assertEqual(outcome.reply, R451_TOO_SLOW)
        yield self._gone()

    @inlineCallbacks
    def test_group(self) -> Any:
        """
        All that a program has started ends with it, when it takes too long: what
        does as it is asked, and what does not (D8).
        """
        self.patch(pipe, "KILL_SECONDS", 0.5)
        for deaf in ("", "import signal; signal.signal(15, signal.SIG_IGN); "):
            sleeping = f"{deaf}import time; time.sleep(600)"
            stage = self.script(
                f"{deaf}import os, subprocess, sys, time\n"
                f"child = subprocess.Popen([sys.executable, '-c', {sleeping!r}])\n"
                "open('new', 'w').write(str(child.pid)); os.rename('new', 'child')\n"
                "open('new', 'w').write(str(os.getpid())); os.rename('new', 'pid')\n"
                "time.sleep(600)",
                timeout=Seconds(3),
            )
            outcome = yield self.outcome(stage)
            self.assertEqual(outcome.reply, R451_TOO_SLOW)
            yield self._gone()
            yield self._gone("child")

    @inlineCallbacks
    def test_orphans(self) -> Any:
        """What a program leaves is reaped where it becomes a child of this process (E4)."""
        libc = ctypes.CDLL(None)
        if libc.prctl(36, 1, 0, 0, 0) != 0:  # PR_SET_CHILD_SUBREAPER
            raise SkipTest("orphans cannot be had here")
        self.addCleanup(libc.prctl, 36, 0, 0, 0, 0)
        stage = self.script(
            "import os, time\n"
            "if os.fork() == 0:\n"
            "  os._exit(0) if os.fork() else time.sleep(0.2)\n"
            "  os._exit(0)\n"
        )
        self.assertIsInstance((yield self.outcome(stage)), Delivered)
        orphans, found = Orphans(reapProcessHandlers), 0
        for _ in range(100):
            found += len(orphans.look())
            if found == 2:
                return
            yield deferToThread(time.sleep, 0.05)
        self.fail(f"{found} reaped")

    @inlineCallbacks
    def _gone(self, name: str = "pid") -> Any:
        with open(os.path.join(self.directory, name), encoding="ascii") as file:
            pid = int(file.read())
        for _ in range(200):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                yield deferToThread(time.sleep, 0.1)  # its pipes are closed behind it
                return
            yield deferToThread(time.sleep, 0.05)
        self.fail("it still runs")

    @inlineCallbacks
    def test_output(self) -> Any:
        """One that says too much is killed; what is not read does no harm."""
        stage = self.script("while True: print('x' * 1000)", output=10_000)
        self.assertEqual((yield self.outcome(stage)).reply, R451_TOO_MUCH)
        stage = self.script("pass")
        people = makeAddressees("a@x.example")
        found = yield stage.deliver(
            makeMessage(b"\r\n" + b"x\r\n" * 500_000), makeEnvelope(), people
        )
        self.assertIsInstance(found[people[0]], Delivered)

    @inlineCallbacks
    def test_cancelled(self) -> Any:
        """Cancelled, it is killed, and its place is free."""
        stage = self.script(
            "import os, time; open('new','w').write(str(os.getpid())); os.rename('new', 'pid');"
            " time.sleep(600)"
        )
        d = self.outcome(stage)
        while not os.path.exists(os.path.join(self.directory, "pid")):
            yield deferToThread(time.sleep, 0.05)
        d.cancel()
        yield self.assertFailure(d, CancelledError)
        yield self._gone()
        self.assertEqual(stage._slots.free, 5)

    @inlineCallbacks
    def test_unreadable(self) -> Any:
        """A program that was given half a message has not delivered it, whatever it says."""
        stage = self.script("import sys; sys.stdin.buffer.read()")
        people = makeAddressees("a@x.example")
        message = makeMessage(b"Subject: x\r\n\r\n" + b"x\r\n" * 100_000)
        whole = message.open

        def half() -> Any:
            file = whole()
            read = file.read

            def failing(size: int = -1) -> bytes:
                if file.tell() > 100_000:
                    raise OSError(5, "Input/output error")
                return bytes(read(size))

            file.read = failing
            return file

        message.open = half  # type: ignore[method-assign]
        found = yield stage.deliver(message, makeEnvelope(), people)
        outcome = found[people[0]]
        self.assertEqual((type(outcome), outcome.reply.enhanced), (Retry, "4.3.0"))

    def test_settings(self) -> None:
        """An absolute path, and words that can be filled."""
        for words in ((), ("program",), ("/bin/x", "{nobody}"), ("/bin/x", "{")):
            self.assertRaises(ValueError, PipeSettings, words)
