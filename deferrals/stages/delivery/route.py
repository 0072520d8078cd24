"""
Where mail for a domain goes: MX records, or the domain's own addresses
(RFC 5321 §5.1, RFC 7505).

Servers of one preference are tried in random order, each with all its
addresses, IPv6 before IPv4.  A server that is this one ends the list: whatever
is behind it would bring the message back here.

What DNS says for certain is an end (no such domain, a domain that takes no
mail); what it cannot say now is a reason to try again.  That there is no such name
is believed only when all that may be there has been asked for: some servers say so
of a type that they do not know (RFC 4074 §4.2).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import attrs
from twisted.internet.defer import Deferred
from twisted.names import dns

from deferrals.deferreds import together
from deferrals.model.reply import Reply
from deferrals.model.verdict import Details, Failed, Retry
from deferrals.stages.lookups import Names, NoSuchName, Unanswered, textOf

#: So many servers of a domain, and addresses of a server, count.
MAX_RECORDS = 100

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
    There is no server to send to.

    @ivar outcome: L{Failed} or L{Retry}.
    """

    def __init__(self, outcome: Failed | Retry) -> None:
        super().__init__(str(outcome.reply))
        self.outcome = outcome


@attrs.frozen
class Target:
    """
    One address of one mail server.

    @ivar name: of the server; an address literal's own text.
    @ivar address: IPv4 or IPv6, text.
    """

    name: str
    address: str


def _literalAddress(literal: str) -> str:
    return literal[1:-1].removeprefix("IPv6:")


#: The name of a mail server, with its addresses, or why they are not known.
_Server: TypeAlias = tuple[str, list[str] | NoRoute]


def _later(error: Unanswered) -> NoRoute:
    return NoRoute(Retry(R451_DNS, details=Details(str(error), isOurs=error.isOurs)))


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
        shuffle: Callable[[list[str]], None],
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

    def refusal(self, literal: str) -> Reply | None:
        """
        @param literal: an address literal.
        @return: why nothing is ever sent there.
        """
        address = _literalAddress(literal)
        if self._isOurs(address):
            return R554_OURSELVES
        return None if self._mayReach(address) else R550_FORBIDDEN

    def route(self, domain: str) -> Deferred[list[Target]]:
        """
        @param domain: A-labels, lower case; or an address literal.
        @return: a Deferred of L{Target}s in their order, at least one; fails
            with L{NoRoute}.
        """
        return Deferred.fromCoroutine(self._route(domain))

    async def _route(self, domain: str) -> list[Target]:
        groups: list[list[_Server]]
        exists = True
        if domain.startswith("["):
            groups = [[(domain, [_literalAddress(domain)])]]
        else:
            exists, names = await self._exchanges(domain)
            groups = await self._resolved(names)
        targets, ours, trouble = self._inOrder(groups)
        reachable = [target for target in targets if self._mayReach(target.address)]
        if reachable:
            return reachable[: self._limit]
        if trouble is not None:
            raise trouble  # a server that may be there: nothing is certain
        if ours:
            raise NoRoute(Failed(R554_OURSELVES))
        if not (exists or targets):
            raise NoRoute(Failed(R550_NO_DOMAIN))
        raise NoRoute(Failed(R550_FORBIDDEN if targets else R550_NO_SERVER))

    async def _exchanges(self, domain: str) -> tuple[bool, list[list[str]]]:
        """
        Whether DNS knows of the domain; and the names of its servers, by preference.
        """
        try:
            records = await self._names.find(dns.MX, domain)
        except NoSuchName:
            return False, [[domain]]
        except Unanswered as error:
            raise _later(error) from None
        if not records:
            return True, [[domain]]  # RFC 5321 §5.1: the implicit MX
        names: dict[int, list[str]] = {}
        for record in sorted(records, key=lambda one: int(one.preference))[:MAX_RECORDS]:
            name = textOf(record.name)
            if name:
                names.setdefault(record.preference, []).append(name)
        if not names:
            raise NoRoute(Failed(R556_NULL_MX))
        groups = [names[preference] for preference in sorted(names)]
        for group in groups:
            self._shuffle(group)
        return True, groups

    async def _resolved(self, groups: Sequence[Sequence[str]]) -> list[list[_Server]]:
        """
        The same with addresses; or with L{NoRoute}, where DNS does not say.  No more
        are looked up than it takes to have enough of them.
        """
        names = [name for group in groups for name in group]
        addresses: dict[str, list[str] | NoRoute] = {}
        for first in range(0, len(names), self._limit):
            some = names[first : first + self._limit]
            lookups = [Deferred.fromCoroutine(self._addresses(name)) for name in some]
            addresses.update(zip(some, await together(lookups), strict=True))
            isSilent = all(isinstance(addresses[name], NoRoute) for name in some)
            if isSilent or self._isEnough(addresses):
                break
        return [[(name, addresses.get(name, [])) for name in group] for group in groups]

    def _isEnough(self, addresses: Mapping[str, list[str] | NoRoute]) -> bool:
        """
        Whether there are as many addresses as are tried.
        """
        known = (one for found in addresses.values() if isinstance(found, list) for one in found)
        return sum(map(self._mayReach, known)) >= self._limit

    async def _addresses(self, name: str) -> list[str] | NoRoute:
        """
        @return: the addresses; or L{NoRoute}, where DNS does not say.
        """
        found: list[str] = []
        trouble = None
        for kind in self._kinds:
            try:
                records = await self._names.find(kind, name)
            except NoSuchName:
                continue  # of this kind, at least
            except Unanswered as error:
                trouble = _later(error)
                continue
            # Both kinds of record have the address in its packed form.
            found += [str(ipaddress.ip_address(one.address)) for one in records[:MAX_RECORDS]]
        return found or trouble or []

    def _inOrder(
        self, groups: Sequence[Sequence[_Server]]
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
