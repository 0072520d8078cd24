"""
Small and old senders that keep a queue, each in a directory of its own on loopback:
sendmail, nullmailer, dma.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess

from twisted.trial.unittest import SkipTest

from tests.integration.support import (
    IntegrationCase,
    Process,
    needsRoot,
    program,
    run,
)


class Sendmail:
    """
    sendmail, with one smarthost.

    @param port: the next hop's, on loopback.
    """

    def __init__(self, case: IntegrationCase, port: int) -> None:
        needsRoot()
        self.path, m4 = program("sendmail8"), program("m4")
        # A host whose name has no dot is asked for a better one for a minute.
        self._prefix = [program("unshare"), "--uts", "sh", "-c", _NAMED, "sh"]
        self.tree = self.path.partition("/usr/")[0]
        self.directory = case.directory()
        os.mkdir(os.path.join(self.directory, "queue"), 0o700)
        made = run([m4], _SENDMAIL.format(self=self, port=port).encode())
        self.config = os.path.join(self.directory, "sendmail.cf")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(made.stdout)

    def _run(self, *words: str, data: bytes = b"") -> None:
        argv = [*self._prefix, self.path, "-C", self.config, "-X", f"{self.directory}/log", *words]
        done = run(argv, data)
        with open(f"{self.directory}/log", "a", encoding="utf-8") as file:
            file.write(done.stdout + done.stderr)

    def send(self, data: bytes, sender: str, *recipients: str) -> None:
        """
        Submit a message, and deliver it at once.
        """
        self._run("-odi", "-oi", "-f", sender, *recipients, data=data)

    def flush(self) -> None:
        """
        Run the queue.
        """
        self._run("-qf")

    def log(self) -> str:
        with open(f"{self.directory}/log", encoding="utf-8", errors="replace") as file:
            return file.read()


_NAMED = 'hostname sendmail.client.test && exec "$@"'

_SENDMAIL = """
define(`_CF_DIR_', `{self.tree}/usr/share/sendmail/cf/')dnl
include(`{self.tree}/usr/share/sendmail/cf/m4/cf.m4')dnl
OSTYPE(`linux')dnl
undefine(`ALIAS_FILE')dnl
define(`QUEUE_DIR', `{self.directory}/queue')dnl
define(`STATUS_FILE', `')dnl
define(`HELP_FILE', `')dnl
define(`confPID_FILE', `{self.directory}/pid')dnl
define(`confDOMAIN_NAME', `sendmail.client.test')dnl
define(`confDONT_PROBE_INTERFACES', `True')dnl
define(`confBIND_OPTS', `-DNSRCH -DEFNAMES')dnl
define(`confSERVICE_SWITCH_FILE', `/dev/null')dnl
define(`confDONT_BLAME_SENDMAIL', `GroupWritableDirPathSafe')dnl
define(`confTO_IDENT', `0')dnl
define(`SMART_HOST', `relay:[127.0.0.1]')dnl
define(`RELAY_MAILER_ARGS', `TCP $h {port}')dnl
FEATURE(`nocanonify')dnl
FEATURE(`always_add_domain')dnl
MAILER(`smtp')dnl
"""


class Nullmailer:
    """
    nullmailer, with one smarthost.

    @param port: the next hop's, on loopback.
    """

    def __init__(self, case: IntegrationCase, port: int) -> None:
        path = program("nullmailer-send")
        self.directory = case.directory()
        self._spool = os.path.join(self.directory, "queue")
        for name in ("conf", "queue/queue", "queue/tmp", "queue/failed"):
            os.makedirs(os.path.join(self.directory, name))
        os.mkfifo(os.path.join(self._spool, "trigger"))
        for name, text in (
            ("mailname", "nullmailer.client.test"),
            ("conf/remotes", f"127.0.0.1 smtp --port={port}"),
        ):
            with open(os.path.join(self.directory, name), "w", encoding="utf-8") as file:
                file.write(f"{text}\n")
        tree = path.partition("/usr/")[0]
        for name, at in (("bin", "bin"), ("sbin", "sbin"), ("protocols", "lib/nullmailer")):
            os.symlink(f"{tree}/usr/{at}", os.path.join(self.directory, name))
        # Its own tests look for all that they need in a directory of this name.
        self._environ = {**os.environ, "NULLMAILER_TEST_PREFIX": self.directory}
        self.process: Process = case.daemon(
            [path], self.directory, lambda: True, "nullmailer", env=self._environ
        )

    def send(self, data: bytes, sender: str, *recipients: str) -> None:
        """
        Submit a message; it is delivered in the background.
        """
        envelope = "\n".join([sender, *recipients, "", ""]).encode()
        queue = os.path.join(self.directory, "sbin/nullmailer-queue")
        done = run([queue], envelope + data, env=self._environ)
        if done.returncode != 0:
            raise AssertionError(done.stdout + done.stderr)

    def flush(self) -> None:
        """
        Try what waits.
        """
        trigger = os.open(f"{self._spool}/trigger", os.O_RDWR | os.O_NONBLOCK)
        try:
            os.write(trigger, b"\n")
        finally:
            os.close(trigger)

    def log(self) -> str:
        return self.process.output()


class DMA:
    """
    The DragonFly mail agent, with one smarthost.

    @param port: the next hop's, on loopback.
    """

    def __init__(self, case: IntegrationCase, port: int) -> None:
        needsRoot()
        self.path = program("dma")
        self.directory = case.directory()
        mail = pwd.getpwnam("mail")
        for name in ("etc", "spool"):
            path = os.path.join(self.directory, name)
            os.mkdir(path)
            os.chown(path, mail.pw_uid, mail.pw_gid)
        with open(f"{self.directory}/etc/dma.conf", "w", encoding="utf-8") as file:
            file.write(f"SMARTHOST 127.0.0.1\nPORT {port}\nMAILNAME dma.client.test\n")
            file.write(f"SPOOLDIR {self.directory}/spool\n")
        # Its configuration's path is compiled in.
        mount = f'mount --bind {self.directory}/etc /etc/dma && exec "$@"'
        self._prefix = [program("unshare"), "--mount", "sh", "-c", mount, "sh"]
        if not os.path.isdir("/etc/dma") or run([*self._prefix, "true"]).returncode != 0:
            raise SkipTest("may not mount over /etc/dma")
        self._started: list[subprocess.Popen[bytes]] = []
        case.addCleanup(self._end)

    def _start(self, *words: str, data: bytes = b"") -> None:
        """
        It waits between its attempts, one process for each recipient.
        """
        process = subprocess.Popen(
            [*self._prefix, self.path, "-D", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._started.append(process)
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(data)

    def _end(self) -> None:
        for process in self._started:
            # Its children are in its group, and may be there without it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._started.clear()

    def send(self, data: bytes, sender: str, *recipients: str) -> None:
        """
        Submit a message; it is delivered in the background.
        """
        self._start("-f", sender, "-i", *recipients, data=data)

    def flush(self) -> None:
        """
        Try what waits: as after a restart, since they sleep for half a minute.
        """
        self._end()
        self._start("-q")

    def log(self) -> str:
        return "\n".join(os.listdir(f"{self.directory}/spool"))
