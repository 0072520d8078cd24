"""
SPF (L{deferrals.model.spf}) with the DNS that deliveries ask.

It tells whether a client was allowed to use a reverse-path.  Only then may a DSN
be written to it (otherwise it would hit the owner of a forged address), and only
then is the client that sender, of whose mail something is remembered.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import withDeadline
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.envelope import Envelope
from deferrals.model.spf import Finding, Resolver, checkedDomain, checkHost
from deferrals.model.spfrecord import SPFResult

_log = Logger(namespace="deferrals.spf")

#: For the whole check (RFC 7208 §4.6.4), in seconds.
CHECK_SECONDS = 20.0


class SPF:
    """
    @param names: are asked.
    @param clock: timers.
    """

    def __init__(self, names: Resolver, clock: IReactorTime) -> None:
        self._names = names
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
            return Finding(SPFResult.TEMPERROR, checkedDomain(helo, sender), problem)

        found: Deferred[Finding] = withDeadline(self._clock, CHECK_SECONDS, evaluate)
        return found.addErrback(late)

    def proved(self, envelope: Envelope) -> Deferred[str | None]:
        """
        @return: a Deferred of the return path's domain, and for the null path
            of the client's name, where the result is I{pass}; otherwise of
            C{None}.  It never fails.
        """

        def found(finding: Finding) -> str | None:
            if finding.result is SPFResult.TEMPERROR:
                _noResult(envelope, finding.problem)
            return finding.domain if finding.result is SPFResult.PASS else None

        def failed(failure: Failure) -> None:
            _noResult(envelope, failure.getErrorMessage())

        client = envelope.client
        return self.check(client.address, client.helo, envelope.sender).addCallbacks(found, failed)


def _noResult(envelope: Envelope, problem: str) -> None:
    _log.warn("{transaction}: no SPF result: {error}", transaction=envelope.id, error=problem)
