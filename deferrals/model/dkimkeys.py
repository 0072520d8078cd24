"""
Private keys for signatures (L{deferrals.model.dkim}), as their files have them.
"""

from __future__ import annotations

from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from deferrals.model.dkim import KeyType

PrivateKey: TypeAlias = RSAPrivateKey | Ed25519PrivateKey

#: Receivers need not take a signature of a shorter one (RFC 8301 §3.2).
LEAST_RSA_BITS = 2048


def newKey(kind: KeyType) -> PrivateKey:
    """
    Make a key.  Takes a while.
    """
    if kind == "ed25519":
        return Ed25519PrivateKey.generate()
    return generate_private_key(65537, LEAST_RSA_BITS)


def pemOf(key: PrivateKey) -> bytes:
    """
    @return: what its file says (PKCS #8).
    """
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def privateKey(pem: bytes) -> PrivateKey:
    """
    @raise ValueError: it is no private key that receivers take a signature of; the
        text says what was expected.
    """
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise ValueError("a private key without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("a private key in PEM") from None
    if isinstance(key, RSAPrivateKey):
        if key.key_size < LEAST_RSA_BITS:
            raise ValueError(f"{LEAST_RSA_BITS} bits or more of an RSA key, not {key.key_size}")
        return key
    if isinstance(key, Ed25519PrivateKey):
        return key
    raise ValueError("an RSA or an Ed25519 key")


def kindOf(key: PrivateKey) -> KeyType:
    """
    What C{k=} says of it in DNS.
    """
    return "rsa" if isinstance(key, RSAPrivateKey) else "ed25519"


def publicOctets(key: PrivateKey) -> bytes:
    """
    @return: the public key as DNS has it (RFC 6376 §3.6.1, RFC 8463 §4).
    """
    if isinstance(key, Ed25519PrivateKey):
        return key.public_key().public_bytes_raw()
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
