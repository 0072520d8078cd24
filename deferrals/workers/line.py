"""
The line between the parent and a worker: a UNIX stream socket, with JSON arrays
in both directions, one on each line.

Either end may I{ask} the other something, and I{tell} it something.  What is said
within one turn of the reactor is one array and one write, however much it is.
The elements of an array are

  - C{["ask", NUMBER, NAME, ARGUMENTS, DESCRIPTORS]}, where so many descriptors have
    come with it,
  - C{["answer", NUMBER, VALUE]} and C{["error", NUMBER, TEXT, EXPECTED]},
  - C{["cancel", NUMBER]}: the answer is not waited for any longer,
  - C{["tell", NAME, ARGUMENTS]}.

An empty array is a sign of life: an end that has nothing to say says that.

Both ends are of one installation and of one version.  What cannot be understood is
a fault of the program: the connection is closed.  When it is gone, whatever was
asked fails with L{LineError<deferrals.errors.LineError>}, and whatever the other
end has asked is cancelled.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from twisted.internet.defer import Deferred, TimeoutError, fail
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IFileDescriptorReceiver,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
    IUNIXTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.deferreds import asDeferred, awaited, letGo
from deferrals.errors import DeferralsError, LineError
from deferrals.interfaces.message import MaybeAwaitable
from deferrals.logger import Logger
from deferrals.model.json import JSON

_log = Logger(namespace="deferrals.workers")

#: No array is longer, in octets.
MAX_OCTETS = 16 * 1024 * 1024

#: So much may wait for an end that does not read, in octets; then it is given up.
MAX_WAITING_OCTETS = 64 * 1024 * 1024

#: So many answers may be waited for.
MAX_ASKED = 20_000

#: How long an answer may take, in seconds, where the caller does not say.
ANSWER_SECONDS = 10.0

#: An end says something that often, in seconds.
BEAT_SECONDS = 0.25

#: What answers: it may wait, and may raise.  Descriptors that have come belong to it:
#: it gets them as C{descriptors}.
Handler: TypeAlias = Callable[..., MaybeAwaitable[JSON]]


class _ILineTransport(ITCPTransport, IUNIXTransport, IConsumer):
    """
    What Twisted's UNIX sockets are.
    """


_encode = json.JSONEncoder(separators=(",", ":")).encode


@implementer(IFileDescriptorReceiver, IPushProducer)
class WorkerLine(Protocol):
    """
    One end of it.

    @param clock: timers.
    @param handlers: what the other end may ask, and be told, by name.
    @param lost: is called once, when there is no connection any longer.
    """

    transport: _ILineTransport  # from connectionMade on; nothing here is called before

    def __init__(
        self,
        clock: IReactorTime,
        handlers: Mapping[str, Handler] | None = None,
        lost: Callable[[Failure], object] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._unheard = 0
        self._handlers = dict(handlers or {})
        self._lost = lost
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asking] = {}
        self._answering: dict[int, Deferred[JSON]] = {}
        self._in = _Arrays()
        self._descriptors: deque[int] = deque()
        self._out = _Waiting()
        self._flushing: IDelayedCall | None = None
        self._beating: IDelayedCall | None = None
        self._isPaused = False
        self._words: Mapping[str, Callable[..., None]] = {
            "ask": self._isAsked,
            "answer": self._isAnswered,
            "error": self._isRefused,
            "cancel": self._isCancelled,
            "tell": self._isTold,
        }

    # What its owner uses.

    @property
    def silentSeconds(self) -> float:
        """
        For how long nothing was heard of the other end, counted in beats of this one:
        while this process stood still itself, it could hear nothing.
        """
        return self._unheard * BEAT_SECONDS

    def handle(self, name: str, handler: Handler) -> None:
        """
        Let the other end ask something, or tell it.
        """
        self._handlers[name] = handler

    def ask(
        self,
        name: str,
        *args: JSON,
        seconds: float = ANSWER_SECONDS,
        silent: float = math.inf,
        descriptors: Sequence[int] = (),
    ) -> Deferred[JSON]:
        """
        @param seconds: how long the answer may take; it is looked at each beat.
        @param silent: for how long the other end may not say anything at all.
        @param descriptors: go with it.  They stay the caller's, and open until the
            answer is there.
        @return: a Deferred of the answer; may be cancelled.  It fails with
            L{DeferralsError<deferrals.errors.DeferralsError>} where that is what the
            other end says, with L{LineError<deferrals.errors.LineError>} where it
            does not say what it should, and with C{TimeoutError}.
        """
        if not self.connected:
            return fail(LineError("the other process has gone away"))
        if len(self._asked) >= MAX_ASKED:
            return fail(LineError("too many answers are waited for"))
        number = next(self._numbers)
        try:
            self._say(["ask", number, name, [*args], len(descriptors)], descriptors)
        except (LineError, TypeError, ValueError):
            return fail()
        until = self._clock.seconds() + seconds
        asking = self._asked[number] = _Asking(self._left, number, until, silent)
        return asking

    def tell(self, name: str, *args: JSON) -> None:
        """
        Say something that has no answer.

        @raise LineError: it is too much.
        """
        self._say(["tell", name, args])

    def close(self) -> None:
        """
        Hang up at once: what was said last may not arrive.
        """
        if self.connected:
            self.transport.abortConnection()

    # What goes out.

    def _left(self, asking: Deferred[JSON]) -> None:
        """
        An answer is not waited for any longer.
        """
        assert isinstance(asking, _Asking)
        if self._asked.pop(asking.number, None) is not None:
            self._say(["cancel", asking.number])

    def _say(self, words: JSON, descriptors: Sequence[int] = ()) -> None:
        """
        @raise LineError: it is too much.
        """
        if not self.connected:
            return
        text = _encode(words).encode("ascii")
        if len(text) > MAX_OCTETS - 3:
            raise LineError(f"{len(text)} octets are too many for the line")
        self._out.add(text, descriptors)
        if self._out.octets > MAX_WAITING_OCTETS:
            _log.error("a line is given up: {octets} octets wait", octets=self._out.octets)
            self.close()
        elif self._flushing is None and not self._isPaused:
            self._flushing = self._clock.callLater(0, self._flush)

    def _flush(self) -> None:
        """
        Write what was said in this turn.
        """
        self._flushing = None
        while self._out and not self._isPaused and self.connected:
            array, descriptors = self._out.take()
            for one in descriptors:
                self.transport.sendFileDescriptor(one)
            self.transport.write(array)

    def _beat(self) -> None:
        """
        Let the other end hear something.
        """
        if not (self._out or self._isPaused):
            self.transport.write(b"[]\n")
        now = self._clock.seconds()
        silent = self.silentSeconds
        late = [one for one in self._asked.values() if one.until <= now or one.silent <= silent]
        for asking in late:
            if asking.number in self._asked:
                self._left(asking)
                asking.errback(TimeoutError("no answer on the line"))
        if self.connected:
            self._beating = self._clock.callLater(BEAT_SECONDS, self._beatAgain)

    def _beatAgain(self) -> None:
        self._unheard += 1
        self._beat()

    # What its transport calls.

    def connectionMade(self) -> None:
        """
        See C{Protocol.connectionMade}.
        """
        self.transport.registerProducer(self, True)
        self._beat()

    def pauseProducing(self) -> None:
        """
        See C{IPushProducer.pauseProducing}.
        """
        self._isPaused = True

    def resumeProducing(self) -> None:
        """
        See C{IPushProducer.resumeProducing}.
        """
        self._isPaused = False
        if self._flushing is None:
            self._flush()

    def stopProducing(self) -> None:
        """
        See C{IProducer.stopProducing}.
        """
        self._isPaused = True

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """
        See C{IFileDescriptorReceiver}: it comes before the array that says so.
        """
        os.set_inheritable(descriptor, False)
        self._descriptors.append(descriptor)

    def dataReceived(self, data: bytes) -> None:
        """
        See C{Protocol.dataReceived}.
        """
        self._unheard = 0
        try:
            for array in self._in.add(data):
                for words in json.loads(array):
                    self._heard(*words)
        except (ValueError, TypeError, LookupError, RecursionError):
            _log.failure("a line is closed: what was said on it is not understood")
            self.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See C{Protocol.connectionLost}.
        """
        self.connected = False
        for timer in (self._flushing, self._beating):
            if timer is not None and timer.active():
                timer.cancel()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._out = _Waiting()
        asked, self._asked = self._asked, {}
        for asking in asked.values():
            asking.errback(LineError("the other process has gone away"))
        answering, self._answering = self._answering, {}
        for d in answering.values():
            letGo(d)
        self._lost(reason)

    # What came in.

    def _heard(self, kind: str, *words: JSON) -> None:
        """
        @raise LookupError: it is not what one says here.
        @raise TypeError: nor is this.
        """
        self._words[kind](*words)

    def _isAsked(self, number: int, name: str, args: list[JSON], count: int) -> None:
        descriptors = [self._descriptors.popleft() for _ in range(count)]
        handler = self._handlers.get(name)
        if handler is None:
            for one in descriptors:
                os.close(one)
            return self._say(["error", number, f"no such question: {name}", False])
        more = {"descriptors": descriptors} if descriptors else {}
        try:
            answer = awaited(handler(*args, **more))
            if not isinstance(answer, Deferred):
                return self._say(["answer", number, answer])  # most are there at once
        except Exception:
            answer = fail()
        d = self._answering[number] = answer
        d.addCallback(lambda value: self._say(["answer", number, value]))
        d.addErrback(self._failed, number, name)
        d.addBoth(lambda _: self._over(number))

    def _over(self, number: int) -> None:
        self._answering.pop(number, None)

    def _failed(self, failure: Failure, number: int, name: str) -> None:
        if number not in self._answering:
            return  # no answer is waited for
        isExpected = failure.check(DeferralsError, ValueError) is not None
        if not isExpected:
            _log.raised(failure, "{stage}, asked on the line: {error}", stage=name)
        text = failure.getErrorMessage() or type(failure.value).__name__
        self._say(["error", number, text, isExpected])

    def _isAnswered(self, number: int, value: JSON) -> None:
        d = self._asked.pop(number, None)
        if d is not None:
            d.callback(value)

    def _isRefused(self, number: int, text: str, isExpected: bool) -> None:
        d = self._asked.pop(number, None)
        if d is not None:
            d.errback(DeferralsError(text) if isExpected else LineError(text))

    def _isCancelled(self, number: int) -> None:
        d = self._answering.pop(number, None)
        if d is not None:
            letGo(d)

    def _isTold(self, name: str, args: list[JSON]) -> None:
        handler = self._handlers.get(name)
        if handler is None:
            return _log.error("no such word on the line: {name}", name=name)
        d = asDeferred(handler, *args)
        d.addErrback(lambda why: _log.raised(why, "{stage}, told on the line: {error}", stage=name))


