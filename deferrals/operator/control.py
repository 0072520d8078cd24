"""
The operator's connection to the server: a Unix socket in the state directory,
which only the server's own user can open.

A request is a line of JSON, C{{"call": NAME, "args": […]}}; so is the answer,
C{{"result": …}} or C{{"error": TEXT}}; where some of several processes have not
contributed to the result, C{"missing"} says why, by their numbers.  Each call does a
small piece of work and says where to go on, so nothing here takes long.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from deferrals import durable
from deferrals.errors import DeferralsError
from deferrals.interfaces import IMessage, IQueue, IReactor
from deferrals.logger import Logger
from deferrals.model.admission import AdmissionWish
from deferrals.model.ids import parseId
from deferrals.model.json import JSON
from deferrals.model.recent import RecentEvents
from deferrals.model.selection import Selection, SetAside, Shown
from deferrals.threads import InThread

_log = Logger(namespace="deferrals.operator")

#: So much of a message is read by one call.
READ_OCTETS = 96 * 1024

#: How long a client waits for an answer.
ANSWER_SECONDS = 600.0

#: How often it is looked whether the socket is there.
LOOK_SECONDS = 5.0

#: A longer name does not fit into a socket's address.
_NAME_OCTETS = 100


def _reachable(path: str) -> str:
    """
    The same file by a name that a socket's address can hold.
    """
    if len(os.fsencode(path)) <= _NAME_OCTETS:
        return path
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{directory}/{os.path.basename(path)}"


@attrs.frozen
class Partial:
    """
    The answer of several processes to which some have not contributed.

    @ivar missing: why, by worker.
    """

    result: JSON
    missing: Mapping[int, str]


#: What comes of a call.
Result: TypeAlias = "JSON | Partial"


class CalledTogether(Protocol):
    """
    What operators call of several processes.
    """

    def call(self, name: str, *args: JSON) -> Deferred[Result]:
        """See L{Operator.call}."""


class Called(Protocol):
    """
    What operators call.
    """

    def call(self, name: str, *args: JSON) -> Deferred[JSON]:
        """See L{Operator.call}."""


class Desk(Protocol):
    """
    What was refused for recipients, and whom they let in.
    """

    async def refusals(
        self, recipient: str, seconds: float | None, limit: int
    ) -> list[dict[str, JSON]]:
        """
        @param seconds: no older ones; C{None} for all.
        @return: those of one recipient, the newest first.
        """

    async def about(self, words: str, limit: int) -> list[dict[str, JSON]]:
        """
        @return: those of all recipients whose Subject has these words, where Subjects are
            kept, the newest first.
        """

    async def admit(self, recipient: str, wish: AdmissionWish) -> dict[str, JSON] | None:
        """
        Let in the sender of what was refused.

        @return: the admission; C{None} where no such refusal is kept.
        @raise ValueError: the sender cannot be known by this.
        """

    async def admissions(self, recipient: str | None) -> list[dict[str, JSON]]:
        """
        @return: those of one recipient, or of all.
        """

    async def removeAdmissions(self, recipient: str | None) -> int:
        """
        @return: how many there were.
        """

    async def digest(self, recipient: str | None, isDry: bool) -> list[dict[str, JSON]]:
        """
        Tell a recipient, or all who want it, what was refused since they were told.
        """


class Operator:
    """
    What can be called, in a server or beside a spool that no server has.

    @param inThread: runs a function outside the reactor thread.
    @param status: returns what the server says of itself.
    @param reload: reads the configuration again; C{None} beside a spool.
    @param recent: what has happened lately; nothing, beside a spool.
    @param desk: what was refused; C{None} where that is another process's to say.
    """

    def __init__(
        self,
        queue: IQueue,
        inThread: InThread,
        status: Callable[[], Shown],
        reload: Callable[[], Deferred[list[str]]] | None = None,
        recent: RecentEvents | None = None,
        desk: Desk | None = None,
    ) -> None:
        self._desk = desk
        self._queue = queue
        self._inThread = inThread
        self._status = status
        self._reload = reload
        self._recent = RecentEvents(float) if recent is None else recent

    def call(self, name: str, *args: JSON) -> Deferred[JSON]:
        """
        @param name: of a method C{call_NAME}.
        @param args: as JSON has them.
        @return: a Deferred of what JSON can carry.
        """
        method: Callable[..., Any] | None = getattr(self, f"call_{name}", None)
        if method is None:
            raise ValueError(f"no such call: {name}")
        return maybeDeferred(method, *args)

    @property
    def desk(self) -> Desk:
        """
        @raise ValueError: there is none.
        """
        if self._desk is None:
            raise ValueError("what was refused is not known here")
        return self._desk

    def call_look(
        self, selection: Shown, limit: int, after: Sequence[int] | None
    ) -> Deferred[tuple[list[Shown], Sequence[int] | None]]:
        """A page of the recipients that are selected."""
        return self._queue.recipients(Selection.fromJSON(selection), limit, after)

    def call_show(self, text: str) -> Deferred[Shown | None]:
        """All that is known of a message."""
        return self._queue.show(parseId(text))

    def call_change(
        self, command: str, selection: Shown, after: Sequence[int] | None
    ) -> Deferred[tuple[int, int, Sequence[int] | None]]:
        """Retry, hold, release or remove some of those that are selected."""
        return self._queue.change(command, Selection.fromJSON(selection), after)

    def call_inspect(self, after: int | None) -> Deferred[tuple[list[Shown], int, int | None]]:
        """What is damaged in a part of the spool."""
        return self._queue.inspect(after)

    def call_aside(self) -> Deferred[list[SetAside]]:
        """What has been set aside."""
        return self._queue.aside()

    def call_rescue(self, command: str, name: str) -> Deferred[SetAside]:
        """Show, take back or remove what has been set aside."""
        return self._queue.rescue(command, name)

    def call_numbers(self) -> Deferred[Shown]:
        """What is in the spool, in numbers."""
        return self._queue.numbers()

    async def call_refusals(
        self, recipient: str, seconds: float | None, limit: int
    ) -> list[dict[str, JSON]]:
        """What was refused for a recipient."""
        return await self.desk.refusals(recipient, seconds, limit)

    async def call_about(self, words: str, limit: int) -> list[dict[str, JSON]]:
        """What was refused under a Subject with these words."""
        return await self.desk.about(words, limit)

    async def call_admit(self, recipient: str, wish: JSON) -> dict[str, JSON] | None:
        """Let in a sender that was refused."""
        return await self.desk.admit(recipient, AdmissionWish.fromJSON(wish))

    async def call_admissions(self, recipient: str | None) -> list[dict[str, JSON]]:
        """The senders that recipients have let in."""
        return await self.desk.admissions(recipient)

    async def call_removeAdmissions(self, recipient: str | None) -> int:
        """Let them in no longer."""
        return await self.desk.removeAdmissions(recipient)

    async def call_digest(self, recipient: str | None, isDry: bool) -> list[dict[str, JSON]]:
        """Tell recipients what was refused for them."""
        return await self.desk.digest(recipient, isDry)

    def call_status(self) -> Shown:
        """What the server says of itself."""
        return self._status()

    def call_reload(self) -> Deferred[list[str]]:
        """Read the configuration again; see L{MailService<deferrals.app.service>}."""
        if self._reload is None:
            raise ValueError("no server runs")
        return self._reload()

    def call_recent(self, limit: int) -> JSON:
        """The last transactions, the newest first."""
        return self._recent.transactions(limit)

    def call_events(self, text: str) -> JSON:
        """What has happened lately with one transaction."""
        return self._recent.events(text)

    def call_find(self, text: str, limit: int) -> JSON:
        """The last transactions that have to do with something, the newest first."""
        return self._recent.find(text, limit)

    def call_policy(self, name: str) -> JSON:
        """What a policy has refused and marked lately, and the scores it has seen."""
        return self._recent.policy(name)

    async def call_read(self, text: str, offset: int) -> str | None:
        """
        A part of a message's content, in base64; empty at its end.
        """
        message = await maybeDeferred(self._queue.content, parseId(text))
        return None if message is None else await self._inThread(_part, message, offset)


def _part(message: IMessage, offset: int) -> str:
    with message.open() as file:
        file.seek(offset)
        return base64.b64encode(file.read(READ_OCTETS)).decode("ascii")


class ControlLine(LineOnlyReceiver):
    """
    One operator.
    """

    delimiter = b"\n"
    MAX_LENGTH = 256 * 1024

    def __init__(self, operator: Called | CalledTogether) -> None:
        self._operator = operator

    def lineReceived(self, line: bytes) -> None:
        """
        A request.
        """
        d = Deferred.fromCoroutine(self._call(line)).addCallback(_answerOf)
        d.addErrback(self._failed)
        d.addCallback(self._answer)

    async def _call(self, line: bytes) -> Result:
        request = json.loads(line)
        return await self._operator.call(request["call"], *request["args"])

    def _failed(self, failure: Failure) -> dict[str, str]:
        if not failure.check(DeferralsError, ValueError):
            _log.failure("a command failed", failure=failure)
        return {"error": failure.getErrorMessage() or type(failure.value).__name__}

    def _answer(self, answer: Shown) -> None:
        if self.connected:
            LineOnlyReceiver.sendLine(self, json.dumps(answer).encode("utf-8"))


def _answerOf(result: Result) -> dict[str, JSON]:
    if isinstance(result, Partial):
        return {"result": result.result, "missing": {str(k): v for k, v in result.missing.items()}}
    return {"result": result}


class ControlFactory(Factory):
    """
    @param operator: what can be called.
    """

    noisy = False

    def __init__(self, operator: Called | CalledTogether) -> None:
        self._operator = operator

    def buildProtocol(self, addr: IAddress | None) -> ControlLine:
        """
        See C{Factory.buildProtocol}.
        """
        return ControlLine(self._operator)


class ControlPort:
    """
    Listens for operators, as long as it is there; and again where its name is
    taken away.

    @param path: the socket's name.
    @param operator: what can be called.
    """

    def __init__(self, reactor: IReactor, path: str, operator: Called | CalledTogether) -> None:
        self._reactor = reactor
        self._path = path
        self._factory = ControlFactory(operator)
        self._port: IListeningPort | None = None
        self._file: tuple[int, int] | None = None
        self._failed = False
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._look()))
        self._loop.clock = reactor

    def start(self) -> None:
        """
        Listen, from when that can be.
        """
        try:
            self._listen()
        except Exception as error:
            self._complain(error)
        self._loop.start(LOOK_SECONDS, now=False)

    def _complain(self, error: Exception) -> None:
        """
        Once for each time that it is gone.
        """
        if not self._failed:
            _log.error("no control socket {path}: {error}", path=self._path, error=str(error))
        self._failed = True

    def _listen(self) -> None:
        _removeLeftOver(self._path)
        self._port = self._reactor.listenUNIX(_reachable(self._path), self._factory, mode=0o600)
        self._file = self._there()

    def _there(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    async def _look(self) -> None:
        if self._file is not None and self._there() == self._file:
            return
        try:
            durable.makeDirectory(os.path.dirname(self._path))
            await self._stop()
            self._listen()
        except Exception as error:
            self._complain(error)
            return
        self._failed = False
        _log.warn("{path} was taken away: made again", path=self._path)

    async def _stop(self) -> None:
        port, self._port = self._port, None
        if port is None:
            return
        if not os.path.lexists(self._path):  # Twisted wants to remove it
            with contextlib.suppress(OSError):
                os.close(os.open(self._path, os.O_CREAT | os.O_CLOEXEC, 0o600))
        # In a directory that is gone there is nothing that it could remove.
        with contextlib.suppress(OSError):
            await maybeDeferred(port.stopListening)

    def stopListening(self) -> Deferred[None]:
        """
        No more.
        """
        if self._loop.running:
            self._loop.stop()
        return Deferred.fromCoroutine(self._stop())


def _removeLeftOver(path: str) -> None:
    """
    Remove the socket of a process that died, or what L{ControlPort} has put in its
    place for a moment.

    @raise OSError: something else is there.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    isPlaceholder = stat.S_ISREG(found.st_mode) and found.st_size == 0
    if not (isPlaceholder or stat.S_ISSOCK(found.st_mode)):
        raise FileExistsError(errno.EEXIST, "there is something that is no socket", path)
    os.unlink(path)


