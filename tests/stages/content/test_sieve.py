"""
Users' scripts before the message is accepted, with programs that are none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.errors import TableError
from deferrals.interfaces import ITable
from deferrals.model.envelope import Recipient
from deferrals.model.settings import BadSetting
from deferrals.model.tablekeys import TableKeys
from deferrals.model.verdict import Accept, Refuse, Route
from deferrals.stages.content import sieveprogram
from deferrals.stages.content.scores import _scores
from deferrals.stages.content.sieve import SieveSettings, SieveStage
from deferrals.testing import (
    ContentStageContract,
    FakeServices,
    makeEnvelope,
    makeMessage,
    makeRecipient,
)


def said(*actions: str) -> bytes:
    """What the engine prints."""
    performed = "\n".join(f" * {action}" for action in actions)
    text = f"\nPerformed actions:\n\n{performed}\n\nImplicit keep:\n\n  (none)\n\n"
    return text.encode("utf-8")


DISCARDED = said("discard")


class Programs(Clock):
    """
    Programs, each of which does as the next of C{does}, or as the last one.

    @ivar runs: the words of each, and what its script says.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[tuple[list[str], str]] = []
        self.does: Callable[[Run], None] = lambda run: run.end(DISCARDED)

    def spawnProcess(self, protocol: Any, path: bytes, words: list[bytes], *more: Any) -> None:
        """See C{IReactorProcess}."""
        texts = [os.fsdecode(word) for word in words]
        with open(texts[-2], encoding="utf-8") as file:
            self.runs.append((texts[texts.index("-c") :], file.read()))
        run = Run(protocol)
        protocol.makeConnection(run)
        self.does(run)


@implementer(ITable)
class FakeTable:
    """
    A table in memory.

    @ivar problem: why it cannot be asked.
    """

    def __init__(self, rows: dict[str, dict[str, Any]]) -> None:
        self._rows = rows
        self.problem: Exception | None = None

    def lookUp(self, keys: TableKeys) -> Deferred[Any]:
        return succeed(self._rows.get(keys.address)) if not self.problem else fail(self.problem)


class Run:
    """
    One that runs, as its transport.
    """

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self.isKilled = False

    def closeStdin(self) -> None:
        """Nothing is written."""

    def signalProcess(self, name: str) -> None:
        """See C{IProcessTransport}."""
        self.isKilled = True
        self.end(signal=9)

    def say(self, data: bytes, errors: bool = False) -> None:
        self._protocol.childDataReceived(2 if errors else 1, data)

    def end(
        self, out: bytes = b"", errors: bytes = b"", status: int = 0, signal: int | None = None
    ) -> None:
        """
        It says this, and ends.
        """
        self.say(out)
        self.say(errors, True)
        isDone = not status and signal is None
        reason = ProcessDone(0) if isDone else ProcessTerminated(status, signal)
        self._protocol.processExited(Failure(reason))
        self._protocol.processEnded(Failure(reason))


