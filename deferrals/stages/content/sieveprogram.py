"""
One run of Pigeonhole's C{sieve-test}, which evaluates a script for a message and
prints what would be done; it stores and sends nothing.

It has a directory of its own, which goes with it: the script, the message, and a
configuration that names no store.  It is never root, leads a process group of its own,
and is killed with all of it where it takes too long or says too much.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Iterator

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport, IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from deferrals.errors import StageError
from deferrals.interfaces import IMessage
from deferrals.stages.content.exchange import chunks
from deferrals.stages.processgroup import GroupProcess, signalGroup, spawn

#: So much may a program say, in octets.
MAX_OUTPUT_OCTETS = 64 * 1024

#: So much memory may it have, in octets: a pattern of a user's could take any amount.
#: A search through a body of 50 MiB takes half of it.
MEMORY_OCTETS = 256 << 20

#: How many of the last lines that it has complained about are told.
_LINES, _LETTERS = 3, 400

_PATH = "/usr/local/bin:/usr/bin:/bin"

#: What scripts may require: what Pigeonhole has by default, but for what is answered out
#: of the store.  The first unknown one of a version is no error.
_EXTENSIONS = (
    "fileinto reject envelope encoded-character vacation subaddress"
    " comparator-i;ascii-numeric relational regex imap4flags copy body variables enotify"
    " mailbox date index ihave mime foreverypart extracttext"
)

_CONFIG = """\
mail_location = mbox:{directory}/none
plugin {{
  sieve_extensions = {extensions}
{more}}}
"""

_SCORE = """\
  sieve_spamtest_status_type = score
  sieve_spamtest_status_header = {field}: ([[:digit:]]+\\.[[:digit:]])
  sieve_spamtest_max_value = {most:.1f}
"""


def findProgram(program: str) -> str | None:
    """
    @return: where a program is; C{None} where there is none.  Blocks, for a moment.
    """
    return shutil.which(program, path=_PATH)


@attrs.frozen
class OtherUser:
    """
    As whom a program runs.
    """

    uid: int
    gid: int


def identityOf(user: str) -> OtherUser | None:
    """
    @param user: who it is to be, where this server is root.
    @return: C{None} where it is not, and the program is whoever the server is.
    @raise ValueError: there is no such user, or that is root.
    """
    if 0 not in (os.getuid(), os.geteuid()):
        return None
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        found = None
    if found is None or found.pw_uid == 0:
        raise ValueError("a user of this machine other than root: scripts are never run by root")
    return OtherUser(found.pw_uid, found.pw_gid)


@attrs.frozen
class Run:
    """
    What is asked of the program.

    @ivar program: its name, or path.
    @ivar script: the script's octets.
    @ivar message: as the mailbox will have it.
    @ivar sender: the reverse path; empty for the null path.
    @ivar recipient: whom it is for.
    @ivar score: the message's spam score; C{None} where there is none.
    @ivar most: the score that is the worst.
    """

    program: str
    script: bytes
    message: IMessage
    sender: str
    recipient: str
    score: float | None = None
    most: float = 10.0

    def prepare(self, identity: OtherUser | None) -> tuple[str, list[str]]:
        """
        Write its files.  Blocks: for a thread.

        @return: their directory, and the words of the command.
        @raise OSError: they cannot be written, or there is no such program.
        """
        program = findProgram(self.program)
        if program is None:
            raise FileNotFoundError(f"there is no program {self.program}")
        directory = tempfile.mkdtemp(prefix="deferrals-sieve-")
        try:
            os.chmod(directory, 0o700)
            for name, parts in self._files(directory):
                path = os.path.join(directory, name)
                with open(path, "xb") as file:
                    file.writelines(parts)
                if identity is not None:
                    os.chown(path, identity.uid, identity.gid)
            if identity is not None:
                os.chown(directory, identity.uid, identity.gid)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        limiting = findProgram("prlimit")  # of util-linux
        front = [limiting, f"--as={MEMORY_OCTETS}", "--core=0"] if limiting else []
        sender = ["-f", self.sender] if self.sender else []
        both = ["-a", self.recipient, "-r", self.recipient]
        files = [os.path.join(directory, name) for name in ("script.sieve", "message")]
        return directory, [*front, program, "-c", f"{directory}/conf", "-C", *sender, *both, *files]

    def _files(self, directory: str) -> Iterator[tuple[str, Iterator[bytes]]]:
        field = f"X-Score-{os.path.basename(directory)}"  # none that a sender could know
        more, front = "", b""
        if self.score is not None:
            more = _SCORE.format(field=field, most=self.most)
            front = f"{field}: {min(max(self.score, 0.0), self.most):.1f}\r\n".encode("ascii")
        extensions = _EXTENSIONS + (" spamtest spamtestplus" if more else "")
        config = _CONFIG.format(directory=directory, extensions=extensions, more=more)
        yield "conf", iter([config.encode("utf-8")])
        yield "script.sieve", iter([self.script])
        yield "message", _withFront(front, chunks(self.message))


def _withFront(front: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield front
    yield from rest


@attrs.frozen
class Printed:
    """
    What a program has said.

    @ivar status: its exit status; C{None} where a signal has ended it.
    @ivar out: its standard output.
    @ivar errors: the last of its complaints, in one line.
    """

    status: int | None
    out: str
    errors: str


class TooMuch(StageError):
    """
    It has said more than a run is about.
    """


class SieveTest(ProcessProtocol):
    """
    One that runs.

    @ivar said: fires with L{Printed} when it has ended; cancelled, it is killed.
    """

    transport: IProcessTransport

    def __init__(self) -> None:
        self._out = bytearray()
        self._errors = bytearray()
        self._group: int | None = None
        self._hasEnded = self._isTooMuch = self._isLeft = False
        self.said: Deferred[Printed] = Deferred(self._leave)

    def start(
        self, reactor: IReactorProcess, words: list[str], directory: str, identity: OtherUser | None
    ) -> None:
        """
        @raise OSError: it cannot be started.
        """
        environment = {"PATH": _PATH, "HOME": directory}
        ids = None if identity is None else (identity.uid, identity.gid)
        spawn(reactor, self, words, environment, directory, ids)

    def connectionMade(self) -> None:
        self._group = self.transport.pid if isinstance(self.transport, GroupProcess) else None
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        kept = self._out if childFD == 1 else self._errors
        room = MAX_OUTPUT_OCTETS - len(self._out) - len(self._errors)
        kept += data[:room]
        if len(data) > room and not self._isTooMuch:
            self._isTooMuch = True
            self._kill()

    def _leave(self, _: Deferred[Printed]) -> None:
        self._isLeft = True
        self._kill()

    def _kill(self) -> None:
        if not signalGroup(self._group, signal.SIGKILL) and not self._hasEnded:
            with contextlib.suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")

    def processExited(self, reason: Failure) -> None:
        self._hasEnded = True

    def processEnded(self, reason: Failure) -> None:
        if self._isLeft:
            return
        if self._isTooMuch:
            self.said.errback(TooMuch(f"the program says too much: {self._complaints}"))
            return
        error = reason.value
        killed = isinstance(error, ProcessTerminated) and error.signal is not None
        status = None if killed else getattr(error, "exitCode", 0) or 0
        out = bytes(self._out).decode("utf-8", "replace").replace("\r\n", "\n")
        self.said.callback(Printed(status, out, self._complaints))

    @property
    def _complaints(self) -> str:
        lines = bytes(self._errors).decode("utf-8", "replace").split("\n")
        found = [line for line in lines if line.strip()]
        return " | ".join(found[-_LINES:])[-_LETTERS:]
