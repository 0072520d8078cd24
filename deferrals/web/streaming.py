"""
C{/events}: what happens, as it happens.

All listeners hear the same, which is made once.  There are not many of them; one that
does not read what it is sent is let go, and each has to come again, and to show who it
is, after a while.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from deferrals.deferreds import TimeoutError, timeOfDay, withDeadline
from deferrals.errors import DeferralsError
from deferrals.logger import Logger
from deferrals.model.json import JSON, asList, asNumber, asObject
from deferrals.web.answers import Answering, answered
from deferrals.web.asking import Ask
from deferrals.web.visitors import Visitors

_log = Logger(namespace="deferrals.web")

#: How often something is said, in seconds, and of how many transactions at most.
EVERY_SECONDS = 2.0
TRANSACTIONS = 50

#: So many listeners there may be, so long each may stay, and so long one may take what
#: it was sent, in seconds.
MAX_LISTENERS = 20
LISTENER_SECONDS = 600.0
SLOW_SECONDS = 6.0

#: Live texts of a status, by their names on pages.
Texts = Callable[[dict[str, JSON]], dict[str, JSON]]


@implementer(IPushProducer)
class StreamListener:
    """
    One client that listens.

    @param cutOff: ends its connection at once.
    @ivar since: when it came.
    """

    def __init__(self, request: Request, cutOff: Callable[[], None], clock: IReactorTime) -> None:
        self._request = request
        self._cutOff = cutOff
        self._clock = clock
        self.since = clock.seconds()
        self._fullSince: float | None = None

    def begin(self) -> None:
        """
        Say that there will be more.
        """
        answered(self._request, b"", b"text/event-stream")
        self._request.registerProducer(self, True)
        self._request.write(b"retry: 5000\n\n")

    @property
    def isSlow(self) -> bool:
        """
        Whether it has not read for too long.
        """
        full = self._fullSince
        return full is not None and self._clock.seconds() - full >= SLOW_SECONDS

    def say(self, octets: bytes) -> None:
        """
        Send something, unless it still has to read what was sent before.
        """
        if self._fullSince is None:
            self._request.write(octets)

    def end(self) -> None:
        """
        No more.
        """
        if self._fullSince is None:
            self._request.unregisterProducer()
            self._request.finish()
        else:
            self._cutOff()

    def pauseProducing(self) -> None:
        """
        See C{IPushProducer}.
        """
        self._fullSince = self._clock.seconds()

    def resumeProducing(self) -> None:
        """
        See C{IPushProducer}.
        """
        self._fullSince = None

    def stopProducing(self) -> None:
        """
        See C{IPushProducer}: that it has gone is told otherwise.
        """


class EventStream:
    """
    @param ask: asks the server.
    @param texts: makes the live texts of pages.
    @param clock: timers.
    """

    def __init__(self, ask: Ask, texts: Texts, clock: IReactorTime) -> None:
        self._ask = ask
        self._texts = texts
        self._clock = clock
        self._listeners: dict[StreamListener, None] = {}
        self._known: set[str] | None = None
        self._loop: LoopingCall | None = None

    @property
    def isFull(self) -> bool:
        """
        Whether there are as many listeners as there may be.
        """
        return len(self._listeners) >= MAX_LISTENERS

    def add(self, request: Request, cutOff: Callable[[], None]) -> None:
        """
        A client listens.

        @param cutOff: ends its connection at once.
        """
        listener = StreamListener(request, cutOff, self._clock)
        request.notifyFinish().addBoth(self._gone, listener)
        self._listeners[listener] = None
        listener.begin()
        if self._loop is None:
            self._begin()

    def _begin(self) -> None:
        """
        A loop of its own each time: the former one may still wait for an answer, and would
        take that for its own turn.
        """
        self._known = None
        self._loop = LoopingCall(self._say)
        self._loop.clock = self._clock
        d = self._loop.start(EVERY_SECONDS)
        d.addErrback(lambda failure: _log.failure("no events", failure=failure))

    def _gone(self, _: object, listener: StreamListener) -> None:
        self._listeners.pop(listener, None)
        if not self._listeners and self._loop is not None:
            loop, self._loop = self._loop, None
            loop.stop()

    def close(self) -> None:
        """
        All have to go.
        """
        for one in list(self._listeners):
            one.end()

    def _say(self) -> Deferred[None]:
        for one in list(self._listeners):
            if one.isSlow or self._clock.seconds() - one.since >= LISTENER_SECONDS:
                one.end()
        d = withDeadline(self._clock, 2 * EVERY_SECONDS, self._news)
        return d.addErrback(_nothing).addCallback(self._said)

    def _said(self, octets: bytes) -> None:
        for one in list(self._listeners):
            one.say(octets)

    async def _news(self) -> bytes:
        status = asObject((await self._ask("status")).result)
        recent = asList((await self._ask("recent", TRANSACTIONS)).result)
        said = {
            "time": _moment(timeOfDay(self._clock)),
            **{key: status.get(key) for key in ("ready", "reasons", "rates")},
            "shown": self._texts(status),
        }
        return b"".join([_event("status", said), *self._new(recent)])

    def _new(self, recent: list[JSON]) -> Iterator[bytes]:
        """
        The transactions that were not there at the last time.
        """
        found = {str(asObject(one)["transaction"]): asObject(one) for one in reversed(recent)}
        known, self._known = self._known, set(found)
        for number, one in found.items():
            if known is not None and number not in known:
                yield _event("transaction", {**one, "time": _moment(asNumber(one["time"]))})


def _moment(seconds: float) -> str:
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.isoformat(timespec="milliseconds")


def _event(name: str, said: dict[str, JSON]) -> bytes:
    text = json.dumps(said, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode("ascii")


def _nothing(failure: Failure) -> bytes:
    if not failure.check(DeferralsError, TimeoutError):
        _log.failure("no events", failure=failure)
    return b": nothing is known now\n\n"


class EventsAnswer(Answering):
    """
    C{/events}.

    @param hold: lets a request's connection stay for so many seconds, and returns what
        cuts it off.
    """

    def __init__(
        self,
        stream: EventStream,
        visitors: Visitors,
        hold: Callable[[Request, float], Callable[[], None]],
    ) -> None:
        super().__init__()
        self._stream = stream
        self._visitors = visitors
        self._hold = hold

    def render_GET(self, request: Request) -> int:
        """
        See C{Resource}.
        """
        isGone: list[Failure] = []
        request.notifyFinish().addErrback(isGone.append)
        d = Deferred.fromCoroutine(self._begin(request, isGone))
        d.addErrback(lambda failure: _notBegun(failure, request, isGone))
        return int(NOT_DONE_YET)

    async def _begin(self, request: Request, isGone: list[Failure]) -> None:
        viewer = await self._visitors.find(request)
        if isGone:
            return
        if viewer is None or self._stream.isFull:
            code = 401 if viewer is None else 503
            request.write(
                answered(request, b"log in\n" if viewer is None else b"too many\n", code=code)
            )
            request.finish()
        elif request.method == b"HEAD":
            answered(request, b"", b"text/event-stream")
            request.finish()
        else:
            cutOff = self._hold(request, LISTENER_SECONDS + 2 * SLOW_SECONDS)
            self._stream.add(request, cutOff)


def _notBegun(failure: Failure, request: Request, isGone: list[Failure]) -> None:
    _log.failure("no events", failure=failure)
    if not isGone:
        request.setResponseCode(500)
        request.finish()
