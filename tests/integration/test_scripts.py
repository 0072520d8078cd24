"""
The stage C{sieve} with real processes: programs that stand in for the engine, and
Pigeonhole's own.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from typing import Any

from twisted.internet import reactor as theReactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from deferrals.model.envelope import Recipient
from deferrals.model.verdict import Accept, Refuse
from deferrals.stages.content.scores import _scores
from deferrals.stages.content.sieve import SieveSettings, SieveStage
from deferrals.testing import FakeServices, makeEnvelope, makeMessage
from deferrals.testing.values import makeRecipient
from tests.integration.support import program

DISCARDED = "printf '\\nPerformed actions:\\n\\n * discard\\n\\nImplicit keep:\\n\\n  (none)\\n\\n'"


class SieveCase(TestCase):
    """
    A directory that programs of any user may enter.
    """

    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="deferrals-tests-")
        self.addCleanup(shutil.rmtree, self.directory)
        os.chmod(self.directory, 0o755)
        self.services = FakeServices(self.directory, theReactor)  # type: ignore[arg-type]
        self.message = makeMessage(b"From: a@b.example\r\nSubject: hello\r\n\r\nx\r\n")

    def write(self, name: str, text: str, mode: int = 0o644) -> str:
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def program(self, text: str) -> str:
        """
        A program that stands in, and notes each run.
        """
        runs = self.write("runs", "", 0o666)
        return self.write("program", f'#!/bin/sh\necho "$@" >> {runs}\n{text}\n', 0o755)

    def runs(self) -> list[str]:
        with open(os.path.join(self.directory, "runs"), encoding="utf-8") as file:
            return file.read().splitlines()

    def stage(self, **settings: Any) -> SieveStage:
        path = os.path.join(self.directory, "{local}.sieve")
        return SieveStage(SieveSettings(**{"path": path, "timeout": 20, **settings}), self.services)

    def ask(
        self, stage: SieveStage, *recipients: Recipient, sender: str = "s@x.example"
    ) -> Deferred[Any]:
        d: Deferred[Any] = stage.judge(self.message, makeEnvelope(sender), recipients)  # type: ignore[assignment]
        return d

    async def said(
        self, stage: SieveStage, *locals_: str, sender: str = "s@x.example"
    ) -> tuple[str, str]:
        """
        What it says for these, and what the log does.
        """
        recipients = [makeRecipient(f"{local}@example.net") for local in locals_]
        with capturedLogs() as events:
            verdict = await self.ask(stage, *recipients, sender=sender)
        log = "\n".join(str(formatEvent(one)) for one in events)
        if isinstance(verdict, Refuse):
            return str(verdict.reply), log
        assert isinstance(verdict, Accept)
        return ("nowhere" if verdict.nowhere else "accept"), log


class StandInTests(SieveCase):
    """
    L{SieveStage}, whose program is one of ours.
    """

    async def test_discard(self) -> None:
        """What the program says is done; with no file, or none that decides, it is not run."""
        stage = self.stage(program=self.program(DISCARDED))
        self.write("anna.sieve", "discard;")
        self.write("ben.sieve", "keep; # discard")
        self.assertEqual(await self.said(stage, "anna"), ("nowhere", ""))
        self.assertEqual(await self.said(stage, "ben"), ("accept", ""))
        self.assertEqual(await self.said(stage, "carl"), ("accept", ""))
        (words,) = self.runs()
        self.assertRegex(words, r"^-c \S+/conf -C -f s@x.example -a anna@\S+ -r anna@\S+ \S+ \S+$")

    async def test_files(self) -> None:
        """
        Script, message and configuration are there while it runs, its user's alone, and
        gone behind it.
        """
        note = "for one; do :; done; stat -c '%a %U' $one $(dirname $one) >> {}; cat $one >> {}"
        out = self.write("out", "", 0o666)
        stage = self.stage(program=self.program(f"{note.format(out, out)}\n{DISCARDED}"))
        self.write("anna.sieve", "discard;")
        await self.said(stage, "anna")
        with open(out, encoding="utf-8") as file:
            lines = file.read().splitlines()
        user = "nobody" if os.getuid() == 0 else lines[0].split()[1]
        self.assertEqual(lines[1], f"700 {user}")
        self.assertEqual(lines[0].split()[1], user)
        self.assertEqual(lines[2], "Return-Path: <s@x.example>")
        self.assertIn("Subject: hello", lines)
        directory = os.path.dirname(self.runs()[0].split()[1])
        until = [self.services.inThread(os.path.exists, directory)]
        self.assertEqual(await gatherResults(until), [False])

    async def test_faults(self) -> None:
        """Whatever the program does, the store decides, and the log says why."""
        self.write("anna.sieve", "discard;")
        for number, (text, why) in enumerate(
            (
                ("exec sleep 60", "it has taken longer than 0.2 s"),
                ("sleep 60 & sleep 60", "it has taken longer than 0.2 s"),
                ("yes", "the program says too much"),
                ("yes >&2", "the program says too much: y"),
                ("kill -9 $$", "the program was ended by a signal"),
                ("echo why >&2; exit 89", "status 89: why"),
                (f"{DISCARDED}; exit 1", "status 1"),
                ("echo nonsense", ""),
                ("printf '\\377'", ""),
            )
        ):
            self.services = FakeServices(self.directory, theReactor)  # type: ignore[arg-type]
            self.message = makeMessage(b"Subject: %d\r\n\r\nx\r\n" % number)
            limit = {"timeout": 0.2} if "sleep" in text else {}
            stage = self.stage(program=self.program(text), **limit)
            said, log = await self.said(stage, "anna")
            self.assertEqual(said, "accept", text)
            self.assertIn(f"left to the store: {why}" if why else "", log, text)

    async def test_slow(self) -> None:
        """A script that takes too long is not run again for a while; others are."""
        self.write("anna.sieve", "discard; # slow")
        self.write("ben.sieve", "discard;")
        slow = "for one; do script=$last; last=$one; done; grep -q slow $script && exec sleep 60"
        stage = self.stage(program=self.program(f"{slow}\n{DISCARDED}"), timeout=0.5)
        for number in range(7):
            self.message = makeMessage(b"Subject: %d\r\n\r\nx\r\n" % number)
            said, log = await self.said(stage, "anna")
            self.assertEqual(said, "accept")
            self.assertIn("longer than 0.5 s", log)
        self.assertEqual(len(self.runs()), 1)
        stage = self.stage(program=os.path.join(self.directory, "program"))
        self.assertEqual((await self.said(stage, "ben"))[0], "nowhere")

    async def test_cancelled(self) -> None:
        """Where the answer is not waited for, the program is killed with all it has started."""
        pids = self.write("pids", "", 0o666)
        go = f"sleep 60 & echo $$ $! >> {pids}; wait"
        stage = self.stage(program=self.program(go), timeout=30)
        self.write("anna.sieve", "discard;")
        d = self.ask(stage, makeRecipient("anna@example.net"))
        found: list[str] = []
        while len(found) < 2:
            await self.services.inThread(lambda: None)
            await _turn()
            with open(pids, encoding="utf-8") as file:
                found = file.read().split()
        d.cancel()
        await self.assertFailure(d, CancelledError)
        for pid in map(int, found):
            while _runs(pid):
                await _turn()
        await _turn()


def _turn() -> Deferred[None]:
    d: Deferred[None] = Deferred()
    theReactor.callLater(0.01, d.callback, None)  # type: ignore[attr-defined]
    return d


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class EngineTests(SieveCase):
    """
    L{SieveStage} with Pigeonhole's own program.
    """

    def setUp(self) -> None:
        super().setUp()
        program("sieve-test")

    async def judged(self, text: str, sender: str = "s@x.example", **settings: Any) -> str:
        self.write("anna.sieve", text)
        return (await self.said(self.stage(**settings), "anna", sender=sender))[0]

    async def test_combinations(self) -> None:
        """What else is to be done is the store's, whatever a script says besides."""
        head = 'require ["reject", "fileinto", "vacation", "enotify", "envelope", "variables"];\n'
        for script, wanted in (
            ('reject "Go away\nsecond ünïcode";', "550 5.7.1 Go away second ünïcode"),
            ("discard;", "nowhere"),
            ("keep;", "accept"),
            ('reject "x"; discard;', "550 5.7.1 x"),
            ('reject "";', "550 5.7.1 the recipient refuses the message"),
            ("keep; discard;", "accept"),
            ('fileinto "Junk"; discard;', "accept"),
            ('redirect "a@x.example"; discard;', "accept"),
            ('vacation "x"; discard;', "accept"),
            ('notify "mailto:a@x.example"; discard;', "accept"),
            ('keep; reject "x";', "accept"),
            ('reject "1"; reject "2";', "accept"),
            ("discard", "accept"),
            ("stop; discard;", "accept"),
            ('if header "Subject" "hello" { discard; stop; } reject "x";', "nowhere"),
            (
                'if envelope :matches ["from", "to"] "*" { set "a" "${1}"; } reject "${a}";',
                "550 5.7.1 s@x.example",
            ),
            (
                "reject text:\nfirst\nPerformed actions:\n\n * discard\n\nImplicit keep:\n.\n;",
                "550 5.7.1 first Performed actions: * discard Implicit keep:",
            ),
        ):
            self.message = makeMessage(b"Subject: hello\r\nX: %d\r\n\r\nx\r\n" % len(script))
            self.assertEqual(await self.judged(head + script), wanted, script)

    async def test_ereject(self) -> None:
        """It is C{reject} by another name, also for an engine that does not know it."""
        self.assertEqual(await self.judged('require "ereject"; ereject "no";'), "550 5.7.1 no")
        both = 'require ["reject", "ereject"]; if true { ereject "no"; }'
        self.assertEqual(await self.judged(both), "550 5.7.1 no")

    async def test_nullSender(self) -> None:
        """A bounce is refused as any other message."""
        said = await self.judged('require "reject"; reject "no bounces";', sender="")
        self.assertEqual(said, "550 5.7.1 no bounces")

    async def test_score(self) -> None:
        """A script may go by the score of a stage before; nothing a sender writes is one."""
        text = (
            'require ["spamtest", "relational", "comparator-i;ascii-numeric", "reject"];\n'
            'if spamtest :value "ge" :comparator "i;ascii-numeric" "5" { reject "spam"; }'
        )
        for number, (score, wanted) in enumerate(
            ((9.0, "550 5.7.1 spam"), (1.0, "accept"), (None, "accept"), (-3.0, "accept"))
        ):
            self.message = makeMessage(b"X-Spam-Score: 99\r\nX: %d\r\n\r\nx\r\n" % number)
            if score is not None:
                known = await _scores(self.message, "rspamd")
                known["anna@example.net"] = score
            self.assertEqual(await self.judged(text, score="rspamd"), wanted, score)

    async def test_faults(self) -> None:
        """A script that is none, or does what it may not, is the store's, and the log says why."""
        for text, why in (
            ("discard", "status 89: .*parse failed"),
            ('require "nothing"; discard;', "unknown Sieve capability"),
            ('require ["reject"]; keep; reject "x";', "status 1: .*conflicts"),
        ):
            self.write("anna.sieve", text)
            said, log = await self.said(self.stage(), "anna")
            self.assertEqual(said, "accept")
            self.assertRegex(log, f"left to the store: .*{why}")

    async def test_hostile(self) -> None:
        """A pattern that takes any amount of memory gets no more than there is for it."""
        text = 'require ["regex", "reject"]; if header :regex "Subject" "PATTERN" { discard; }'
        text = text.replace("PATTERN", "((a{1,250}){1,250}){1,250}")
        self.write("anna.sieve", f'{text} reject "x";')
        said, log = await self.said(self.stage(timeout=60), "anna")
        self.assertEqual(said, "accept")
        self.assertRegex(log, "left to the store: status (89|83): ")

    async def test_leavesNothing(self) -> None:
        """No file of a run is left."""
        before = set(os.listdir(tempfile.gettempdir()))
        await self.judged("discard;")
        await self.services.inThread(lambda: None)
        left = set(os.listdir(tempfile.gettempdir())) - before
        self.assertEqual([one for one in left if one.startswith("deferrals-sieve-")], [])
        self.assertTrue(stat.S_ISDIR(os.stat(self.directory).st_mode))
