"""
Connections to one filter: dialogues over them, and which of them can be used again.

A connection is used again for the next message of the same session, behind an ABORT.
For another session there is a new one: C{QUIT_NC}, which would save that, is a word after
which the library that most filters are made of may not answer any longer.  A connection
over which anything wrong has been said is closed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import TypeVar

from kilter.protocol.messages import ActionFlags, Close, Message, Progress
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.deferreds import withDeadline
from deferrals.errors import StageError
from deferrals.stages.milter.dialogue import (
    OFFERS,
    Dialogue,
    Negotiated,
    Tell,
    insists,
    negotiation,
)
from deferrals.stages.milter.wire import Packets, packed

_T = TypeVar("_T")

#: A filter that works gets its time anew, but in all not more than so many times as much.
MOST_TIMES = 8

#: So many messages of a filter may come together, or wait to be heard; and so often it may
#: say that it works.
MAX_UNHEARD, MAX_PROGRESS = 2000, 1000

#: So many connections are kept for the next message, and for so long, in seconds.
MAX_IDLE, IDLE_SECONDS = 10, 30.0

#: What a probe offers, to hear what a filter insists on.
_ALL = ActionFlags.ALL & ~ActionFlags.SETSYMLIST


class Lost(StageError):
    """
    The filter has closed the connection.
    """


class _IFilterTransport(ITCPTransport):
    """
    What a connection to a filter needs of its transport.
    """

    def registerProducer(producer: IPushProducer, streaming: bool) -> None:
        """See L{IConsumer<twisted.internet.interfaces.IConsumer>}."""


@implementer(IPushProducer)
class FilterLink(Protocol):
    """
    One connection.

    @ivar negotiated: what the filter wants; there once it has said so.
    @ivar session: whose session it has been told of; C{None}: of none.
    @ivar isHeard: whether it has answered anything since L{begin}.
    @ivar isOver: whether it cannot be used any longer.
    """

    transport: _IFilterTransport
    negotiated: Negotiated

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._packets = Packets()
        self._unheard: deque[Message] = deque()
        self._waiter: Deferred[None] | None = None
        self._isPaused = False
        self._wrong: Exception | None = None
        self._timer: IDelayedCall | None = None
        self._seconds, self._until, self._progress = 0.0, 0.0, 0
        self.session: Hashable = None
        self.isHeard = False
        self.isOver = False

    # What the transport says.

    def connectionMade(self) -> None:
        """
        Write no faster than the filter reads.
        """
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        try:
            for message in self._packets.feed(data):
                self._hear(message)
        except StageError as error:
            self._fail(error)
        if self._unheard:  # all that came together: more than one answers one step
            self._wake()

    def _hear(self, message: Message) -> None:
        self.isHeard = True
        if isinstance(message, Progress):
            self._progress += 1
            if self._progress > MAX_PROGRESS:
                raise StageError("the filter says too often that it works")
            self._extend()
            return
        if self._timer is None:
            raise StageError("the filter speaks although it is asked nothing")
        if len(self._unheard) >= MAX_UNHEARD:
            raise StageError("the filter says more than it is asked")
        self._unheard.append(message)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._fail(Lost("the filter has closed the connection"))

    def pauseProducing(self) -> None:
        """
        The filter is behind.
        """
        self._isPaused = True

    def resumeProducing(self) -> None:
        """
        It has room again.
        """
        self._isPaused = False
        self._wake()

    def stopProducing(self) -> None:
        """
        The connection is lost, which is told elsewhere.
        """

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    def _fail(self, error: Exception) -> None:
        """
        Whatever waits, and is asked later, fails so.
        """
        if self._wrong is None:
            self._wrong = error
        if not self.isOver:
            self.isOver = True
            self.transport.abortConnection()
        self._wake()

    # The clock.

    def begin(self, seconds: float) -> None:
        """
        @param seconds: so long a dialogue may take; as long again from each time on at
            which the filter says that it works, but in all not more than L{MOST_TIMES}.
        """
        self.isHeard, self._progress = False, 0
        self._seconds = seconds
        self._until = self._clock.seconds() + MOST_TIMES * seconds
        self._timer = self._clock.callLater(seconds, self._late)

    def _extend(self) -> None:
        if self._timer is not None and self._timer.active():
            left = self._until - self._clock.seconds()
            self._timer.reset(max(0.0, min(self._seconds, left)))

    def _late(self) -> None:
        self._fail(TimeoutError("the filter has not answered in time"))

    def end(self) -> None:
        """
        There is nothing to be waited for.
        """
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    # Dialogues.

    async def run(self, dialogue: Dialogue[_T]) -> _T:
        """
        @return: what comes of it.
        @raise StageError: the filter says what it may not say.
        @raise TimeoutError: it says nothing in time.
        """
        answer: Message | None = None
        while True:
            try:
                tell = dialogue.send(answer)
            except StopIteration as end:
                if not isinstance(self._wrong, Lost):  # it may leave, when all is said
                    self._checkSilence()
                result: _T = end.value
                return result
            await self._tell(tell)
            answer = await self._answer() if tell.isAnswered else None

    async def _tell(self, tell: Tell) -> None:
        if tell.octets:
            self._checkSilence()
            self.transport.write(tell.octets)
        while self._isPaused and not self._unheard:
            await self._event()

    async def _answer(self) -> Message:
        while not self._unheard:
            await self._event()
        return self._unheard.popleft()

    def _event(self) -> Deferred[None]:
        """
        Something happens.
        """
        if self._wrong is not None:
            raise self._wrong
        self._waiter = Deferred()
        return self._waiter

    def _checkSilence(self) -> None:
        """
        @raise StageError: there is something wrong, or the filter has said what it was
            not asked: what it answers next would be taken for the answer to something
            else.
        """
        if self._wrong is not None:
            raise self._wrong
        if self._unheard:
            raise StageError(f"the filter says {type(self._unheard[0]).__name__} out of turn")

    def say(self, octets: bytes) -> None:
        """
        Something that is not answered.
        """
        if not self.isOver:
            self.transport.write(octets)

    def close(self) -> None:
        """
        It is not needed any longer.
        """
        self.end()
        if not self.isOver:
            self.isOver = True
            self.transport.write(packed(Close(), 0))
            self.transport.loseConnection()

    def abort(self) -> None:
        """
        It is in no state that is known.
        """
        self.end()
        self._fail(Lost("left"))


class _Links(Factory):
    noisy = False

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return FilterLink(self._clock)


class FilterLinks:
    """
    All connections to one filter, to which the same is offered.

    @param offered: of C{may}.
    @ivar made: how many connections have been made.
    """

    def __init__(
        self, endpoint: IStreamClientEndpoint, clock: IReactorTime, offered: tuple[str, ...]
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._offered = ActionFlags(0)
        for name in offered:
            self._offered |= OFFERS[name]
        self._idle: dict[FilterLink, IDelayedCall] = {}
        self.made = 0

    async def use(
        self,
        session: Hashable,
        seconds: float,
        talk: Callable[[FilterLink], Deferred[_T]],
    ) -> _T:
        """
        @param session: equal for messages of one session.
        @param seconds: see L{FilterLink.begin}.
        @param talk: holds one dialogue over a connection, and sets its C{session}.  Where
            a connection that was used before is closed before anything is said, it is
            called again.
        """
        link = self._kept(session)
        if link is not None:
            link.begin(seconds)
            try:
                return await self._talk(link, talk)
            except Lost:
                if link.isHeard:
                    raise
        return await self._talk(await self._connected(seconds), talk)

    async def _talk(
        self,
        link: FilterLink,
        talk: Callable[[FilterLink], Deferred[_T]],
    ) -> _T:
        isDone = False
        try:
            result = await talk(link)
            isDone = True
        finally:
            if isDone:
                self._keep(link)
            else:
                link.abort()
        return result

    def _kept(self, session: Hashable) -> FilterLink | None:
        """
        A connection from before, for this very session.
        """
        for link, timer in self._idle.items():
            if link.session == session and not link.isOver:
                del self._idle[link]
                timer.cancel()
                return link
        return None

    def _keep(self, link: FilterLink) -> None:
        link.end()
        if link.isOver or link.session is None:
            link.close()
            return
        while len(self._idle) >= MAX_IDLE:
            self._drop(next(iter(self._idle)))
        self._idle[link] = self._clock.callLater(IDLE_SECONDS, self._drop, link)

    def _drop(self, link: FilterLink) -> None:
        timer = self._idle.pop(link)
        if timer.active():
            timer.cancel()
        link.close()

    async def _connected(self, seconds: float) -> FilterLink:
        """
        @raise StageError: it does not negotiate; the text names what it wants more than
            it is offered.
        """
        link = await self._new(seconds)
        try:
            link.negotiated = await link.run(negotiation(self._offered))
        except Lost:
            link.abort()
            raise await self._wanted(seconds) or Lost(
                "the filter has closed the connection while it was negotiated"
            ) from None
        except BaseException:
            link.abort()
            raise
        return link

    async def _new(self, seconds: float) -> FilterLink:
        connect = self._endpoint.connect
        link = await withDeadline(self._clock, seconds, connect, _Links(self._clock))
        assert isinstance(link, FilterLink)
        self.made += 1
        link.begin(seconds)
        return link

    async def _wanted(self, seconds: float) -> StageError | None:
        """
        A filter's library hangs up where too little is offered, without a word.  Offered
        everything, it says what it wants.
        """
        link = await self._new(seconds)
        try:
            found = await link.run(negotiation(_ALL))
        except (StageError, TimeoutError):
            return None
        finally:
            link.abort()
        more = int(found.actions) & int(_ALL & ~self._offered)
        return insists(more) if more else None
