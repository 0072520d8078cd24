"""
One run of a program, and its files.
"""

from __future__ import annotations

import os
import pwd
import shutil

from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content import sieveprogram
from deferrals.stages.content.sieveprogram import OtherUser, Run, identityOf
from deferrals.testing import makeMessage


class RunTests(SynchronousTestCase):
    """
    L{Run}.
    """

    def prepare(self, run: Run) -> tuple[str, list[str]]:
        directory, words = run.prepare(None)
        self.addCleanup(shutil.rmtree, directory)
        return directory, words

    def read(self, *names: str) -> str:
        with open(os.path.join(*names), encoding="utf-8", newline="") as file:
            return file.read()

    def test_files(self) -> None:
        """The script and the message as they are, and a configuration without a store."""
        message = makeMessage(b"Subject: a\r\n\r\nb\r\n")
        directory, words = self.prepare(
            Run("sh", b"discard;", message, "a@b.example", "c@d.example")
        )
        self.assertEqual(self.read(directory, "script.sieve"), "discard;")
        self.assertEqual(self.read(directory, "message"), "Subject: a\r\n\r\nb\r\n")
        config = self.read(directory, "conf")
        self.assertIn(f"mail_location = mbox:{directory}/none\n", config)
        for word in ("include", "duplicate", "environment", "spamtest", "editheader"):
            self.assertNotIn(word, config)
        sender, both = ["-f", "a@b.example"], ["-a", "c@d.example", "-r", "c@d.example"]
        files = [f"{directory}/script.sieve", f"{directory}/message"]
        at = words.index("-c")
        self.assertTrue(all(map(os.path.isabs, (words[0], words[at - 1]))))
        self.assertEqual(words[at:], ["-c", f"{directory}/conf", "-C", *sender, *both, *files])

    def test_score(self) -> None:
        """A field with a name of its own for each run says it, within its bounds."""
        for score, said in ((3.14, "3.1"), (-2, "0.0"), (1000, "15.0"), (float("inf"), "15.0")):
            run = Run("sh", b"", makeMessage(), "", "c@d.example", score, 15.0)
            directory, words = self.prepare(run)
            field = f"X-Score-{os.path.basename(directory)}"
            self.assertTrue(self.read(directory, "message").startswith(f"{field}: {said}\r\n"))
            self.assertIn(f"status_header = {field}: ", self.read(directory, "conf"))
            self.assertNotIn("-f", words)

    def test_noRoom(self) -> None:
        """Nothing is left of a run whose files cannot be written, or that has no program."""
        made: list[str] = []
        make = sieveprogram.tempfile.mkdtemp
        self.patch(
            sieveprogram.tempfile, "mkdtemp", lambda prefix: made.append(make(prefix)) or made[-1]
        )
        message = makeMessage()
        self.patch(message, "open", lambda: os.open("/no/where", os.O_RDONLY))
        run = Run("sh", b"", message, "", "c@d.example")
        self.assertRaises(FileNotFoundError, run.prepare, None)
        self.assertFalse(os.path.exists(made[0]))
        missing = Run("no-such-program", b"", makeMessage(), "", "c@d.example")
        self.assertRaises(FileNotFoundError, missing.prepare, None)
        self.assertEqual(len(made), 1)


class IdentityTests(SynchronousTestCase):
    """
    L{identityOf}.
    """

    def test_user(self) -> None:
        """Whoever the server is, where that is not root."""
        self.patch(sieveprogram.os, "getuid", lambda: 1000)
        self.patch(sieveprogram.os, "geteuid", lambda: 1000)
        self.assertIsNone(identityOf("no-such-user"))

    def test_root(self) -> None:
        """Root is another, also where it only could be root again."""
        found = pwd.getpwnam("nobody")
        wanted = OtherUser(found.pw_uid, found.pw_gid)
        for real, effective in ((0, 0), (0, 1000), (1000, 0)):
            self.patch(sieveprogram.os, "getuid", lambda real=real: real)
            self.patch(sieveprogram.os, "geteuid", lambda effective=effective: effective)
            self.assertEqual(identityOf("nobody"), wanted)
            self.assertRaises(ValueError, identityOf, "root")
            self.assertRaises(ValueError, identityOf, "no-such-user")
