"""
Links that open what is one recipient's, for a while: signed, so that no stranger can
make one, and none leads to another recipient's.

A token is the base64url of: when it ends (8 octets, seconds since the epoch), what it
is for (one octet), whom it is for, and 32 octets of HMAC-SHA-256 of all that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct

import attrs

#: So many octets a key has.
KEY_OCTETS = 32

#: What a token is for.
MINE = "mine"
_KINDS = {MINE: 1}

_HEAD = struct.Struct(">QB")
_MAC_OCTETS = 32

#: A longer token is none.
MOST_CHARACTERS = 1024

_DOMAIN = b"deferrals link 1\x00"


@attrs.frozen
class SignedLink:
    """
    @ivar expires: in seconds since the epoch.
    @ivar recipient: the address.
    @ivar kind: what it is for.
    """

    expires: int
    recipient: str
    kind: str = MINE

    def token(self, key: bytes) -> str:
        """
        @param key: the server's.
        """
        signed = _HEAD.pack(self.expires, _KINDS[self.kind]) + self.recipient.encode("utf-8")
        return _text(signed + _mac(key, _DOMAIN + signed))

    @classmethod
    def read(cls, token: str, key: bytes, now: float, kind: str = MINE) -> SignedLink | None:
        """
        @return: C{None} for what this server has not signed, for what has expired, and
            for what is for something else: it cannot be told which.
        """
        octets = _octets(token)
        signed, mac = octets[:-_MAC_OCTETS], octets[-_MAC_OCTETS:]
        isOurs = hmac.compare_digest(_mac(key, _DOMAIN + signed), mac)
        if not isOurs or len(signed) <= _HEAD.size:
            return None
        expires, number = _HEAD.unpack_from(signed)
        if now >= expires or number != _KINDS[kind]:
            return None
        return cls(expires, signed[_HEAD.size :].decode("utf-8", "replace"), kind)


def _mac(key: bytes, octets: bytes) -> bytes:
    return hmac.new(key, octets, hashlib.sha256).digest()


def _text(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode("ascii").rstrip("=")


def _octets(text: str) -> bytes:
    """
    @return: nothing for what L{_text} has not written: of one token there is one form.
    """
    if len(text) > MOST_CHARACTERS or not text.isascii():
        return b""
    try:
        octets = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
    return octets if _text(octets) == text else b""
