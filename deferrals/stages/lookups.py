"""
Look-ups in DNS, with a memory: for all that asks it, whatever it is for.

Aliases are followed.  What DNS says for certain, that a name is not there included, is
told apart from what it cannot say now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs
from cachetools import TLRUCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime, IResolver
from twisted.names import dns
from twisted.names.error import DNSNameError

from deferrals.deferreds import withDeadline
from deferrals.model.shortage import isOurs

#: How long a look-up may take, in seconds.
LOOKUP_SECONDS = 30.0

#: How long each try may take until the next DNS server is asked, in seconds.
TRY_SECONDS = (2, 5, 8)

#: How long an answer is kept, whatever its TTL says, in seconds.
MAX_CACHED_SECONDS = 3600.0

#: How long it is kept that there is nothing.
NOTHING_CACHED_SECONDS = 60.0

#: What answers that are kept may hold together, in octets as L{_weight} counts
#: them.
MAX_CACHED_OCTETS = 16 * 1024 * 1024

#: An answer of more records is not kept: a stranger's DNS may have thousands.
MAX_CACHED_RECORDS = 100

#: What an answer, and a record in it, cost in memory, about.
_ANSWER_OCTETS = 512
_RECORD_OCTETS = 512

_MAX_ALIASES = 8


class NoSuchName(Exception):
    """
    A name that does not exist.
    """


class Unanswered(Exception):
    """
    DNS cannot say now what there is.

    @ivar isOurs: whether the fault is this machine's.
    """

    def __init__(self, cause: str, isOurs: bool = False) -> None:
        super().__init__(cause)
        self.isOurs = isOurs


#: What a record says; C{twisted.names} has no types for it.
Payload: TypeAlias = Any

#: Answers, authority, additional records.
Sections: TypeAlias = tuple[list[dns.RRHeader], list[dns.RRHeader], list[dns.RRHeader]]


@attrs.frozen
class _Found:
    """
    What DNS says of a name.

    @ivar exists: whether there is such a name.
    @ivar records: of the kind that was asked for.
    @ivar alias: the name that it is another one for.
    @ivar seconds: how long that is kept.
    """

    exists: bool = True
    records: Sequence[Payload] = ()
    alias: str | None = None
    seconds: float = attrs.field(kw_only=True)


def _weight(found: _Found) -> int:
    """
    What an answer costs to be kept, in octets.
    """
    texts = (text for record in found.records for text in getattr(record, "data", ()))
    octets = sum(map(len, texts))
    return _ANSWER_OCTETS + _RECORD_OCTETS * len(found.records) + octets


@attrs.frozen
class Keeping:
    """
    How long answers are kept, in seconds, whatever their TTLs say.

    @ivar least: at least, whatever it is.
    @ivar most: an answer with records, at most.
    @ivar nothing: that there is nothing, at most.
    """

    least: float = 0.0
    most: float = MAX_CACHED_SECONDS
    nothing: float = NOTHING_CACHED_SECONDS

    def some(self, answers: Sequence[dns.RRHeader]) -> float:
        """
        @return: how long these are kept.
        """
        return max(self.least, min(self.most, *(float(record.ttl) for record in answers)))

    def none(self, authority: Sequence[dns.RRHeader]) -> float:
        """
        @param authority: that section of an answer without records (RFC 2308 §5).
        @return: how long that one is kept.
        """
        found: list[tuple[int, Payload]] = [(one.ttl, one.payload) for one in authority]
        ends = [
            float(min(ttl, soa.minimum)) for ttl, soa in found if isinstance(soa, dns.Record_SOA)
        ]
        return max(self.least, min([self.nothing, *ends]))


def _authority(error: DNSNameError) -> Sequence[dns.RRHeader]:
    """
    Which section an answer has that says that there is no such name.
    """
    message = error.args[0] if error.args else None
    return message.authority if isinstance(message, dns.Message) else ()


def textOf(name: dns.Name) -> str:
    """
    @return: a name as text, in small letters and without a dot at its end.
    """
    return str(name.name.decode("ascii", "replace").lower().rstrip("."))


class Names:
    """
    Look-ups, with a memory as long as their TTL.

    @param resolver: makes C{IResolver} when it is needed.
    @param clock: timers.
    @param octets: so much is remembered.
    @param keeping: how long.
    """

    def __init__(
        self,
        resolver: Callable[[], IResolver],
        clock: IReactorTime,
        octets: int = MAX_CACHED_OCTETS,
        keeping: Keeping = Keeping(),
    ) -> None:
        self._resolver = resolver
        self._clock = clock
        self._keeping = keeping
        self._known: TLRUCache[tuple[int, str], _Found] = TLRUCache(
            octets, lambda key, found, now: now + found.seconds, clock.seconds, _weight
        )

    def find(self, kind: int, name: str) -> Deferred[Sequence[Payload]]:
        """
        @param kind: of records: C{dns.MX}, C{dns.A}.
        @return: a Deferred of the records' payloads, aliases followed; fails
            with L{NoSuchName} where there is no such name, and with L{Unanswered}.
        """
        return Deferred.fromCoroutine(self._find(kind, name))

    async def _find(self, kind: int, name: str) -> Sequence[Payload]:
        for _ in range(_MAX_ALIASES):
            found = self._known.get((kind, name))
            if found is None:
                found = await self._ask(kind, name)
                if len(found.records) <= MAX_CACHED_RECORDS:
                    self._known[kind, name] = found
            if not found.exists:
                raise NoSuchName(name)
            if found.records or found.alias is None:
                return found.records
            name = found.alias
        raise Unanswered("DNS has no answer now")

    async def _ask(self, kind: int, name: str) -> _Found:
        try:
            found = await withDeadline(self._clock, LOOKUP_SECONDS, self.query, kind, name)
        except DNSNameError as error:
            return _Found(exists=False, seconds=self._keeping.none(_authority(error)))
        except CancelledError:
            raise
        except Exception as error:
            cause = f"{name}: {type(error).__name__}: {error}"
            raise Unanswered(cause, isOurs(error)) from None
        answers, authority, _ = found
        if not answers:
            return _Found(seconds=self._keeping.none(authority))
        payloads: list[tuple[int, Payload]] = [(one.type, one.payload) for one in answers]
        aliases = [textOf(record.name) for found, record in payloads if found == dns.CNAME]
        records = [record for found, record in payloads if found == kind]
        alias = aliases[-1] if aliases else None
        return _Found(True, records, alias, seconds=self._keeping.some(answers))

    def query(self, kind: int, name: str) -> Deferred[Sections]:
        """
        Ask for what is not remembered.

        @return: a Deferred of the sections of an answer, which may be cancelled.  The
            resolver shares its answers among all callers: none may cancel it.
        """
        d: Deferred[Sections] = Deferred()
        query = dns.Query(name.encode("ascii"), kind, dns.IN)
        self._resolver().query(query, TRY_SECONDS).addCallbacks(d.callback, d.errback)
        return d
