"""
Whether a DSN may be written to a reverse-path: only if the client was allowed to
use it (SPF, RFC 7208).  Otherwise a person whose address was forged would get it.

The check is pyspf's, its DNS queries are dnspython's; both block, so it runs in a
thread, with a limit on its time.  Without these libraries (they are the extra
C{spf}) no check passes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from deferrals.deferreds import Threads, withDeadline
from deferrals.model.envelope import Envelope

try:
    import dns.exception
    import dns.resolver
    import spf
except ImportError:  # the extra is not installed
    spf = None

_log = Logger(namespace="deferrals.spf")

#: For the whole check (RFC 7208 §4.6.4), in seconds.
CHECK_SECONDS = 20.0

#: How many checks at once: each has a thread, and the sender's DNS may be slow
#: on purpose.
CHECKS = 3


class SPF:
    """
    @param clock: timers.
    @param inThread: runs a function outside the reactor thread.
    @param nameservers: (address, port) of those to ask; none for the system's.
    """

    def __init__(
        self,
        clock: IReactorTime,
        inThread: Callable[..., Deferred[Any]],
        nameservers: Sequence[tuple[str, int]] = (),
    ) -> None:
        self._clock = clock
        self._threads = Threads(inThread, CHECKS)
        self._nameservers = nameservers

    @property
    def available(self) -> bool:
        """
        Whether the libraries are there.
        """
        return spf is not None

    def passes(self, envelope: Envelope) -> Deferred[bool]:
        """
        @return: a Deferred of whether the result is C{pass}; it never fails.
        """
        if envelope.sender is None or not self.available:
            return succeed(False)
        d = withDeadline(self._clock, CHECK_SECONDS, self._threads.run, self._check, envelope)
        d.addCallback(lambda result: bool(result == "pass"))
        return d.addErrback(self._failed, envelope)

    def _failed(self, failure: Failure, envelope: Envelope) -> bool:
        _log.warn(
            "{transaction}: no SPF result: {error}",
            transaction=envelope.id,
            error=failure.getErrorMessage(),
        )
        return False

    def _check(self, envelope: Envelope) -> str:
        """
        In a thread.
        """
        client = envelope.client
        _inThisThread.lookUp = self._lookUp
        result, _ = spf.check2(
            i=client.address, s=envelope.senderText, h=client.helo, querytime=CHECK_SECONDS
        )
        return str(result)

    def _lookUp(self, name: str, kind: str, seconds: float) -> list[Any]:
        """
        What pyspf wants to know of the DNS.
        """
        resolver = dns.resolver.Resolver(configure=not self._nameservers)
        if self._nameservers:
            servers = [dns.nameserver.Do53Nameserver(*one) for one in self._nameservers]
            resolver.nameservers = servers
        try:
            answers = resolver.resolve(name, kind, lifetime=seconds, search=False)
        except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
            return []
        except dns.exception.DNSException as error:
            raise spf.TempError(f"DNS {error}") from None
        return [((name, kind), _value(kind, answer)) for answer in answers]


def _value(kind: str, answer: Any) -> Any:
    if kind in ("A", "AAAA"):
        return answer.address
    if kind == "MX":
        return answer.preference, answer.exchange
    if kind == "PTR":
        return answer.target.to_text(True)
    return answer.strings


def _dispatch(name: str, kind: str, strict: Any, seconds: float) -> list[Any]:
    """
    pyspf's driver: a global of its module, so each thread says what it uses.
    """
    found: list[Any] = _inThisThread.lookUp(name, kind, seconds)
    return found


_inThisThread = threading.local()
if spf is not None:
    spf.DNSLookup = _dispatch
