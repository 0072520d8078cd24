"""
Where the log's lines go.

Mail never waits for the log, and the log is no error of its own: what cannot be
written now (a pipe that is not read, a full disk) is kept within a bound and tried
again; what is too much is dropped and counted.
"""

from __future__ import annotations

import atexit
import functools
import os
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

import attrs
from twisted.internet.interfaces import IDelayedCall
from twisted.python.threadable import isInIOThread

from deferrals.interfaces import IReactor
from deferrals.logger import Logger
from deferrals.model.backoff import Backoff

_log = Logger(namespace="deferrals")

#: What is kept of lines that cannot be written yet, in octets.
KEPT_OCTETS = 1024 * 1024

#: A pipe or a socket is given not more at once, in octets, and whole lines: what
#: other processes write to it comes between lines, and not into one.
PIECE_OCTETS = 4096

#: For how long the end of the process waits for what is kept, in seconds.
LAST_SECONDS = 1.0

_FIRST_SECONDS, _LONGEST_SECONDS = 0.25, 30.0

#: Addresses are in the log: it is the server's and its group's.
_MODE = 0o640

_FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@attrs.frozen
class _Sink:
    """
    @ivar put: writes what fits now.
    @ivar most: what it is given at once, in octets; C{None} for all that there is.
    """

    fd: int
    put: Callable[[memoryview], int]
    close: Callable[[], None]
    most: int | None = None

    def pieces(self, data: bytes) -> Iterator[memoryview]:
        """
        What is put one after the other: whole lines, as many as may be; a line that
        is longer is cut.
        """
        view, start = memoryview(data), 0
        while self.most is not None and len(data) - start > self.most:
            end = data.rfind(b"\n", start, start + self.most) + 1 or start + self.most
            yield view[start:end]
            start = end
        yield view[start:]

    @classmethod
    def of(cls, fd: int) -> _Sink:
        """What C{os.write} writes to."""
        put, close = functools.partial(os.write, fd), functools.partial(os.close, fd)
        isFile = stat.S_ISREG(os.fstat(fd).st_mode)
        return cls(fd, put, close, None if isFile else PIECE_OCTETS)


