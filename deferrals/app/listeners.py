"""
What the configuration says of listeners, limits and certificates, as sessions
are given it.
"""

from __future__ import annotations

import os
import resource
from typing import Any

import attrs
from attrs import AttrsInstance
from twisted.internet.interfaces import IReactorTime

from deferrals.config.tables import Config, Listener
from deferrals.errors import ConfigError
from deferrals.logger import Logger
from deferrals.model.limits import Limits, ReplyTimes
from deferrals.model.listener import ListenerOptions, ListenerSettings
from deferrals.server.listeners import PROXIED
from deferrals.smtp.server.certificates import Certificates

_log = Logger(namespace="deferrals")

#: Files that are open beside connections: the spool, deliveries, the log.
_OTHER_FILES = 500


def listenerSettings(config: Config, certificates: Keyring) -> list[ListenerSettings]:
    """
    What each listener's sessions are given; its name is its endpoint.

    @raise ConfigError: a certificate cannot be used.
    """
    problems: list[tuple[str, str]] = []
    found = []
    for index, listener in enumerate(config.listen):
        try:
            settings = _settings(config, listener, certificates)
        except ValueError as error:
            own = listener.certificate is not None
            key = f"listen[{index}].certificate" if own else "tls.certificate"
            problems.append((key, f"expected {error}"))
        else:
            found.append(settings)
    if problems:
        raise ConfigError(config.path, list(dict.fromkeys(problems)))
    return found


def _settings(config: Config, listener: Listener, certificates: Keyring) -> ListenerSettings:
    pair = None if listener.tls == "none" else config.certificateOf(listener)
    return ListenerSettings(
        **_values(listener, ListenerOptions),
        **_values(config, ReplyTimes),
        certificates=None if pair is None else certificates.get(*pair),
        proxied=listener.endpoint.startswith(PROXIED),
        limits=config.limits,
        hostname=config.hostname,
        name=listener.endpoint,
    )


def _values(settings: AttrsInstance, kind: type[AttrsInstance]) -> dict[str, Any]:
    """
    Those attributes of settings that a base class of theirs has.
    """
    return {field.name: getattr(settings, field.name) for field in attrs.fields(kind)}


def raiseFileLimit(limits: Limits) -> None:
    """
    Every connection is an open file: raise the process's limit as far as
    possible, and warn where that is too low.
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
    """

    def __init__(self, baseDir: str, clock: IReactorTime) -> None:
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
