"""
The names that clients have in DNS: PTR, confirmed by A or AAAA.

A stranger chooses what is asked here.  So there are not many look-ups at once, and
not more than a few questions in each; what is found is remembered for a while, and
so is that nothing was.
"""

from __future__ import annotations

import ipaddress

from cachetools import TLRUCache
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import SharedResult, TimeoutError, withDeadline
from deferrals.logger import Logger
from deferrals.model.address import AddressError, normalDomain
from deferrals.model.spf import LookupFailed, Resolver
from deferrals.model.spfrecord import Address

_log = Logger(namespace="deferrals.session")

#: For one look-up, in seconds.  A session does not wait so long: what comes later is
#: for the next one.
LOOKUP_SECONDS = 20.0

#: For each of the names of one address: the others are asked for, too.
NAME_SECONDS = 5.0

#: Look-ups at once.  While there are so many, further clients have no name.
MAX_LOOKUPS = 250

#: So many names of one address are confirmed.
MAX_NAMES = 3

#: How long a name is remembered, and that there is none, or no answer; in seconds.
NAMED_SECONDS = 600.0
UNNAMED_SECONDS = 60.0

#: How many of these there are.
MAX_KNOWN = 10_000


def _until(address: str, name: str, now: float) -> float:
    return now + (NAMED_SECONDS if name else UNNAMED_SECONDS)


class Hostnames:
    """
    @param names: are asked.
    @param clock: timers.
    """

    def __init__(self, names: Resolver, clock: IReactorTime) -> None:
        self._names = names
        self._clock = clock
        self._known: TLRUCache[str, str] = TLRUCache(MAX_KNOWN, _until, clock.seconds)
        self._asking: dict[str, SharedResult[str]] = {}

    def find(self, address: str) -> Deferred[str]:
        """
        @param address: an IP address.
        @return: a Deferred of its name, as L{normalDomain} spells it; empty, where
            none is confirmed.  It never fails, and may be cancelled: the look-up
            goes on for those who ask later.
        """
        asking = self._asking.get(address)
        if asking is not None:
            return asking.wait()
        known = self._known.get(address)
        if known is not None or len(self._asking) >= MAX_LOOKUPS:
            return succeed(known or "")
        asking = self._asking[address] = SharedResult(self._lookUp(address))
        # This one waits to the end, so that nothing is cancelled.
        asking.wait().addBoth(lambda _: self._asking.pop(address))
        return asking.wait()

    def _lookUp(self, address: str) -> Deferred[str]:
        found: Deferred[str] = withDeadline(self._clock, LOOKUP_SECONDS, self._confirmed, address)
        return found.addErrback(self._notFound, address).addCallback(self._found, address)

    def _found(self, name: str, address: str) -> str:
        self._known[address] = name
        return name

    def _notFound(self, failure: Failure, address: str) -> str:
        if not failure.check(LookupFailed, TimeoutError):
            _log.failure("the name of {client}", failure, client=address)
        return ""

    async def _confirmed(self, address: str) -> str:
        """
        @raise LookupFailed: DNS does not say.
        """
        target = ipaddress.ip_address(address)
        for name in (await self._names.pointers(target.reverse_pointer))[:MAX_NAMES]:
            try:
                name = normalDomain(name)
            except AddressError:
                continue
            if not name.startswith("[") and await self._leadsTo(name, target):
                return name
        return ""

    async def _leadsTo(self, name: str, target: Address) -> bool:
        """
        Whether a name is that of an address; where DNS does not say so in time, it is
        not.
        """
        try:
            return target in await withDeadline(
                self._clock, NAME_SECONDS, self._names.addresses, name, target.version
            )
        except (LookupFailed, TimeoutError):
            return False
