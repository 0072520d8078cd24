"""
The manual and the completions that releases have: in C{man}, bash and zsh.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pty
import re
import subprocess
import sys
import threading

from twisted.trial.unittest import SkipTest

from tests.integration.support import ROOT, IntegrationCase, program, run, until

#: What a shell is to read first, and how it is called.
SHELLS = {
    "bash": (
        ("--noprofile", "--rcfile", "{home}/.zshrc", "-i"),
        "PS1='ready> '\n. {share}/bash-completion/completions/deferrals\n",
    ),
    "zsh": (
        ("-d", "-i"),
        "PROMPT='ready> '\nfpath=({share}/zsh/site-functions $fpath)\n"
        "autoload -Uz compinit\ncompinit -u -D\n",
    ),
}

#: What is typed before the tabulator, and what is there then.
TYPED = {
    "deferrals check-c": "deferrals check-config ",
    "deferrals queue rel": "deferrals queue release ",
    "deferrals dkim ch": "deferrals dkim check ",
    "deferrals dkim new example.net --directory a-d": (
        "deferrals dkim new example.net --directory a-directory/"
    ),
    "deferrals init sub": "deferrals init submission ",
    "deferrals status --old": "deferrals status --oldest ",
    "deferrals check-config a-c": "deferrals check-config a-configuration.toml ",
    "deferrals reload --config a-c": "deferrals reload --config a-configuration.toml ",
    "deferrals queue backup a-d": "deferrals queue backup a-directory/",
}

#: What terminals are told: colours, places, modes.
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[=>])|[\x07\r]")


class Shell:
    """
    A shell at a terminal.
    """

    def __init__(self, case: IntegrationCase, name: str, home: str, share: str) -> None:
        options, begin = SHELLS[name]
        with open(os.path.join(home, ".zshrc"), "w") as file:
            file.write(begin.format(share=share))
        self._master, slave = pty.openpty()
        self._octets = bytearray()
        self._process = subprocess.Popen(
            [program(name), *(one.format(home=home) for one in options)],
            cwd=home,
            env={"PATH": os.environ["PATH"], "HOME": home, "ZDOTDIR": home, "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        case.addCleanup(self._end)
        self.shows("ready> ")

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while octets := os.read(self._master, 4096):
                self._octets += octets

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reading.join()
        os.close(self._master)

    @property
    def shown(self) -> str:
        """What stands at the terminal."""
        text = _ESCAPES.sub("", self._octets.decode("utf-8", "replace"))
        while "\b" in text:
            text = re.sub("[^\b]?\b", "", text, count=1)
        return text

    def shows(self, text: str) -> None:
        """This is there, at last."""
        try:
            until(lambda: text in self.shown, text)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.shown}") from None

    def type(self, text: str) -> None:
        """Keys are pressed."""
        os.write(self._master, text.encode())


class CompletionTests(IntegrationCase):
    """
    What C{contrib/manuals} writes.
    """

    def setUp(self) -> None:
        if None in map(importlib.util.find_spec, ("shtab", "argparse_manpage")):
            raise SkipTest("shtab and argparse-manpage are not installed")
        self.share = self.directory()
        done = run([sys.executable, os.path.join(ROOT, "contrib", "manuals"), self.share])
        self.assertEqual(done.returncode, 0, done.stderr)

    def check(self, name: str) -> None:
        home = self.directory()
        os.mkdir(os.path.join(home, "a-directory"))
        with open(os.path.join(home, "a-configuration.toml"), "w"):
            pass
        program(name)
        for typed, wanted in TYPED.items():
            shell = Shell(self, name, home, self.share)
            shell.type(f"{typed}\t")
            shell.shows(f"ready> {wanted}")

    def test_bash(self) -> None:
        """Commands, options, files and directories are completed by bash."""
        self.check("bash")

    def test_zsh(self) -> None:
        """Likewise by zsh."""
        self.check("zsh")

    def test_zshList(self) -> None:
        """zsh shows what each command does, in its short words."""
        program("zsh")
        shell = Shell(self, "zsh", self.directory(), self.share)
        shell.type("deferrals \t")
        for text in ("explain", "what became of a message", "let the server read its config"):
            shell.shows(text)
        self.assertNotIn("Exit status", shell.shown)

    def test_manual(self) -> None:
        """The manual has each command, and no error."""
        man = program("man")
        page = os.path.join(self.share, "man", "man1", "deferrals.1")
        done = run([man, "--warnings", "-l", page], env={**os.environ, "MANWIDTH": "80"})
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for word in ("check-config", "queue rescue", "init gateway", "dkim new"):
            self.assertIn(f"deferrals {word}", done.stdout)
