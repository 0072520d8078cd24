"""
The operator's connection to the server: a Unix socket in the state directory,
which only the server's own user can open.

A request is a line of JSON, C{{"call": NAME, "args": […]}}; so is the answer,
C{{"result": …}} or C{{"error": TEXT}}.  Each call does a small piece of work and
says where to go on, so nothing here takes long.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorUNIX
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from deferrals.deferreds import InThread
from deferrals.errors import DeferralsError
from deferrals.interfaces import IMessage, IQueue
from deferrals.logger import Logger
from deferrals.model.ids import parseId
from deferrals.model.selection import Selection, Shown

_log = Logger(namespace="deferrals.operator")

#: So much of a message is read by one call.
READ_OCTETS = 96 * 1024

#: How long a client waits for an answer.
ANSWER_SECONDS = 600.0

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


class Operator:
    """
    What can be called, in a server or beside a spool that no server has.

    @param inThread: runs a function outside the reactor thread.
    @param status: returns what the server says of itself.
    @param reload: reads the configuration again; C{None} beside a spool.
    """

    def __init__(
        self,
        queue: IQueue,
        inThread: InThread,
        status: Callable[[], Shown],
        reload: Callable[[], Deferred[list[str]]] | None = None,
    ) -> None:
        self._queue = queue
        self._inThread = inThread
        self._status = status
        self._reload = reload

    def call(self, name: str, *args: Any) -> Deferred[Any]:
        """
        @param name: of a method C{call_NAME}.
        @param args: as JSON has them.
        @return: a Deferred of what JSON can carry.
        """
        method: Callable[..., Any] | None = getattr(self, f"call_{name}", None)
        if method is None:
            raise ValueError(f"no such call: {name}")
        return maybeDeferred(method, *args)

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
    ) -> Deferred[tuple[int, Sequence[int] | None]]:
        """Retry, hold, release or remove some of those that are selected."""
        return self._queue.change(command, Selection.fromJSON(selection), after)

    def call_inspect(self, after: int | None) -> Deferred[tuple[list[Shown], int, int | None]]:
        """What is damaged in a part of the spool."""
        return self._queue.inspect(after)

    def call_numbers(self) -> Deferred[Shown]:
        """What is in the spool, in numbers."""
        return self._queue.numbers()

    def call_status(self) -> Shown:
        """What the server says of itself."""
        return self._status()

    def call_reload(self) -> Deferred[list[str]]:
        """Read the configuration again; see L{MailService<deferrals.app.service>}."""
        if self._reload is None:
            raise ValueError("no server runs")
        return self._reload()

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

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def lineReceived(self, line: bytes) -> None:
        """
        A request.
        """
        d = maybeDeferred(self._call, line)
        d.addCallback(lambda result: {"result": result})
        d.addErrback(self._failed)
        d.addCallback(self._answer)

    def _call(self, line: bytes) -> Deferred[Any]:
        request = json.loads(line)
        return self._operator.call(request["call"], *request["args"])

    def _failed(self, failure: Failure) -> dict[str, str]:
        if not failure.check(DeferralsError, ValueError):
            _log.failure("a command failed", failure=failure)
        return {"error": failure.getErrorMessage() or type(failure.value).__name__}

    def _answer(self, answer: Shown) -> None:
        if self.connected:
            LineOnlyReceiver.sendLine(self, json.dumps(answer).encode("utf-8"))


class ControlFactory(Factory):
    """
    @param operator: what can be called.
    """

    noisy = False

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def buildProtocol(self, addr: IAddress | None) -> ControlLine:
        """
        See C{Factory.buildProtocol}.
        """
        return ControlLine(self._operator)


def listen(reactor: IReactorUNIX, path: str, operator: Operator) -> IListeningPort | None:
    """
    Listen for operators.  The spool's lock is held: a socket that is there is
    left over from a process that died.

    @return: the port; C{None} where there can be none, which the log says.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return reactor.listenUNIX(_reachable(path), ControlFactory(operator), mode=0o600)
    except Exception as error:
        _log.error("no control socket {path}: {error}", path=path, error=str(error))
        return None


class QueueConnection(Protocol):
    """
    A way to the queue, for a program that waits.

    @ivar running: whether there is a server.
    """

    running: bool

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
        return answer["result"]

    def close(self) -> None:
        self._file.close()
        self._socket.close()
