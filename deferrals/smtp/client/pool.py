"""
The way to other servers: each L{Hop} has at most so many connections, and a
message that needs another one waits.

A connection that the server has closed while it was idle is replaced by a fresh
one before anything is lost by it.

Responsibility: L{NextHops.send} reports what the server has said, and tries
nothing again that the server might have taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import attrs
from cachetools import LRUCache
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from zope.interface import implementer

from deferrals.errors import HopError, PeerError
from deferrals.interfaces import INextHops, INotes
from deferrals.model.commands import checkName, checkPath, checkRecipient
from deferrals.model.outgoing import Heard, Hop, Outgoing, Sent
from deferrals.model.reply import Reply
from deferrals.model.sending import number
from deferrals.smtp.client.connections import HopConnections, Means
from deferrals.smtp.client.downgrades import Downgrades
from deferrals.smtp.client.transfer import Transfer
from deferrals.threads import InThread

#: So long, in seconds, it is known what a server has offered: it may be another one then.
OFFERED_SECONDS = 60.0

#: So long, in seconds, it is not known where two sessions have shown different things:
#: there may be several servers behind one name, or one is being replaced.
DIFFERING_SECONDS = 600.0

#: What a server has to offer for some messages.
_DECIDING = frozenset({"SMTPUTF8", "8BITMIME", "BINARYMIME", "CHUNKING"})

#: Of so many servers.
MAX_OFFERS = 10_000


@attrs.frozen
class _Offer:
    """
    @ivar words: what a server has listed.
    @ivar seen: when.
    @ivar doubtfulUntil: until when another session may show something else.
    """

    words: Mapping[str, list[str]]
    seen: float
    doubtfulUntil: float

    @property
    def limits(self) -> tuple[frozenset[str], int | None]:
        """
        What of it decides whether a message is refused.
        """
        return frozenset(_DECIDING.intersection(self.words)), number(self.words, "SIZE")


class _Offers:
    """
    What our own next hops have offered.  A refusal for good may follow from it, so it
    counts only while it is fresh, and while all sessions say the same.

    @param clock: tells the time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._known: LRUCache[str, _Offer] = LRUCache(MAX_OFFERS)

    def learn(self, hop: Hop, words: Mapping[str, list[str]]) -> None:
        """
        A session has begun.
        """
        if hop.isPublic:
            return  # nothing is foreseen of these, and it is strangers' text
        now, before = self._clock.seconds(), self._known.get(hop.name)
        offer = _Offer(words, now, 0.0 if before is None else before.doubtfulUntil)
        if before is not None and before.limits != offer.limits:
            offer = attrs.evolve(offer, doubtfulUntil=now + DIFFERING_SECONDS)
        self._known[hop.name] = offer

    def forget(self, hop: Hop) -> None:
        """
        There was no session.
        """
        before = self._known.get(hop.name)
        if before is not None:
            self._known[hop.name] = attrs.evolve(before, seen=-math.inf)

    def find(self, hop: Hop) -> Mapping[str, list[str]] | None:
        """
        @return: C{None} where it is not known for certain.
        """
        now, offer = self._clock.seconds(), self._known.get(hop.name)
        if offer is None or now >= offer.seen + OFFERED_SECONDS or now < offer.doubtfulUntil:
            return None
        return offer.words


@implementer(INextHops)
class NextHops:
    """
    The connections of one process, by server.

    @param reactor: timers.
    @param hello: the name to give.
    @param connect: makes a client endpoint of an endpoint string.
    @param inThread: runs what blocks.
    @param notes: keep what does not work with which server; C{None} where the process
        forgets it.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        hello: str,
        connect: Callable[[str], IStreamClientEndpoint],
        inThread: InThread,
        notes: INotes | None = None,
    ) -> None:
        checkName(hello)
        self._means = Means(reactor, hello, connect, inThread)
        self._connections: dict[Hop, HopConnections] = {}
        self._downgrades = Downgrades(reactor, notes)
        self._offers = _Offers(reactor)
        self._closing = False

    def offered(self, hop: Hop) -> Mapping[str, list[str]] | None:
        return self._offers.find(hop)

    def describe(self) -> dict[str, object]:
        """
        For the status: connections by server, and what is not used with which
        server.
        """
        return {
            "connections": [found.describe() for found in self._connections.values()],
            "misgivings": self._downgrades.describe(),
        }

    def close(self) -> Deferred[None]:
        """
        Say goodbye on what is idle; what is in use is closed when it is done.

        @return: a Deferred.
        """
        self._closing = True
        leaving = [one for found in [*self._connections.values()] for one in found.close()]
        return gatherResults(leaving).addCallback(lambda _: None)

    def _to(self, hop: Hop) -> HopConnections:
        """
        The connections to a server are kept while there is one, or a message
        that waits for one.
        """
        found = self._connections.get(hop)
        if found is None:
            found = HopConnections(hop, self._means, lambda: self._forget(hop))
            self._connections[hop] = found
            if self._closing:
                found.close()
        return found

    def _forget(self, hop: Hop) -> None:
        self._connections.pop(hop, None)

    def send(self, hop: Hop, outgoing: Outgoing, heard: Heard | None = None) -> Deferred[Sent]:
        return Deferred.fromCoroutine(self._send(hop, outgoing, heard))

    async def _send(self, hop: Hop, outgoing: Outgoing, heard: Heard | None) -> Sent:
        connections = self._to(hop)
        await connections.acquire()
        try:
            transfer = Transfer(connections, self._downgrades, outgoing, heard)
            sent = await transfer.run()
            if transfer.offered is not None:
                self._offers.learn(hop, transfer.offered)
            return sent
        except HopError:
            self._offers.forget(hop)
            raise
        finally:
            connections.release()

    def ask(self, hop: Hop, sender: str, recipient: str) -> Deferred[tuple[Reply, Reply]]:
        """
        @raise ValueError: one of them is no address.
        """
        checkPath(sender)
        checkRecipient(recipient)
        return Deferred.fromCoroutine(self._ask(hop, sender, recipient))

    async def _ask(self, hop: Hop, sender: str, recipient: str) -> tuple[Reply, Reply]:
        connections = self._to(hop)
        await connections.acquire()
        try:
            while True:
                session, fresh = await connections.take()
                self._offers.learn(hop, session.capabilities)
                try:
                    session.without = await self._downgrades.without(hop.name)
                    return await session.ask(sender, recipient)
                except PeerError as error:
                    # One that had been idle may just have been closed.
                    if fresh or session.usable:
                        raise HopError(f"{hop.name}: {error}", "4.4.2") from None
                finally:
                    connections.giveBack(session)
        finally:
            connections.release()
