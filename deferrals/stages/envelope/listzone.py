"""
One DNS list as all stages ask it: each name once, within a deadline, and not at all
while the list is dead (L{deferrals.stages.remote}).

What it answers is remembered, that a name is not there included; so is for a while
that there was no answer, since the next recipient of the message would only wait
again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from cachetools import TTLCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.names import dns
from twisted.names.error import DNSNameError

from deferrals.deferreds import UnderWay
from deferrals.errors import StageError
from deferrals.interfaces import IServices
from deferrals.logger import Logger
from deferrals.model.dnslists import NoAnswer, checkAnswer
from deferrals.model.shortage import isOurs
from deferrals.stages.lookups import Keeping, Names, NoSuchName, Sections, Unanswered
from deferrals.stages.remote import RemoteService

_log = Logger(namespace="deferrals.stages.dnsbl")

#: How much is remembered of what one list has said.
MAX_CACHED_OCTETS = 8 * 1024 * 1024

#: An answer is remembered for so many seconds at least, whatever its TTL: all
#: recipients of a message share one.  So is that there was none.
LEAST_SECONDS = 30.0

#: So many names without an answer are remembered.
MAX_UNANSWERED = 10_000

#: That a list does not answer is told once in so many seconds.
TELL_SECONDS = 60.0

#: So many questions are under way at once.
AT_ONCE = 100


def addressesIn(records: Iterable[object]) -> Sequence[str]:
    """
    What those records say that are of addresses.
    """
    found = [one.address for one in records if isinstance(one, dns.Record_A)]
    return [str(ipaddress.IPv4Address(address)) for address in found]


class _ListNames(Names):
    """
    Look-ups in one list.

    @param shown: how people see it.
    @param servers: the DNS servers that are asked.
    @param timeout: for one answer, in seconds.
    @param cache: how long it is remembered, in seconds.
    """

    def __init__(
        self,
        shown: str,
        services: IServices,
        servers: tuple[tuple[str, int], ...],
        timeout: float,
        cache: float,
    ) -> None:
        super().__init__(
            lambda: services.resolver(servers),
            services.reactor,
            MAX_CACHED_OCTETS,
            Keeping(min(LEAST_SECONDS, cache), cache, cache),
        )
        self._shown = shown
        self._timeout = timeout
        self._remote = RemoteService(f"dnsbl {shown}", services, AT_ONCE)
        self._complaints: set[str] = set()

    def query(self, kind: int, name: str) -> Deferred[Sections]:
        return Deferred.fromCoroutine(self._inTime(kind, name))

    async def _inTime(self, kind: int, name: str) -> Sections:
        found = await self._remote.ask(self._timeout, self._answer, kind, name)
        if isinstance(found, DNSNameError):
            raise found
        return found

    async def _answer(self, kind: int, name: str) -> Sections | DNSNameError:
        """
        That a name is not there is an answer, and one that no list gives is none.
        """
        try:
            sections = await super().query(kind, name)
        except DNSNameError as error:
            return error
        except CancelledError:
            raise
        except Exception as error:
            # The error's own text would have the whole question.
            if isOurs(error):
                raise
            raise StageError(f"DNS has no answer: {type(error).__name__}") from None
        try:
            checkAnswer(addressesIn(one.payload for one in sections[0]))
        except NoAnswer as error:
            self._complain(str(error))
            raise
        self._complaints.clear()
        return sections

    def _complain(self, what: str) -> None:
        if what not in self._complaints:
            self._complaints.add(what)
            _log.error("the list {list} {what}: it is no listing", list=self._shown, what=what)


class ListZone:
    """
    See the module, and L{_ListNames}.
    """

    def __init__(
        self,
        shown: str,
        services: IServices,
        servers: tuple[tuple[str, int], ...],
        timeout: float,
        cache: float,
    ) -> None:
        self._names = _ListNames(shown, services, servers, timeout, cache)
        self._clock = services.reactor
        self._toldUntil: float | None = None
        self._unanswered: TTLCache[str, str] = TTLCache(
            MAX_UNANSWERED, LEAST_SECONDS, services.reactor.seconds
        )
        self._underWay: UnderWay[Sequence[str]] = UnderWay()

    def addresses(self, name: str) -> Deferred[Sequence[str]]:
        """
        @return: a Deferred of what it answers; of nothing, where it does not have the
            name.  It fails with L{StageError<deferrals.errors.StageError>} where there is
            no answer; may be cancelled.
        """
        return self._underWay.wait(name, lambda: Deferred.fromCoroutine(self._addresses(name)))

    async def _addresses(self, name: str) -> Sequence[str]:
        problem = self._unanswered.get(name)
        if problem is not None:
            raise StageError(problem)
        try:
            return addressesIn(await self._names.find(dns.A, name))
        except NoSuchName:
            return ()
        except Unanswered as error:
            problem = self._unanswered[name] = str(error).removeprefix(f"{name}: ")
            raise StageError(problem) from None

    def isToldNow(self) -> bool:
        """
        Whether the log is to be told of a missing answer: not of each, while the list
        is dead.
        """
        now = self._clock.seconds()
        if self._toldUntil is not None and now < self._toldUntil:
            return False
        self._toldUntil = now + TELL_SECONDS
        return True

    async def text(self, name: str) -> bytes:
        """
        @return: the first text that it has about a name; nothing, where it has none, or
            there is no answer.
        """
        try:
            found = await self._names.find(dns.TXT, name)
        except (NoSuchName, Unanswered):
            return b""
        return b"".join(found[0].data) if found else b""
