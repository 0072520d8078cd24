"""
The private keys that C{[[dkim]]} names.
"""

from __future__ import annotations

import os

from deferrals.config.tables import Config
from deferrals.errors import ConfigError
from deferrals.model.address import normalDomain
from deferrals.model.dkim import SigningSettings
from deferrals.model.dkimkeys import PrivateKey, privateKey

#: No private key is longer.
KEY_OCTETS = 64 * 1024


def keyPath(config: Config, table: SigningSettings) -> str:
    """
    Where a key is.
    """
    return os.path.join(config.baseDir, table.key)


def readKey(config: Config, table: SigningSettings) -> PrivateKey:
    """
    Blocks for a small file.

    @raise ValueError: it cannot be used; the text says what was expected.
    """
    path = keyPath(config, table)
    try:
        with open(path, "rb") as file:
            pem = file.read(KEY_OCTETS)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"a file with a private key: {path}: {why}") from None
    try:
        return privateKey(pem)
    except ValueError as error:
        raise ValueError(f"{error}: {path}") from None


def readKeys(config: Config, domain: str | None = None) -> list[tuple[SigningSettings, PrivateKey]]:
    """
    Blocks for small files.

    @param domain: whose keys, as L{normalDomain} spells it; by default all.
    @return: the keys, each with its table.
    @raise ConfigError: one of them cannot be used.
    """
    found, problems = [], []
    for index, table in enumerate(config.dkim):
        if domain not in (None, normalDomain(table.domain)):
            continue
        try:
            found.append((table, readKey(config, table)))
        except ValueError as error:
            problems.append((f"dkim[{index}].key", f"expected {error}"))
    if problems:
        raise ConfigError(config.path, problems)
    return found