class _Asking(Deferred[JSON]):
    """
    An answer that is waited for.

    @ivar number: its question's.
    @ivar until: how long, in the clock's seconds.
    @ivar silent: how long nothing may be heard.
    """

    def __init__(
        self,
        canceller: Callable[[Deferred[JSON]], None],
        number: int,
        until: float,
        silent: float,
    ) -> None:
        super().__init__(canceller)
        self.number = number
        self.until = until
        self.silent = silent


class _Arrays:
    """
    What comes in, until an array is whole.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._octets = 0

    def add(self, data: bytes) -> Iterator[bytes]:
        """
        @return: the arrays that are whole now.
        @raise ValueError: one is too long.
        """
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._keep(end)
            array, self._pieces, self._octets = b"".join(self._pieces), [], 0
            yield array
        self._keep(rest)

    def _keep(self, piece: bytes) -> None:
        self._octets += len(piece)
        if self._octets > MAX_OCTETS:
            raise ValueError(f"an array is longer than {MAX_OCTETS} octets")
        self._pieces.append(piece)


class _Waiting:
    """
    What goes out, until it is written.

    @ivar octets: how much it is.
    """

    def __init__(self) -> None:
        self.octets = 0
        self._elements: deque[tuple[bytes, Sequence[int]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._elements)

    def add(self, element: bytes, descriptors: Sequence[int]) -> None:
        """
        @param descriptors: go with it.
        """
        self._elements.append((element, descriptors))
        self.octets += len(element) + 1

    def take(self) -> tuple[bytes, list[int]]:
        """
        @return: an array of as much as one may hold, and its descriptors.
        """
        texts: list[bytes] = []
        descriptors: list[int] = []
        octets = 2
        while self._elements and octets + len(self._elements[0][0]) < MAX_OCTETS:
            element, with_ = self._elements.popleft()
            texts.append(element)
            descriptors += with_
            octets += len(element) + 1
        self.octets -= octets - 2
        return b"[" + b",".join(texts) + b"]\n", descriptors
