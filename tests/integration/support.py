"""
Processes for tests: started in the foreground, waited for until they answer,
stopped by their id.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from email.message import EmailMessage
from typing import Any, BinaryIO

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import deferrals
from deferrals.stages.content.match.stage import GTUBE
from tests.zygote import popen

ROOT = os.path.dirname(os.path.dirname(deferrals.__file__))

#: How long a process may take to be ready, or a mail to arrive, in seconds.
PATIENCE = 60


#: C{twistd}, with the interpreter of the tests.
TWISTD = ("-c", "from twisted.scripts.twistd import run; run()")


def program(name: str, *others: str) -> str:
    """
    @return: where a program is.
    @raise SkipTest: it is not here.
    """
    for candidate in (os.environ.get(f"DEFERRALS_{name.upper().replace('-', '_')}"), name, *others):
        found = shutil.which(candidate) if candidate else None
        if found:
            return found
    raise SkipTest(f"{name} is not installed")


def needsRoot() -> None:
    """
    @raise SkipTest: we are not root.
    """
    if os.getuid() != 0:
        raise SkipTest("needs root: the program changes its user")


def path(*directories: str) -> str:
    """
    A PYTHONPATH with these in front.
    """
    return os.pathsep.join([*directories, *filter(None, [os.environ.get("PYTHONPATH")])])


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """
    Wait for something to become true.

    @return: what C{condition} said then.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def greeting(port: int, host: str = "127.0.0.1") -> bytes:
    """
    What a server says first; empty if there is none yet.
    """
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            return connection.recv(1000)
    except OSError:
        return b""


class Process:
    """
    A program in the foreground.

    @param popen: starts it.
    @ivar log: the file that its output goes to.
    """

    def __init__(
        self, argv: Sequence[str], log: str, popen: Any = subprocess.Popen, **more: Any
    ) -> None:
        self.log = log
        with open(log, "ab") as out:
            self.process = popen(
                argv, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, **more
            )

    def output(self) -> str:
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def ready(self, condition: Callable[[], Any], what: str) -> Any:
        """
        Wait until it works, or say why it does not.
        """

        def check() -> Any:
            if self.process.poll() is not None:
                raise AssertionError(f"{what}: exit {self.process.returncode}\n{self.output()}")
            return condition()

        try:
            return until(check, what)
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.output()}") from None

    def stop(self, seconds: float = 30) -> int:
        """
        @return: its exit status.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not stop on SIGTERM:\n{self.output()}") from None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


CONFIG = """
hostname = "mx.example.net"
bounces = "none"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[policies.open]
envelope = "accept"

[policies.spam]
content = [ { use = "match", rules = [
  { test = "gtube", reply = "550 5.7.1 spam is not wanted" },
] } ]

[policies.virus]
content = [ { use = "match", rules = [ { test = "eicar" } ] } ]

[policies.later]
content = [ { use = "match", rules = [ { larger_than = 1, reply = "450 4.7.1 later" } ] } ]

[[recipients]]
match = "postmaster@example.net"
policy = "open"
deliver = { use = "maildir", path = "mail/{local}" }

[[recipients]]
match = "fighter@example.net"
policy = "spam"
deliver = { use = "maildir", path = "mail/{local}" }

[[recipients]]
match = "boxer@example.net"
policy = "spam"
deliver = { use = "maildir", path = "mail/{local}" }

[[recipients]]
match = "waiter@example.net"
policy = "later"
deliver = { use = "maildir", path = "mail/{local}" }

[[recipients]]
match = "*@example.net"
policy = "virus"
deliver = { use = "maildir", path = "mail/{local}" }
"""


#: A delivery to where L{Server.mail} looks.
MAILDIR = '{ use = "maildir", path = "mail/{local}" }'


def takesAll(
    deliver: str = MAILDIR,
    *,
    match: str = "*@example.net",
    hostname: str = "mx.example.net",
    top: str = "",
    tables: str = "",
) -> str:
    """
    A configuration that takes all mail for some recipients, whatever is in it.

    @param deliver: how, in TOML.
    @param top: further lines above all tables.
    @param tables: further tables.
    """
    return f"""
hostname = "{hostname}"
bounces = "none"
{top}

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

{tables}

[policies.open]
envelope = "accept"

