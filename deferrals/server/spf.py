"""
SPF (L{deferrals.model.spf}) with the DNS that deliveries ask.

It tells whether a client was allowed to use a reverse-path.  Only then may a DSN
be written to it (otherwise it would hit the owner of a forged address), and only
then is the client that sender, of whose mail something is remembered.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime, IResolver
from twisted.names import dns
from twisted.python.failure import Failure

from deferrals.deferreds import withDeadline
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.envelope import Envelope
from deferrals.model.spf import Finding, LookupFailed, checkedDomain, checkHost
from deferrals.model.spfrecord import Address, Result
from deferrals.stages.delivery.route import Names, NoRoute, NoSuchName

_log = Logger(namespace="deferrals.spf")

#: For the whole check (RFC 7208 §4.6.4), in seconds.
CHECK_SECONDS = 20.0

#: How much is remembered for a while, beside the answers that deliveries got:
#: strangers choose what is asked here.
MAX_CACHED_OCTETS = 4 * 1024 * 1024


class DNSNames:
    """
    What a check asks of DNS: L{Resolver<deferrals.model.spf.Resolver>}.

    @param names: look-ups, with their memory.
    """

    def __init__(self, names: Names) -> None:
        self._names = names

    async def _find(self, kind: int, name: str) -> Sequence[Any]:  # records, by their kind
        try:
            found = await self._names.find(kind, name)
        except NoSuchName:
            return ()
        except NoRoute as error:
            raise LookupFailed(error.outcome.reply.text) from None
        return found

    async def texts(self, name: str) -> Sequence[bytes]:
        """
        See L{Resolver.texts<deferrals.model.spf.Resolver.texts>}.
        """
        return [b"".join(record.data) for record in await self._find(dns.TXT, name)]

    async def addresses(self, name: str, version: int) -> Sequence[Address]:
        """
        See L{Resolver.addresses<deferrals.model.spf.Resolver.addresses>}.
        """
        found = await self._find(dns.A if version == 4 else dns.AAAA, name)
        return [ipaddress.ip_address(record.address) for record in found]

    async def exchanges(self, name: str) -> Sequence[str]:
        """
        See L{Resolver.exchanges<deferrals.model.spf.Resolver.exchanges>}.
        """
        found = await self._find(dns.MX, name)
        return [_text(record) for record in sorted(found, key=lambda one: one.preference)]

    async def pointers(self, name: str) -> Sequence[str]:
        """
        See L{Resolver.pointers<deferrals.model.spf.Resolver.pointers>}.
        """
        return [_text(record) for record in await self._find(dns.PTR, name)]


def _text(record: dns.Record_MX | dns.Record_PTR) -> str:
    """
    The name that a record leads to; what is not ASCII in it makes it none.
    """
    name = b"" if record.name is None else record.name.name
    return name.decode("ascii", "replace").rstrip(".")


class SPF:
    """
    @param resolver: makes C{IResolver} when it is needed.
    @param clock: timers.
    """

    def __init__(self, resolver: Callable[[], IResolver], clock: IReactorTime) -> None:
        self._names = DNSNames(Names(resolver, clock, MAX_CACHED_OCTETS))
        self._clock = clock

    def check(self, address: str, helo: str, sender: Mailbox | None) -> Deferred[Finding]:
        """
        @param address: the client's.
        @param helo: the name that it gave.
        @param sender: the reverse path; C{None} for the null path, for which
            the client's name is checked.
        @return: a Deferred of the result and the domain that it is about;
            I{temperror} when time is up.  It may be cancelled.
        """

        def evaluate() -> Deferred[Finding]:
            return Deferred.fromCoroutine(checkHost(self._names, address, helo, sender))

        def late(failure: Failure) -> Finding:
            failure.trap(TimeoutError)
            problem = f"there is no result within {CHECK_SECONDS:.0f} seconds"
            return Finding(Result.TEMPERROR, checkedDomain(helo, sender), problem)

        found: Deferred[Finding] = withDeadline(self._clock, CHECK_SECONDS, evaluate)
        return found.addErrback(late)

    def proved(self, envelope: Envelope) -> Deferred[str | None]:
        """
        @return: a Deferred of the return path's domain, and for the null path
            of the client's name, where the result is I{pass}; otherwise of
            C{None}.  It never fails.
        """

        def found(finding: Finding) -> str | None:
            if finding.result is Result.TEMPERROR:
                _noResult(envelope, finding.problem)
            return finding.domain if finding.result is Result.PASS else None

        def failed(failure: Failure) -> None:
            _noResult(envelope, failure.getErrorMessage())

        client = envelope.client
        return self.check(client.address, client.helo, envelope.sender).addCallbacks(found, failed)


def _noResult(envelope: Envelope, problem: str) -> None:
    _log.warn("{transaction}: no SPF result: {error}", transaction=envelope.id, error=problem)
