"""
What the configuration says of listeners, limits and certificates, as sessions
are given it.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from typing import Any

from twisted.internet.endpoints import serverFromString
from twisted.logger import Logger

from deferrals.config.tables import Config, LimitsTable, Listener
from deferrals.errors import ConfigError
from deferrals.model.mixed import Mixed
from deferrals.model.networks import Networks
from deferrals.smtp.server.certificates import Certificates
from deferrals.smtp.server.connectionlimits import ConnectionLimits
from deferrals.smtp.server.settings import Limits, ListenerSettings

_log = Logger(namespace="deferrals")

_PROXIED = "haproxy:"

#: Clients that show a 452 as a failure are never told one.
_MIXED = {"submission": "strictest"}

#: Files that are open beside connections: the spool, deliveries, the log.
_OTHER_FILES = 500


def serverEndpoint(reactor: Any, text: str) -> Any:
    """
    Twisted's server endpoint of this description.  C{haproxy:} in front of it
    is ours to deal with: Twisted's own wrapper would greet before the header.

    @raise ValueError: it is none.
    """
    return serverFromString(reactor, text.removeprefix(_PROXIED))


def listenerSettings(
    config: Config, certificates: Keyring
) -> list[tuple[Listener, ListenerSettings]]:
    """
    What each listener's sessions are given.

    @raise ConfigError: a certificate cannot be used.
    """
    limits = sessionLimits(config)
    problems: list[tuple[str, str]] = []
    found = []
    for place, listener in enumerate(config.listen):
        try:
            settings = _settings(config, listener, limits, certificates)
        except ValueError as error:
            own = listener.certificate is not None
            key = f"listen[{place}].certificate" if own else "tls.certificate"
            problems.append((key, f"expected {error}"))
        else:
            found.append((listener, settings))
    if problems:
        raise ConfigError(config.path, list(dict.fromkeys(problems)))
    return found


def _settings(
    config: Config, listener: Listener, limits: Limits, certificates: Keyring
) -> ListenerSettings:
    pair = config.certificateOf(listener)
    tls = listener.tls or ("none" if pair is None else "starttls")
    return ListenerSettings(
        name=listener.endpoint,
        hostname=config.hostname,
        protocol=listener.protocol,
        mixed=Mixed(listener.mixed or _MIXED.get(listener.protocol, "split")),
        mixedFallback=Mixed(listener.mixed_fallback),
        retryLimit=listener.retry_limit,
        bareNewlines=listener.bare_lf,
        tls=tls,
        certificates=None if tls == "none" or pair is None else certificates.get(*pair),
        auth=listener.authentication,
        authWithoutTLS=listener.auth_without_tls,
        greetSeconds=listener.greet_delay,
        proxied=listener.endpoint.startswith(_PROXIED),
        proxies=Networks.parse(listener.proxies),
        xclient=Networks.parse(listener.xclient),
        withheld=frozenset(listener.withhold),
        enumerates=listener.enumerate,
        deliverySeconds=listener.delivery_deadline,
        limits=limits,
    )


def sessionLimits(config: Config) -> Limits:
    """
    The limits of one session.
    """
    limits = config.limits
    return Limits(
        messageOctets=limits.message_size,
        headerOctets=limits.header_size,
        recipients=limits.recipients,
        extensionRecipients=limits.extension_recipients,
        hops=limits.hops,
        errors=limits.errors,
        commands=limits.commands,
        transactions=limits.transactions,
        lineOctets=limits.command_line,
        handshakeSeconds=limits.handshake_timeout,
        commandSeconds=limits.command_timeout,
        idleSeconds=limits.idle_timeout,
        dataSeconds=limits.data_timeout,
        dataRate=limits.data_rate,
        authFailures=limits.auth_failures,
        envelopeSeconds=limits.envelope_timeout,
        replyDeadlineSeconds=config.reply_deadline,
        consolidationSeconds=config.consolidation_window,
    )


def limitConnections(guard: ConnectionLimits, limits: LimitsTable) -> None:
    """
    Give the guard the limits of a configuration.
    """
    guard.connections = limits.connections
    guard.perNeighbourhood = limits.connections_per_address
    guard.delaySeconds = limits.auth_delay


def raiseFileLimit(limits: LimitsTable) -> None:
    """
    Every connection is an open file: take as many as we may have, and say so
    where they are too few.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < limits.connections + _OTHER_FILES:
        _log.warn(
            "limits.connections is {connections}, but the process may open only {files} files",
            connections=limits.connections,
            files=hard,
        )


class Keyring:
    """
    All pairs of certificate and key that listeners use.

    @param baseDir: where relative paths start.
    @param clock: the time.
    """

    def __init__(self, baseDir: str, clock: Any) -> None:
        self._baseDir = baseDir
        self._clock = clock
        self._pairs: dict[tuple[str, str], Certificates] = {}

    def get(self, certificate: str, key: str) -> Certificates:
        """
        @raise ValueError: the pair cannot be used.
        """
        pair = os.path.join(self._baseDir, certificate), os.path.join(self._baseDir, key)
        found = self._pairs.get(pair)
        if found is None:
            found = Certificates(*pair, self._clock)
            found.load()
            self._pairs[pair] = found
        return found

    def reload(self, used: Iterable[Certificates | None]) -> None:
        """
        Read those that are in use again, and forget the others.
        """
        kept = set(used)
        self._pairs = {pair: one for pair, one in self._pairs.items() if one in kept}
        for one in self._pairs.values():
            one.reload()
