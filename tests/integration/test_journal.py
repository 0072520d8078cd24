"""
What C{deferrals explain} reads from a journal: files in systemd's own format, which
journalctl reads.
"""

from __future__ import annotations

import os
import shlex
import sys
import time

from twisted.trial.unittest import SkipTest

from deferrals.stages.content.match.stage import GTUBE
from tests.integration.support import (
    ROOT,
    IntegrationCase,
    cli,
    message,
    needsRoot,
    path,
    program,
    run,
)

#: How journalctl shows a line, each with other words before it.
FORMATS = ("cat", "short", "short-iso", "short-precise", "short-full", "short-unix", "with-unit")

SENDER, REFUSED = "sender@client.test", "fighter@example.net"


def exported(unit: str, lines: list[str]) -> bytes:
    """
    @return: lines of a unit in the journal's export format.
    """
    now = time.time_ns() // 1000
    fields = (
        *("_BOOT_ID=" + "ab" * 16, f"_MACHINE_ID={machine()}", "_HOSTNAME=mx", "PRIORITY=6"),
        *("SYSLOG_IDENTIFIER=twistd", "_PID=7", f"_SYSTEMD_UNIT={unit}.service"),
    )
    entries = (
        (f"__REALTIME_TIMESTAMP={now + at}", f"__MONOTONIC_TIMESTAMP={at + 1}", *fields, line)
        for at, line in enumerate(f"MESSAGE={line}" for line in lines)
    )
    return "".join("\n".join(entry) + "\n\n" for entry in entries).encode()


def machine() -> str:
    """
    @return: this machine's id, which its journal is named by.
    """
    try:
        with open("/etc/machine-id") as file:
            return file.read().strip()
    except FileNotFoundError:
        raise SkipTest("this machine has no id, and so no journal") from None


class JournalTests(IntegrationCase):
    """
    The log of a server that has refused one of two recipients, in the journal of the
    unit C{deferrals}, beside lines of another unit.
    """

    def setUp(self) -> None:
        remote = program("systemd-journal-remote", "/lib/systemd/systemd-journal-remote")
        program("journalctl")
        server = self.server()
        data = self.directory() + "/message"
        with open(data, "wb") as file:
            file.write(message(GTUBE, Message_ID="<4711@client.test>"))
        words = ("--from", SENDER, "--rcpt", "postmaster@example.net", "--rcpt", REFUSED)
        done = cli("send", "--to", f"127.0.0.1:{server.port}", *words, data)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        server.arrived("postmaster")
        server.stop()
        self.config = server.path
        self.journal = self.directory()
        os.mkdir(os.path.join(self.journal, machine()))
        lines = server.log.splitlines()
        other = [f"{line} of another unit" for line in lines]
        for unit, found in (("deferrals", lines), ("other", other)):
            file = os.path.join(self.journal, machine(), f"system@{unit}.journal")
            done = run([remote, "-o", file, "-"], exported(unit, found))
            self.assertEqual(done.returncode, 0, done.stderr)

    def check(self, told: str) -> None:
        """
        All of the transaction is told.
        """
        for text in (
            f" to=<{REFUSED}> content spam/2: 550 5.7.1 spam is not wanted [",
            f" from=<{SENDER}> message-id=<4711@client.test> size=",
            " to=<postmaster@example.net> delivered by ",
        ):
            self.assertIn(text, told)
        self.assertNotIn("another unit", told)

    def test_unit(self) -> None:
        """The journal of the machine is asked for the unit."""
        needsRoot()
        bind = f"mount --bind {shlex.quote(self.journal)} /var/log/journal"
        if run(["unshare", "--mount", "sh", "-c", bind]).returncode != 0:
            raise SkipTest("no journal of our own can be mounted here")
        explain = [sys.executable, "-m", "deferrals.cli", "explain", "--config", self.config]
        env = {**os.environ, "PYTHONPATH": path(ROOT)}
        for key in (SENDER, "4711@client.test", "127.0.0.1", "1h"):
            words = shlex.join([*explain, key, "--journal"])
            done = run(["unshare", "--mount", "sh", "-c", f"{bind} && exec {words}"], env=env)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.check(done.stdout)
        words = shlex.join([*explain, SENDER, "--journal", "none"])
        done = run(["unshare", "--mount", "sh", "-c", f"{bind} && exec {words}"], env=env)
        self.assertEqual(done.returncode, 1, done.stdout)

    def test_formats(self) -> None:
        """What journalctl shows is read, in whatever form."""
        directory = os.path.join(self.journal, machine())
        shown = ["journalctl", "--quiet", f"--directory={directory}", "--unit=deferrals"]
        for form in FORMATS:
            done = run([*shown, f"--output={form}"])
            self.assertEqual(done.returncode, 0, done.stderr)
            told = cli("explain", "--log", "-", "4711@client.test", data=done.stdout.encode())
            self.assertEqual(told.returncode, 0, form + told.stderr)
            self.check(told.stdout)
