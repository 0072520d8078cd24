"""
The keys of C{[[dkim]]}, whose mail is signed with them, and what DNS has of them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from deferrals.config.forwarding import sealed
from deferrals.config.signingkeys import keyPath, readKey, readKeys
from deferrals.config.tables import Config
from deferrals.deferreds import withDeadline
from deferrals.errors import ConfigError
from deferrals.model.address import normalDomain
from deferrals.model.dkimkeys import kindOf
from deferrals.model.envelope import Client
from deferrals.model.networks import dnsServers
from deferrals.model.spf import LookupFailed
from deferrals.server.dnsnames import DNSNames
from deferrals.server.network import makeResolver
from deferrals.server.sealing import Sealer, sealingKey
from deferrals.server.signing import Signer, SigningKey, signingKey
from deferrals.stages.envelope.rules import Allowed

#: How long DNS has to say what it has, in seconds.
LOOKUP_SECONDS = 20.0


def signingKeys(config: Config) -> list[SigningKey]:
    """
    Read all keys.  Blocks for small files, at a start and at a reload.

    @raise ConfigError: one of them cannot be used, or there is none to seal with.
    """
    keys = readKeys(config)
    try:
        found = [signingKey(table, secret) for table, secret in keys]
    except ValueError as error:
        raise ConfigError(config.path, [("dkim", f"expected {error}")]) from None
    unsealed = sealed(config) if sealingKey(_forwarders(config, found)) is None else []
    if config.srs is not None and unsealed:
        what = f"expected an RSA key in [[dkim]] for {config.srs.domain}, to seal with"
        raise ConfigError(config.path, [(key, what) for key in unsealed])
    return found


def _forwarders(config: Config, keys: Sequence[SigningKey]) -> list[SigningKey]:
    """
    @return: the keys of the domain of C{[srs]}.
    """
    domain = None if config.srs is None else normalDomain(config.srs.domain)
    return [one for one in keys if one.domain == domain]


def signWith(signer: Signer, config: Config, keys: Sequence[SigningKey]) -> None:
    """
    Sign with these keys from now on what users of this server send.
    """
    rules = [Allowed.parse(one.allow) for one in config.recipients if one.allow is not None]

    def isTrusted(client: Client) -> bool:
        return any(rule.lets(client) for rule in rules)

    signer.use(keys, isTrusted)


def sealWith(sealer: Sealer, config: Config, keys: Sequence[SigningKey]) -> None:
    """
    Seal with these keys from now on what is forwarded.
    """
    sealer.use(_forwarders(config, keys))


def keyRemarks(config: Config) -> list[tuple[str, str]]:
    """
    @return: which keys others than the server can read, and which domains have none that
        every receiver knows.
    """
    found = []
    kinds: dict[str, set[str]] = {}
    for index, table in enumerate(config.dkim):
        path = keyPath(config, table)
        try:
            mode, kind = stat.S_IMODE(os.stat(path).st_mode), kindOf(readKey(config, table))
        except (OSError, ValueError):
            continue  # others say so; behind chroot it is not there
        kinds.setdefault(normalDomain(table.domain), set()).add(kind)
        if mode & 0o037:
            advice = "0600, or 0640 with the server's group, keeps it private"
            found.append((f"dkim[{index}].key", f"{path} has mode {mode:04o}: {advice}"))
    alone = [domain for domain, known in kinds.items() if known == {"ed25519"}]
    what = "has only an Ed25519 key, which not all receivers know"
    return [*found, *(("dkim", f"{domain} {what}") for domain in alone)]


async def published(
    config: Config, reactor: IReactorTime, places: Iterable[str]
) -> list[Sequence[bytes] | LookupFailed]:
    """
    Ask the DNS servers of a configuration.

    @param places: names.
    @return: for each the texts that it has; or why that is not known.
    """
    servers = dnsServers(config.dns)
    names = DNSNames(lambda: makeResolver(reactor, servers), reactor)

    async def find(place: str) -> Sequence[bytes] | LookupFailed:
        try:
            found: Sequence[bytes] = await withDeadline(reactor, LOOKUP_SECONDS, names.texts, place)
        except LookupFailed as error:
            return error
        except TimeoutError:
            return LookupFailed(f"no answer within {LOOKUP_SECONDS:.0f} seconds")
        return found

    asked = [Deferred.fromCoroutine(find(place)) for place in places]
    return [await one for one in asked]