[[recipients]]
match = "{match}"
policy = "open"
deliver = {deliver}
"""


def complete(config: str) -> str:
    """
    A configuration in which senders elsewhere are not told, if it says nothing of
    them.
    """
    return config if "bounces" in config else f'bounces = "none"\n{config}'


class Server:
    """
    Our own server as a process.

    @ivar directory: where its configuration, state and mail are.
    @ivar popen: starts its process.
    @ivar ports: those of its TCP listeners, in the order of the configuration.
    """

    popen: Any = staticmethod(popen)

    def __init__(self, directory: str, config: str = CONFIG, *options: str) -> None:
        self.directory = directory
        self.path = os.path.join(directory, "deferrals.toml")
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(complete(config))
        self.options = options
        self.listeners = config.count("[[listen]]")
        self.starts = 0
        self.start()

    def start(self) -> None:
        """
        Start it, or start it again; then its ports are others.
        """
        self.starts += 1
        log = os.path.join(self.directory, f"server-{self.starts}.log")
        self.process = Process(
            [
                *(sys.executable, *TWISTD),
                *("--nodaemon", "--pidfile=", "deferrals", "--config", self.path, *self.options),
            ],
            log,
            self.popen,
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": path(ROOT)},
        )
        self.ports = self.process.ready(self._listening, "the server")

    def _listening(self) -> list[int] | None:
        found = re.findall(r"listening on [^ \"/]*?:(\d+) for", self.process.output())
        paths = re.findall(r"listening on (/\S+) for", self.process.output())
        ready = len(found) + len(paths) >= self.listeners
        return [int(port) for port in found] if ready else None

    @property
    def port(self) -> int:
        """
        The first listener's port.
        """
        return self.ports[0]

    @property
    def log(self) -> str:
        """
        All that this start has logged.
        """
        return self.process.output()

    def mail(self, local: str) -> list[bytes]:
        """
        What is in somebody's new mail.
        """
        found = []
        for path in sorted(glob.glob(os.path.join(self.directory, "mail", local, "new", "*"))):
            with open(path, "rb") as file:
                found.append(file.read())
        return found

    def arrived(self, local: str, count: int = 1) -> list[bytes]:
        """
        Wait for somebody's mail.
        """
        until(lambda: len(self.mail(local)) >= count, f"{count} for {local}\n{self.log}")
        return self.mail(local)

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        self.process.kill()


class IntegrationCase(SynchronousTestCase):
    """
    A test with processes, which end with it.
    """

    def directory(self) -> str:
        """
        A new one, that daemons may enter.
        """
        path = tempfile.mkdtemp(prefix="deferrals-test-")
        os.chmod(path, 0o755)
        self.addCleanup(shutil.rmtree, path, True)
        return path

    def server(self, config: str = CONFIG, *options: str) -> Server:
        """
        Our own, running.
        """
        server = Server(self.directory(), config, *options)
        self.addCleanup(server.kill)
        return server

    def dialogue(self, port: int) -> Dialogue:
        """
        A connection, closed with the test.
        """
        dialogue = Dialogue(port)
        self.addCleanup(dialogue.close)
        return dialogue

    def daemon(
        self, argv: Sequence[str], directory: str, condition: Any, what: str, **more: Any
    ) -> Process:
        """
        Somebody else's, running.
        """
        process = Process(argv, os.path.join(directory, f"{what}.out"), **more)
        self.addCleanup(process.stop)
        process.ready(condition, what)
        return process


def message(text: str = "hello", subject: str = "a test", **headers: str) -> bytes:
    """
    An ordinary message with LF line ends.
    """
    mail = EmailMessage()
    mail["From"] = "sender@client.test"
    mail["To"] = "everybody@example.net"
    mail["Subject"] = subject
    mail["Date"] = "Mon, 23 Nov 2026 12:00:00 +0000"
    for name, value in headers.items():
        mail[name.replace("_", "-")] = value
    mail.set_content(text)
    return bytes(mail)


def crlf(data: bytes) -> bytes:
    """
    With the line ends of the wire.
    """
    return data.replace(b"\n", b"\r\n")


def spam() -> bytes:
    """
    A message that the policy C{spam} refuses.
    """
    return message(GTUBE)


@contextlib.contextmanager
def halted(pid: int) -> Iterator[None]:
    """
    While a process and its children stand still: it takes connections, and answers none.
    """
    pids = [pid, *map(int, run(["pgrep", "-P", str(pid)]).stdout.split())]
    for one in pids:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)


def run(argv: Sequence[str], data: bytes = b"", **more: Any) -> subprocess.CompletedProcess[str]:
    """
    Run a program to its end.
    """
    more = {"timeout": PATIENCE, **more}
    done = subprocess.run(argv, input=data, capture_output=True, check=False, **more)
    return subprocess.CompletedProcess(
        done.args,
        done.returncode,
        done.stdout.decode("utf-8", "replace"),
        done.stderr.decode("utf-8", "replace"),
    )


def cli(*arguments: str, data: bytes = b"", **more: Any) -> subprocess.CompletedProcess[str]:
    """
    Run our own command line.
    """
    return python("-m", "deferrals.cli", *arguments, data=data, **more)


def python(
    *words: str, data: bytes = b"", timeout: float = PATIENCE, **more: Any
) -> subprocess.CompletedProcess[str]:
    """
    Run a program of ours to its end.

    @param words: what is behind the interpreter's name.
    """
    argv = [sys.executable, *words]
    env = {**os.environ, "PYTHONPATH": path(ROOT)}
    with contextlib.ExitStack() as files:
        given, out, errors = (files.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(data)
        given.seek(0)
        process = popen(argv, env, stdin=given, stdout=out, stderr=errors, **more)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        return subprocess.CompletedProcess(argv, code, _all(out), _all(errors))


def _all(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


class Dialogue:
    """
    A connection that speaks line by line.
    """

    def __init__(self, port: int, timeout: float = PATIENCE) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.file = self.socket.makefile("rb")

    def reply(self) -> str:
        """
        The next reply, its lines joined.
        """
        lines = []
        while True:
            line = self.file.readline().decode("utf-8", "replace").rstrip("\r\n")
            lines.append(line)
            if line[3:4] != "-":
                return "\n".join(lines)

    def say(self, *lines: str) -> list[str]:
        """
        Send lines in one piece; one reply for each.
        """
        self.socket.sendall("".join(line + "\r\n" for line in lines).encode("utf-8"))
        return [self.reply() for _ in lines]

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def events(log: str) -> Iterator[dict[str, Any]]:
    """
    The events of a log in JSON.
    """
    for line in log.splitlines():
        if line.startswith("{"):
            yield json.loads(line)