def listen(reactor: IReactor, path: str, operator: Called | CalledTogether) -> ControlPort:
    """
    Listen for operators.  The spool's lock is held: a socket that is there is
    left over from a process that died.
    """
    port = ControlPort(reactor, path, operator)
    port.start()
    return port


class QueueConnection(Protocol):
    """
    A way to the queue, for a program that waits.

    @ivar running: whether there is a server.
    @ivar missing: of the processes that did not contribute to a result so far, why,
        by their numbers.
    """

    running: bool
    missing: dict[int, str]

    def call(self, name: str, *args: Any) -> Any:
        """
        See L{Operator.call}; the result is here, as JSON has it.

        @raise DeferralsError: why there is none.
        """

    def close(self) -> None:
        """
        Let go of it.
        """


class ControlClient(QueueConnection):
    """
    The other end of the socket.

    @param path: the socket's name.
    @raise OSError: no server listens there.
    """

    running = True

    def __init__(self, path: str) -> None:
        self.missing = {}
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_SECONDS)
        try:
            self._socket.connect(_reachable(path))
        except OSError:
            self._socket.close()
            raise
        self._file = self._socket.makefile("rb")

    def call(self, name: str, *args: Any) -> Any:
        request = {"call": name, "args": list(args)}
        try:
            self._socket.sendall(json.dumps(request).encode("utf-8") + b"\n")
            line = self._file.readline()
        except OSError as error:
            raise DeferralsError(f"the server does not answer: {error}") from None
        if not line:
            raise DeferralsError("the server has gone away")
        answer = json.loads(line)
        if "error" in answer:
            raise DeferralsError(answer["error"])
        self.missing |= {int(one): why for one, why in answer.get("missing", {}).items()}
        return answer["result"]

    def close(self) -> None:
        self._file.close()
        self._socket.close()
