"""
Programs and client libraries that send a message when they are called, and keep
none: who calls them is told what became of it, and calls again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import attrs
from twisted.trial.unittest import SkipTest

from tests.integration.support import IntegrationCase, crlf, program, run
from tests.integration.wire import Wire

_SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clients")

#: How a script says that some recipients are left, which it then names.
_LEFT = 3


@attrs.frozen
class Program:
    """
    How one is called.

    @ivar words: its command line, of the port on loopback, the sender and the
        recipients.
    @ivar data: what it reads, of a message with LF line ends.
    @ivar needs: a command line that fails where it is not installed.
    """

    words: Callable[[int, str, Sequence[str]], list[str]]
    data: Callable[[bytes], bytes] = lambda message: message
    needs: Sequence[str] = ()


class Caller:
    """
    Calls a program until all recipients are served, or it is told that it is for
    nothing: with all of them each time, or with those that it says are left.

    @ivar isOver: whether there is no reason to call again.
    @ivar calls: what it said each time.
    """

    def __init__(self, case: IntegrationCase, program: Program, wire: Wire) -> None:
        self._program, self._wire = program, wire
        self._directory = case.directory()
        if program.needs and self._run(program.needs).returncode != 0:
            raise SkipTest(f"not installed: {' '.join(program.needs)}")
        self.isOver = False
        self.calls: list[str] = []

    def send(self, data: bytes, sender: str, *recipients: str) -> None:
        self.calls = []
        self.isOver = False
        self._data, self._sender, self._recipients = data, sender, list(recipients)
        self._call()

    def flush(self) -> None:
        """
        Call again.
        """
        if not self.isOver:
            self._call()

    def log(self) -> str:
        return "\n".join(self.calls)

    def _run(self, words: Sequence[str], data: bytes = b"") -> subprocess.CompletedProcess[str]:
        modules = os.environ.get("DEFERRALS_NODE_CLIENTS", "")
        ours = {"HOME": self._directory, "NODE_PATH": modules}
        environ = {**os.environ, **ours}
        argv = [program(words[0]), *words[1:]]
        return run(argv, data, cwd=self._directory, env=environ)

    def _call(self) -> None:
        words = self._program.words(self._wire.port, self._sender, self._recipients)
        first = self._wire.connections()
        done = self._run(words, self._program.data(self._data))
        said = done.stdout + done.stderr
        self.calls.append(f"exit {done.returncode}: {said.strip()}")
        if done.returncode == _LEFT:
            self._recipients = [line.split()[0] for line in done.stdout.splitlines()]
        self.isOver = done.returncode == 0 or self._wire.refused(first)


def _script(name: str, interpreter: str, *needs: str) -> Program:
    def words(port: int, sender: str, recipients: Sequence[str]) -> list[str]:
        return [interpreter, os.path.join(_SCRIPTS, name), str(port), sender, *recipients]

    return Program(words, needs=(interpreter, *needs) if needs else ())


def _text(message: bytes) -> bytes:
    """
    What is behind the header: the program makes its own.
    """
    return message.partition(b"\n\n")[2]


def _curl(port: int, sender: str, recipients: Sequence[str]) -> list[str]:
    to = [word for one in recipients for word in ("--mail-rcpt", one)]
    url = f"smtp://127.0.0.1:{port}/client.test"
    return ["curl", "-sSv", "--url", url, "--mail-from", sender, *to, "-T", "-"]


def _esmtp(port: int, sender: str, recipients: Sequence[str]) -> list[str]:
    settings = f"umask 77; echo hostname = 127.0.0.1:{port} > esmtprc; exec "
    return ["sh", "-c", f'{settings} esmtp -C esmtprc "$@"', "sh", "-f", sender, *recipients]


def _msmtp(port: int, sender: str, recipients: Sequence[str]) -> list[str]:
    return ["msmtp", "--host=127.0.0.1", f"--port={port}", f"--from={sender}", *recipients]


def _mutt(port: int, sender: str, recipients: Sequence[str]) -> list[str]:
    settings = (
        f"set smtp_url=smtp://127.0.0.1:{port}/ from={sender} use_envelope_from",
        "set ssl_starttls=no ssl_force_tls=no copy=no",
    )
    words = [word for one in settings for word in ("-e", one)]
    return ["mutt", "-n", "-F", "/dev/null", *words, "-s", "a test", "--", *recipients]


def _snail(port: int, sender: str, recipients: Sequence[str]) -> list[str]:
    settings = ("v15-compat", f"mta=smtp://127.0.0.1:{port}", "smtp-config=-all", "smtp-auth=none")
    words = [f"-S{one}" for one in (*settings, "DEAD=dead")]
    return ["s-nail", "-:/", *words, "-r", sender, "-s", "a test", *recipients]


def _swaks(port: int, sender: str, recipients: Sequence[str]) -> list[str]:
    to = ("--from", sender, "--to", ",".join(recipients), "--body", "-")
    return ["swaks", "--server", "127.0.0.1", "--port", str(port), *to]


SMTPLIB = attrs.evolve(_script("pysmtplib.py", sys.executable), data=crlf)
AIOSMTPLIB = _script("aio.py", "python_clients", "-c", "import aiosmtplib")
DJANGO = _script("djangomail.py", "python_clients", "-c", "import django")
TWISTED = _script("twistedmail.py", sys.executable)
RUBY_SMTP = _script("netsmtp.rb", "ruby")
RUBY_MAIL = _script("mail.rb", "ruby", "-rmail", "-e", "")
PHPMAILER = _script("phpmailer.php", "php", "-r", 'require "libphp-phpmailer/autoload.php";')
SYMFONY = _script("symfony.php", "php", "-r", 'require "Symfony/Component/Mailer/autoload.php";')
NODEMAILER = _script("nodemailer.js", "node", "-e", 'require("nodemailer")')
EMAILJS = _script("emailjs.mjs", "node", "-e", 'require("emailjs")')
PERL_SMTP = _script("netsmtp.pl", "perl")
MIME_LITE = _script("mimelite.pl", "perl", "-MMIME::Lite", "-e1")
EMAIL_SENDER = _script("emailsender.pl", "perl", "-MEmail::Sender::Simple", "-e1")
LUASOCKET = _script("socket.lua", "lua5.4", "-e", 'require "socket.smtp"')
CURL = Program(_curl, crlf)
ESMTP = Program(_esmtp, needs=("sh", "-c", "command -v esmtp"))
MSMTP = Program(_msmtp)
MUTT = Program(_mutt, _text)
SNAIL = Program(_snail, _text)
SWAKS = Program(_swaks, _text)
