"""
The example of a program that embeds the server, as a process, with a client.
"""

from __future__ import annotations

import os
import re
import sys

from tests.integration.support import ROOT, IntegrationCase, Process, cli, greeting, path
from tests.ports import freePort

EXAMPLE = os.path.join(ROOT, "docs", "examples", "lists.tac")


class EmbeddingTests(IntegrationCase):
    """
    C{docs/examples/lists.tac}.
    """

    def setUp(self) -> None:
        self.work = self.directory()
        self.port = freePort()
        with open(EXAMPLE) as file:
            text = file.read()
        self.assertIn("25012", text)
        with open(os.path.join(self.work, "lists.tac"), "w") as file:
            file.write(text.replace("25012", str(self.port)))

    def start(self, log: str) -> Process:
        script = "from twisted.scripts.twistd import run; run()"
        return Process(
            [sys.executable, "-c", script, "-noy", "lists.tac", "--pidfile="],
            os.path.join(self.work, log),
            cwd=self.work,
            env={**os.environ, "PYTHONPATH": path(ROOT)},
        )

    def send(self, *locals: str) -> tuple[int, str]:
        """
        @return: the exit status, and what was said of each recipient.
        """
        recipients = [word for local in locals for word in ("--rcpt", f"{local}@lists.test")]
        done = cli(
            *("send", "--to", f"127.0.0.1:{self.port}", "--from", "me@client.test", "-"),
            *recipients,
            data=b"Subject: x\n\nviagra\n",
        )
        return done.returncode, done.stdout + done.stderr

    def test_example(self) -> None:
        """Each list answers for itself, what it takes is archived, and the spool is kept."""
        process = self.start("log")
        self.addCleanup(process.stop)
        process.ready(lambda: greeting(self.port), "a greeting")
        status, said = self.send("kids", "men")
        self.assertEqual(status, 1, said)
        self.assertRegex(said, r"kids@lists.test +550 +5.7.1 .*not on this list")
        self.assertRegex(said, r"men@lists.test +250")
        archived = re.compile(r"archived \S+ \['men@lists.test'\]")
        process.ready(lambda: archived.search(process.output()), "the archive")
        self.assertEqual(self.send("stranger")[0], 2)
        self.assertTrue(os.path.isdir(os.path.join(self.work, "spool")))

    def test_portTaken(self) -> None:
        """A second process on the port raises, and ends with 1."""
        process = self.start("log")
        self.addCleanup(process.stop)
        process.ready(lambda: greeting(self.port), "a greeting")
        second = self.start("second")
        self.assertEqual(second.process.wait(60), 1)
        self.assertIn("CannotListenError", second.output())
