"""
Keys that sign, and what a receiver finds out about their signatures.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric import rsa

from deferrals.model.dkim import SigningSettings, recordOf
from deferrals.model.dkimkeys import newKey, pemOf, privateKey
from deferrals.server.signing import SigningKey, signingKey
from tests.rigs import keep

try:
    import dkim
except ImportError:
    dkim = None

#: Why tests of signatures are skipped; empty where they are not.
MISSING = "" if dkim is not None else "the extra dkim is not installed"


@functools.cache
def pem(kind: str, number: int = 0) -> bytes:
    """
    @param kind: C{"rsa"}, C{"ed25519"}, or how many bits an RSA key has.
    @param number: tells keys apart.
    @return: a private key, as its file has it.
    """
    made = newKey("ed25519" if kind == "ed25519" else "rsa")
    if kind.isdigit():
        made = rsa.generate_private_key(65537, int(kind))
    keep()
    return pemOf(made)


def key(kind: str = "rsa", domain: str = "example.net", selector: str = "") -> SigningKey:
    """
    @param selector: by default the kind.
    """
    selector = selector or kind
    return signingKey(SigningSettings(domain, selector, "key.pem"), privateKey(pem(kind)))


def zone(keys: Iterable[SigningKey]) -> dict[str, bytes]:
    """
    What DNS has of keys.
    """
    return {
        f"{one.selector}._domainkey.{one.domain}.": recordOf(one.kind, one.public).encode()
        for one in keys
    }


def verified(message: bytes, keys: Iterable[SigningKey]) -> list[bool]:
    """
    @return: whether each signature of a message is right.
    """
    known = zone(keys)

    def texts(name: bytes | str, timeout: float = 0) -> bytes | None:
        found = name.decode("ascii") if isinstance(name, bytes) else name
        return known.get(found.rstrip(".") + ".")

    found = []
    for number in range(message.lower().count(b"dkim-signature:")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BytesWarning)  # of what it would tell a log
            try:
                found.append(bool(dkim.DKIM(message).verify(idx=number, dnsfunc=texts)))
            except dkim.DKIMException:
                found.append(False)
    return found
