"""
Where mail for a domain goes: MX records, or the domain's own addresses
(RFC 5321 §5.1, RFC 7505).

Servers of one preference are tried in random order, each with all its
addresses, IPv6 before IPv4.  A server that is this one ends the list: whatever
is behind it would bring the message back here.

What DNS says for certain is an end (no such domain, a domain that takes no
mail); what it cannot say now is a reason to try again.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.names import dns
from twisted.names.error import DNSNameError

from deferrals.deferreds import together, withDeadline
from deferrals.model.reply import Reply
from deferrals.model.verdict import Failed, Retry

#: How long a look-up may take, in seconds; the resolver has its own, shorter ones.
LOOKUP_SECONDS = 30.0

#: How long an answer is kept, whatever its TTL says, in seconds.
MAX_CACHED_SECONDS = 3600.0

#: How long it is kept that there is nothing.
NOTHING_CACHED_SECONDS = 60.0

MAX_CACHED = 10_000

#: An answer of more records is not kept: a stranger's DNS may have thousands.
MAX_CACHED_RECORDS = 100
_MAX_ALIASES = 8

R556_NULL_MX = Reply(556, "5.1.10", "the domain does not take mail (null MX)")  # RFC 7505 §4.2
R550_NO_DOMAIN = Reply(550, "5.1.2", "the domain does not exist")
R550_NO_SERVER = Reply(550, "5.4.4", "no mail server of the domain has an address")
R550_FORBIDDEN = Reply(
    550, "5.4.4", "the domain's mail servers are at addresses that nothing is sent to"
)
R554_OURSELVES = Reply(554, "5.4.6", "mail for this domain comes back to this server")
R451_DNS = Reply(451, "4.4.3", "DNS has no answer now")


class NoRoute(Exception):
    """
    There is nobody to send to.

    @ivar outcome: L{Failed} or L{Retry}.
    """

    def __init__(self, outcome: Failed | Retry) -> None:
        super().__init__(str(outcome.reply))
        self.outcome = outcome


class NoSuchName(Exception):
    """
    A name that does not exist.
    """


@attrs.frozen
class Target:
    """
    One address of one mail server.

    @ivar name: of the server; an address literal's own text.
    @ivar address: IPv4 or IPv6, text.
    """

    name: str
    address: str


def _text(name: Any) -> str:
    return str(name.name.decode("ascii", "replace").lower().rstrip("."))


class Names:
    """
    Look-ups, with a memory as long as their TTL.

    @param resolver: makes L{IResolver<twisted.internet.interfaces.IResolver>}
        when it is needed.
    @param clock: timers.
    @param capacity: so many answers are remembered.
    """

    def __init__(self, resolver: Callable[[], Any], clock: Any, capacity: int = MAX_CACHED) -> None:
        self._resolver = resolver
        self._clock = clock
        self._capacity = capacity
        self._cache: OrderedDict[tuple[int, str], tuple[float, Any]] = OrderedDict()

    @inlineCallbacks
    def find(self, kind: int, name: str) -> Any:
        """
        @param kind: C{dns.MX}, C{dns.A} or C{dns.AAAA}.
        @return: a Deferred of the records' payloads, aliases followed; fails
            with L{NoSuchName} where there is no such name.
        """
        for _ in range(_MAX_ALIASES):
            found, alias = yield self._cached(kind, name)
            if found or alias is None:
                return found
            name = alias
        raise NoRoute(Retry(R451_DNS))

    @inlineCallbacks
    def _cached(self, kind: int, name: str) -> Any:
        now = self._clock.seconds()
        expires, result = self._cache.get((kind, name), (0.0, None))
        if expires <= now:
            result, ttl = yield self._ask(kind, name)
            if ttl > 0.0:
                self._cache[kind, name] = (now + ttl, result)
            while len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        if isinstance(result, Exception):
            # Raised anew: an exception grows with each time that it is raised.
            raise NoSuchName(name)
        return result

    @inlineCallbacks
    def _ask(self, kind: int, name: str) -> Any:
        try:
            answers, _, _ = yield withDeadline(self._clock, LOOKUP_SECONDS, self._query, kind, name)
        except DNSNameError:
            return NoSuchName(name), NOTHING_CACHED_SECONDS
        except CancelledError:
            raise
        except Exception as error:
            text = f"{R451_DNS.text}: {name}: {str(error) or type(error).__name__}"
            raise NoRoute(Retry(attrs.evolve(R451_DNS, text=text[:200]))) from None
        found = [record.payload for record in answers if record.type == kind]
        aliases = [_text(record.payload.name) for record in answers if record.type == dns.CNAME]
        alias = aliases[-1] if aliases else None
        if not answers:
            return ([], None), NOTHING_CACHED_SECONDS
        ttl = min(MAX_CACHED_SECONDS, *(float(record.ttl) for record in answers))
        return (found, alias), ttl if len(found) <= MAX_CACHED_RECORDS else 0.0

    def _query(self, kind: int, name: str) -> Deferred[Any]:
        """
        The resolver shares its answers among all who ask: nobody may cancel it.
        """
        d: Deferred[Any] = Deferred()
        self._resolver().query(dns.Query(name.encode("ascii"), kind, dns.IN)).addCallbacks(
            d.callback, d.errback
        )
        return d


class Router:
    """
    @param names: L{Names}.
    @param shuffle: puts a list into random order.
    @param isOurs: whether a name, or an address, is this server's.
    @param mayReach: whether anything is sent to an address at all.
    @param limit: so many addresses are enough.
    @param ipv6: whether there is IPv6.
    """

    def __init__(
        self,
        names: Names,
        shuffle: Callable[[list[Any]], None],
        isOurs: Callable[[str], bool],
        mayReach: Callable[[str], bool],
        limit: int,
        ipv6: bool,
    ) -> None:
        self._names = names
        self._shuffle = shuffle
        self._isOurs = isOurs
        self._mayReach = mayReach
        self._limit = limit
        self._kinds = (dns.AAAA, dns.A) if ipv6 else (dns.A,)

    @inlineCallbacks
    def route(self, domain: str) -> Any:
        """
        @param domain: A-labels, lower case; or an address literal.
        @return: a Deferred of L{Target}s in their order, at least one; fails
            with L{NoRoute}.
        """
        if domain.startswith("["):
            address = domain[1:-1].removeprefix("IPv6:")
            groups = [[(domain, [address])]]
        else:
            exchanges = yield self._exchanges(domain)
            groups = yield self._resolved(exchanges)
        targets, ours, trouble = self._inOrder(groups)
        reachable = [target for target in targets if self._mayReach(target.address)]
        if reachable:
            return reachable[: self._limit]
        if trouble is not None:
            raise trouble  # a server that may be there: nothing is certain
        if ours:
            raise NoRoute(Failed(R554_OURSELVES))
        raise NoRoute(Failed(R550_FORBIDDEN if targets else R550_NO_SERVER))

    @inlineCallbacks
    def _exchanges(self, domain: str) -> Any:
        """
        The names of a domain's servers, by preference.
        """
        try:
            records = yield self._names.find(dns.MX, domain)
        except NoSuchName:
            raise NoRoute(Failed(R550_NO_DOMAIN)) from None
        if not records:
            return [[domain]]  # RFC 5321 §5.1: the implicit MX
        names: dict[int, list[str]] = {}
        for record in records:
            name = _text(record.name)
            if name:
                names.setdefault(record.preference, []).append(name)
        if not names:
            raise NoRoute(Failed(R556_NULL_MX))
        groups = [names[preference] for preference in sorted(names)]
        for group in groups:
            self._shuffle(group)
        return groups

    @inlineCallbacks
    def _resolved(self, groups: Sequence[Sequence[str]]) -> Any:
        """
        The same with addresses; or with L{NoRoute}, where DNS does not say.
        """
        names = [name for group in groups for name in group][: self._limit]
        lookups = [self._addresses(name) for name in names]
        addresses = dict(zip(names, (yield together(lookups)), strict=True))
        return [
            [(name, addresses[name]) for name in group if name in addresses] for group in groups
        ]

    @inlineCallbacks
    def _addresses(self, name: str) -> Any:
        """
        @return: a Deferred of a list; or of L{NoRoute}, where DNS does not say.
        """
        found: list[str] = []
        trouble = None
        for kind in self._kinds:
            try:
                records = yield self._names.find(kind, name)
            except NoSuchName:
                break
            except NoRoute as error:
                trouble = error
                continue
            # Both kinds of record have the address in its packed form.
            found += [str(ipaddress.ip_address(record.address)) for record in records]
        return found or trouble or []

    def _inOrder(
        self, groups: Sequence[Sequence[tuple[str, list[str] | NoRoute]]]
    ) -> tuple[list[Target], bool, NoRoute | None]:
        """
        All addresses in their order, up to the servers that are as good as we
        are; whether we are among them; and why some addresses are not known.
        """
        targets: list[Target] = []
        trouble = None
        for group in groups:
            here, unknown = [], None
            for name, found in group:
                if isinstance(found, NoRoute):
                    unknown = found
                else:
                    here += [Target(name, address) for address in found]
            if any(self._isOurs(name) for name, _ in group) or any(
                self._isOurs(target.address) for target in here
            ):
                return targets, True, trouble
            targets += here
            trouble = trouble or unknown
        return targets, False, trouble