class Output:
    """
    A file, or what standard output is.

    @param path: of the file; C{None} is standard output.
    @param rotateOctets: a file that has become so long is renamed (C{.1} is the
        newest), and a new one is begun; C{None} leaves that to others (logrotate).
    @ivar rotated: is told when a new file was begun.
    @raise OSError: the file cannot be written.
    """

    def __init__(
        self, reactor: IReactor, path: str | None = None, rotateOctets: int | None = None
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._rotateOctets = rotateOctets
        self.rotated: Callable[[], object] | None = None
        self._encoding = "utf-8" if path else _encodingOf(sys.__stdout__)
        self._sink = _standardOutput() if path is None else _file(path)
        self._kept = bytearray()
        self._lost = 0
        self._isSlow = False  # otherwise what is not written fails
        self._lock = threading.Lock()  # other threads log, too
        self._backoff = Backoff(1, _FIRST_SECONDS, _LONGEST_SECONDS)
        self._again: IDelayedCall | None = None
        atexit.register(self.finish)

    def write(self, text: str) -> None:
        """
        Take whole lines, from any thread.  Never waits, and never raises.
        """
        data = text.encode(self._encoding, "backslashreplace")
        with self._lock:
            if not self._kept:
                data = self._written(data)
                self._kept += data
            elif len(self._kept) + len(data) <= KEPT_OCTETS:
                self._kept += data
            else:
                self._lost += data.count(b"\n")
            waits = bool(self._kept) and self._again is None
        if waits:
            self._soon()

    def flush(self) -> None:
        """
        Nothing to do: what can be written has been.
        """

    def reopen(self) -> None:
        """
        Begin a new file where the old one has been moved away.  What cannot be
        opened leaves the old one.
        """
        if self._path is None:
            return
        try:
            new = _file(self._path)
        except OSError as error:
            _log.error("the log goes on in its old file: {error}", error=str(error))
            return
        with self._lock:
            self._sink.close()
            self._sink = new

    def finish(self) -> None:
        """
        The process ends: write what is kept, for a short time.
        """
        end = time.monotonic() + LAST_SECONDS
        poll = select.poll()
        poll.register(self._sink.fd, select.POLLOUT)
        with self._lock:
            self._kept = bytearray(self._written(bytes(self._kept)))
            while self._kept and self._isSlow and (left := end - time.monotonic()) > 0:
                poll.poll(left * 1000)
                self._kept = bytearray(self._written(bytes(self._kept)))

    def close(self) -> None:
        """
        Write nothing more.
        """
        atexit.unregister(self.finish)
        if self._again is not None and self._again.active():
            self._again.cancel()
        self._sink.close()

    def _written(self, data: bytes) -> bytes:
        """
        @return: what could not be written.
        """
        written = 0
        try:
            for piece in self._sink.pieces(data):
                while piece:
                    count = self._sink.put(piece)
                    piece, written = piece[count:], written + count
        except OSError as error:
            self._isSlow = isinstance(error, BlockingIOError)
            return data[written:]
        if self._rotateOctets is not None and self._path is not None:
            self._rotate(self._path, self._rotateOctets)
        return b""

    def _rotate(self, path: str, limit: int) -> None:
        try:
            if os.fstat(self._sink.fd).st_size < limit:
                return
            older = 1
            while os.path.exists(f"{path}.{older}"):
                older += 1
            for number in range(older, 1, -1):
                os.rename(f"{path}.{number - 1}", f"{path}.{number}")
            os.rename(path, f"{path}.1")
            new = _file(path)
        except OSError:
            return  # the file grows, rather than that lines are lost
        self._sink.close()
        self._sink = new
        if self.rotated is not None:
            self._reactor.callFromThread(self.rotated)

    def look(self) -> None:
        """
        Begin a new file if others have made this one so long.
        """
        with self._lock:
            if self._rotateOctets is not None and self._path is not None:
                self._rotate(self._path, self._rotateOctets)

    def _soon(self) -> None:
        """
        Try again, after a while that grows.
        """
        if not isInIOThread():
            self._reactor.callFromThread(self._soon)
            return
        if self._again is None or not self._again.active():
            seconds = self._backoff.failed(self._reactor.seconds()) or _FIRST_SECONDS
            self._again = self._reactor.callLater(seconds, self._retry)

    def _retry(self) -> None:
        with self._lock:
            self._again = None
            self._kept = bytearray(self._written(bytes(self._kept)))
            waits, lost = bool(self._kept), self._lost
            if not waits:
                self._lost = 0
        if waits:
            self._soon()
            return
        self._backoff.succeeded()
        if lost:
            _log.warn("{count} lines are missing here: nothing took them", count=lost)


def _file(path: str) -> _Sink:
    return _Sink.of(os.open(path, _FLAGS | os.O_APPEND | os.O_CREAT, _MODE))


def _standardOutput() -> _Sink:
    """
    A descriptor of our own that does not block: standard output itself is shared
    with other processes, and stays as it is.
    """
    stream = sys.__stdout__
    if stream is None or stream.closed:
        return _file(os.devnull)
    stream.flush()
    own = os.dup(stream.fileno())
    mode = os.fstat(own).st_mode
    if stat.S_ISSOCK(mode):  # the journal's
        end = socket.socket(fileno=own)
        return _Sink(own, lambda data: end.send(data, socket.MSG_DONTWAIT), end.close, PIECE_OCTETS)
    if not stat.S_ISREG(mode):
        try:
            fd = os.open(f"/proc/self/fd/{own}", _FLAGS)
        except OSError:
            pass  # no such file system; or it is not ours to open
        else:
            os.close(own)
            own = fd
    return _Sink.of(own)


def _encodingOf(stream: TextIO | None) -> str:
    return (stream is not None and stream.encoding) or "utf-8"