class SieveTests(ContentStageContract, SynchronousTestCase):
    """
    L{SieveStage}.
    """

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.patch(sieveprogram.os, "chown", lambda *_: None)
        self.programs = Programs()
        self.services = FakeServices(self.directory, self.programs)
        self.message = makeMessage(b"Subject: hello\r\n\r\nx\r\n")

    def makeStage(self) -> SieveStage:
        self.write("somebody", "discard;")
        return self.stage()

    def stage(self, **settings: Any) -> SieveStage:
        return SieveStage(
            SieveSettings(**{"path": "{local}.sieve", "program": "sh", **settings}), self.services
        )

    def write(self, local: str, text: str) -> None:
        with open(f"{self.directory}/{local}.sieve", "w", encoding="utf-8") as file:
            file.write(text)

    def start(self, stage: SieveStage, *locals_: str, sender: str = "s@x.example") -> Deferred[Any]:
        recipients = [makeRecipient(f"{local}@example.net") for local in locals_]
        return stage.judge(self.message, makeEnvelope(sender), recipients)

    def said(self, stage: SieveStage, *locals_: str, sender: str = "s@x.example") -> str:
        """
        What it says for these, and what the log does.
        """
        with capturedLogs() as events:
            verdict = self.successResultOf(self.start(stage, *locals_, sender=sender))
        log = "".join(f"; {str(formatEvent(one)).partition(': ')[2]}" for one in events)
        if isinstance(verdict, Refuse):
            return f"{verdict.reply}{log}"
        return f"{'nowhere' if verdict.nowhere else 'accept'}{log}"

    def other(self) -> None:
        """Another message."""
        self.message = makeMessage(b"Subject: %d\r\n\r\nx\r\n" % len(self.programs.runs))

    def test_verdicts(self) -> None:
        """What the program says is done; with no file, or none that decides, it is not run."""
        self.write("anna", "discard;")
        self.write("ben", "keep; # discard")
        for out, wanted in (
            (DISCARDED, "nowhere"),
            (said("reject message with reason: Go??away"), "550 5.7.1 Go away"),
            (said("reject message with reason: "), "550 5.7.1 the recipient refuses the message"),
            (said("store message in folder: INBOX", "discard"), "accept"),
            (b"nonsense", "accept"),
        ):
            self.other()
            self.programs.does = lambda run, out=out: run.end(out)  # type: ignore[misc]
            self.assertEqual(self.said(self.stage(), "anna"), wanted)
        left = [words for words, _ in self.programs.runs if os.path.exists(words[-1])]
        self.assertEqual(left, [])
        runs = len(self.programs.runs)
        self.assertEqual(self.said(self.stage(), "ben"), "accept")
        self.assertEqual(self.said(self.stage(), "carl"), "accept")
        self.assertEqual(len(self.programs.runs), runs)

    def test_words(self) -> None:
        """It is told sender and recipient; the null path is none that it could be told."""
        self.write("anna", "discard;")
        self.write("ben", 'if envelope "from" "" { discard; }')
        self.said(self.stage(), "anna")
        sender = ["-f", "s@x.example"]
        both = ["-a", "anna@example.net", "-r", "anna@example.net"]
        self.assertEqual(self.programs.runs[0][0][2:-2], ["-C", *sender, *both])
        self.other()
        self.assertEqual(self.said(self.stage(), "anna", sender=""), "nowhere")
        self.assertEqual(self.programs.runs[1][0][2:-2], ["-C", *both])
        found = self.said(self.stage(), "ben", sender="")
        self.assertIn(
            "accept; the script of <ben@example.net> is left to the store: it asks", found
        )

    def test_cohorts(self) -> None:
        """
        One run for each script and message, whoever has it; one for each recipient, where
        the script asks who it is.
        """
        stage = self.stage()
        locals_ = [f"r{n}" for n in range(20)]
        people = [makeRecipient(f"{local}@example.net") for local in locals_]
        for n, local in enumerate(locals_):
            self.write(local, "discard;" if n % 2 else "discard; # another")
        self.assertEqual(len({stage.cohort(one) for one in people}), 20)  # none is read yet
        for local in locals_:
            self.said(stage, local)
        self.assertEqual(len(self.programs.runs), 2)
        self.assertEqual(len({stage.cohort(one) for one in people}), 2)
        for n in range(3):
            self.write(f"r{n}", 'if envelope "to" "x" { discard; } else { discard; }')
        self.other()
        for local in locals_:
            self.said(stage, local)
        self.assertEqual(len(self.programs.runs), 2 + 2 + 3)
        self.assertEqual(len({stage.cohort(one) for one in people}), 2 + 3)
        self.write("r0", "keep;")
        self.said(stage, "r0")
        self.assertIsNone(stage.cohort(people[0]))

    def test_changed(self) -> None:
        """What has been changed counts from the next message on; nobody goes by another's."""
        stage = self.stage()
        for local in ("anna", "ben"):
            self.write(local, "discard;")
            self.said(stage, local)
        self.write("ben", "keep; keep;")
        found = self.said(stage, "anna", "ben")
        self.assertIn("accept; the script of <anna@example.net> and 1 more is left to", found)
        self.assertIn("it has just been changed", found)
        self.assertEqual(self.said(stage, "ben"), "accept")

    def test_faults(self) -> None:
        """Whatever goes wrong with a script, the store decides, and the log says why."""
        self.write("anna", "discard;")
        for does, why in (
            (lambda run: run.end(errors=b"a\nwhy\n", status=89), "status 89: a | why"),
            (lambda run: run.end(DISCARDED, status=1), "status 1: "),
            (lambda run: run.end(signal=11), "the program was ended by a signal: "),
            (lambda run: run.say(b"y" * 70_000), "the program says too much: "),
            (lambda run: run.say(b"y" * 70_000, True), "the program says too much: yyy"),
        ):
            for _ in range(7):  # no other script is left alone for it
                self.other()
                self.programs.does = does
                found = self.said(self.stage(), "anna")
                self.assertIn("accept; the script of <anna@example.net> is left to the st", found)
                self.assertIn(f"store: {why}", found)
            self.programs.does = lambda run: run.end(DISCARDED)
            self.other()
            self.assertEqual(self.said(self.stage(), "anna"), "nowhere")

    def test_slow(self) -> None:
        """One that takes too long is killed, and not run again for a minute; others are."""
        self.write("anna", "discard; # slow")
        self.write("ben", "discard;")
        stage = self.stage()
        hung: list[Run] = []
        self.programs.does = hung.append
        d = self.start(stage, "anna")
        self.programs.advance(0.9)
        self.assertNoResult(d)
        self.programs.advance(0.2)
        self.assertEqual(self.successResultOf(d), Accept())
        self.assertTrue(hung[0].isKilled)
        self.programs.does = lambda run: run.end(DISCARDED)
        self.other()
        self.assertIn(
            "it has taken longer than 1 s, less than a minute ago", self.said(stage, "anna")
        )
        self.assertEqual(self.said(stage, "ben"), "nowhere")
        self.programs.advance(61)
        self.assertEqual(self.said(stage, "anna"), "nowhere")

    def test_turns(self) -> None:
        """No more run at once than may; the others wait, and not without end."""
        hung: list[Run] = []
        self.programs.does = hung.append
        stage = self.stage(concurrency=2, timeout=30)
        for n in range(3):
            self.write(f"r{n}", f"discard; # {n}")
        waiting = [self.start(stage, f"r{n}") for n in range(3)]
        self.assertEqual(len(hung), 2)
        hung[0].end(DISCARDED)
        self.assertTrue(self.successResultOf(waiting[0]).nowhere)
        self.assertEqual(len(hung), 3)
        for run in hung[1:]:
            run.end(DISCARDED)
        self.assertTrue(all(self.successResultOf(one).nowhere for one in waiting[1:]))

    def test_cancelled(self) -> None:
        """Where no answer is waited for any longer, the program is killed."""
        hung: list[Run] = []
        self.programs.does = hung.append
        self.write("anna", "discard;")
        d = self.start(self.stage(), "anna")
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertTrue(hung[0].isKilled)

    def test_cancelledBefore(self) -> None:
        """So are its files, where they come too late."""
        late: Deferred[Any] = Deferred()
        self.write("anna", "discard;")
        stage = self.stage()
        inThread, made = self.services.inThread, []

        def later(function: Any, *words: Any) -> Any:
            if getattr(function, "__name__", "") != "prepare":
                return inThread(function, *words)
            made.append(function(*words))
            return late

        self.patch(self.services, "inThread", later)
        d = self.start(stage, "anna")
        d.cancel()
        self.failureResultOf(d, CancelledError)
        late.callback(made[0])
        self.assertFalse(os.path.exists(made[0][0]))

    def test_missing(self) -> None:
        """A program that is not there: C{on_error}; after a while it is left alone."""
        self.write("anna", "discard;")
        for onError, wanted, what in (
            ("skip", "accept; ", "is left to the store: "),
            ("refuse-temporarily", "451 4.3.0", "cannot be run, so 451: "),
        ):
            self.services = FakeServices(self.directory, self.programs)
            stage = self.stage(program="no-such-program", on_error=onError)
            found = []
            for _ in range(8):
                self.other()
                found.append(self.said(stage, "anna"))
            self.assertTrue(all(one.startswith(wanted) for one in found), found)
            self.assertTrue(all(what in one for one in found), found)
            self.assertIn("there is no program no-such-program", found[0])
            self.assertIn("left alone after 5 failures", found[-1])
        self.services = FakeServices(self.directory, self.programs)
        self.programs.does = lambda run: run.end(errors=b"no", status=126)
        self.assertIn("StageError: the program cannot be run: no", self.said(self.stage(), "anna"))

    def test_leftToTheStore(self) -> None:
        """What is no file, too large, or about what only the store knows, is not run."""
        os.mkdir(f"{self.directory}/dir.sieve")
        os.mkfifo(f"{self.directory}/fifo.sieve")
        self.write("large", "discard;" + " " * 1000)
        self.write("store", 'if mailboxexists "x" { discard; }')
        self.write("score", 'if spamtest :value "ge" "5" { discard; }')
        stage = self.stage(script_size=1000)
        for name, why in (
            ("dir", "IsADirectoryError"),
            ("fifo", "it is no file"),
            ("large", "it is larger than 1000 octets"),
            ("store", "it asks for mailboxes (mailboxexists)"),
            ("score", "it asks for a spam score (spamtest), and there is no score here"),
        ):
            found = self.said(stage, name)
            self.assertTrue(found.startswith("accept; "), found)
            self.assertIn(f"left to the store: {why}", found)
        self.write("anna", "discard;")
        self.assertIn("larger than 10 octets", self.said(self.stage(max_size=10), "anna"))
        self.assertEqual(self.programs.runs, [])

    def test_paths(self) -> None:
        """An address leads nowhere but to its own script."""
        stage = self.stage(path="sub/{local}.sieve")
        os.mkdir(f"{self.directory}/sub")
        self.write("secret", "discard;")
        for local in ("../secret", "sub/../secret", "secret\0x", ".", "..", "", "a" * 300):
            recipient = makeRecipient("x@example.net")
            address = type(recipient.address)(local, "example.net")
            d = stage.judge(
                self.message, makeEnvelope(), [Recipient(address, route=recipient.route)]
            )
            self.assertEqual(self.successResultOf(d), Accept(), local)
        self.assertEqual(self.programs.runs, [])
        plus = makeRecipient("Secret+x@example.net", subaddress="+")
        d = self.stage().judge(self.message, makeEnvelope(), [plus])
        self.assertTrue(self.successResultOf(d).nowhere)

    def test_templates(self) -> None:
        """Domain, address and home; without a home there is no script."""
        stage = self.stage(path="{home}/{domain}-{address}.sieve")
        recipient = makeRecipient("X@example.net")
        self.assertIsNone(stage.cohort(recipient))
        d = stage.judge(self.message, makeEnvelope(), [recipient])
        self.assertEqual(self.successResultOf(d), Accept())
        own = recipient.routed(Route("strict", "box", (("home", "/home/x"),)))
        self.assertEqual(stage.cohort(own), "/home/x/example.net-x@example.net.sieve")

    def test_table(self) -> None:
        """A home is looked up where C{users} has not said it; without an answer, C{on_error}."""
        table = FakeTable({"anna@example.net": {"home": self.directory}, "ben@example.net": {}})
        self.services = FakeServices(self.directory, self.programs, tables={"people": table})
        stage = self.stage(path="{home}/own.sieve", table="people")
        self.write("own", "discard;")
        anna = makeRecipient("anna@example.net")
        first = stage.cohort(anna)
        self.assertEqual(self.said(stage, "anna"), "nowhere")
        self.assertNotEqual(stage.cohort(anna), first)
        for local in ("ben", "carl"):
            self.assertEqual(self.said(stage, local), "accept")
            self.assertIsNone(stage.cohort(makeRecipient(f"{local}@example.net")))
        changed = self.said(stage, "anna", "ben")  # whose home was anna's a moment ago
        self.assertTrue(changed.endswith("left to the store: it has just been changed"), changed)
        table.problem = TableError("away")
        self.assertIn("accept; the script of <anna@example.net> is left", self.said(stage, "anna"))
        stage = self.stage(path="{home}/own.sieve", table="people", on_error="refuse-temporarily")
        self.assertTrue(self.said(stage, "anna").startswith("451 4.3.0"))
        self.assertEqual(
            self.assertRaises(BadSetting, SieveSettings, path="x", table="people").key, "table"
        )

    def test_score(self) -> None:
        """The score of the stage before, for each recipient; where there is none, none."""
        self.write("anna", 'if spamtest :value "ge" "5" { discard; }')
        stage = self.stage(score="rspamd", score_max=15.0)
        self.successResultOf(_scores(self.message, "rspamd"))["anna@example.net"] = 7.25
        fronts = []

        def note(run: Run) -> None:
            with open(self.programs.runs[-1][0][-1], encoding="utf-8") as file:
                fronts.append(file.readline())
            run.end(DISCARDED)

        self.programs.does = note
        self.assertEqual(self.said(stage, "anna"), "nowhere")
        self.other()
        self.assertEqual(self.said(stage, "anna"), "nowhere")
        self.assertRegex(fronts[0], r"^X-Score-deferrals-sieve-\w+: 7\.2$")
        self.assertTrue(fronts[1].startswith("Return-Path"), fronts)
        people = [makeRecipient(f"{local}@example.net") for local in ("anna", "anna+x")]
        self.assertEqual(len({stage.cohort(one) for one in people}), 2)

    def test_wrong(self) -> None:
        """What no settings can be; and a server that is root says as whom else scripts run."""
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("path", {"path": "{user}"}),
            ("path", {"path": "{local.domain}"}),
            ("timeout", {"timeout": 0}),
            ("concurrency", {"concurrency": 0}),
            ("script_size", {"script_size": 0}),
            ("score_max", {"score_max": 0.0}),
        ]
        for key, settings in wrong:
            error = self.assertRaises(BadSetting, SieveSettings, **{"path": "x", **settings})
            self.assertEqual(error.key, key)
        self.patch(sieveprogram.os, "geteuid", lambda: 0)
        for user in ("root", "no-such-user"):
            error = self.assertRaises(BadSetting, self.stage, user=user)
            self.assertEqual(error.key, "user")
