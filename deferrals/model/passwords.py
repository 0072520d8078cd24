"""
The file of users and what is kept of their passwords: one line each,

::

    alice@example.net:$scrypt$ln=14,r=8,p=1$SALT$HASH:SCRAM-SHA-256$20000:SALT$STORED:SERVER

Empty lines, and lines that begin with C{#}, are nothing.  Either of the two may
be missing: without the second one SCRAM does not work for this user.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import attrs

from deferrals.model.sasl import SaslError, ScramKeys, decode, saslprep

#: The cost of scrypt: 2**14 * 8 * 128 octets, 16 MiB.
SCRYPT_LOG_N = 14

_SCRYPT = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)", re.A
)
_MAX_MEMORY = 256 << 20


@attrs.frozen
class ScryptHash:
    """
    RFC 7914, in the form that other programs write, too.

    @ivar logN, r, p: what it costs.
    """

    logN: int
    r: int
    p: int
    salt: bytes
    hash: bytes = attrs.field(repr=False)

    @classmethod
    def make(cls, password: str, salt: bytes, logN: int = SCRYPT_LOG_N) -> ScryptHash:
        """
        Slow on purpose: call it in a thread.
        """
        return cls(logN, 8, 1, salt, _scrypt(password, salt, logN, 8, 1, 32))

    @classmethod
    def parse(cls, text: str) -> ScryptHash:
        """
        @raise ValueError: it is none.
        """
        match = _SCRYPT.fullmatch(text)
        if match is None:
            raise ValueError("$scrypt$ln=14,r=8,p=1$SALT$HASH")
        salt, hash = (
            decode(match[part].encode() + b"=" * (-len(match[part]) % 4)) for part in (4, 5)
        )
        return cls(int(match[1]), int(match[2]), int(match[3]), salt, hash)

    def __str__(self) -> str:
        salt, hash = (
            base64.b64encode(part).decode().rstrip("=") for part in (self.salt, self.hash)
        )
        return f"$scrypt$ln={self.logN},r={self.r},p={self.p}${salt}${hash}"

    def check(self, password: str) -> bool:
        """
        Slow on purpose: call it in a thread.
        """
        try:
            found = _scrypt(password, self.salt, self.logN, self.r, self.p, len(self.hash))
        except SaslError:
            return False
        return hmac.compare_digest(found, self.hash)


def _scrypt(password: str, salt: bytes, logN: int, r: int, p: int, length: int) -> bytes:
    secret = saslprep(password).encode("utf-8")
    return hashlib.scrypt(
        secret, salt=salt, n=1 << logN, r=r, p=p, maxmem=_MAX_MEMORY, dklen=length
    )


@attrs.frozen
class Secrets:
    """
    What is kept of one user's password.
    """

    scrypt: ScryptHash | None = None
    scram: ScramKeys | None = None

    def check(self, password: str) -> bool:
        """
        Slow on purpose: call it in a thread.
        """
        if self.scrypt is not None:
            return self.scrypt.check(password)
        if self.scram is None:
            return False
        try:
            made = ScramKeys.make(password, self.scram.salt, self.scram.iterations)
        except SaslError:
            return False
        return hmac.compare_digest(made.stored, self.scram.stored)


def goodName(user: str) -> str:
    """
    @raise ValueError: no user can have this name.
    """
    if not user or not user.isprintable() or ":" in user or user.startswith("#"):
        raise ValueError("a name without colons and control characters")
    return saslprep(user)


def formatLine(user: str, secrets: Secrets) -> str:
    """
    A user's line, without its end.

    @raise ValueError: no user can have this name.
    """
    return f"{goodName(user)}:{secrets.scrypt or ''}:{secrets.scram or ''}"


def parseLine(line: str) -> tuple[str, Secrets] | None:
    """
    @return: the user and their secrets; C{None} for a line that is nothing.
    @raise ValueError: it is no such line.
    """
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    parts = line.split(":", 2)
    if len(parts) != 3:
        raise ValueError("USER:SCRYPT:SCRAM")
    user, scrypt, scram = parts
    return goodName(user), Secrets(
        ScryptHash.parse(scrypt) if scrypt else None,
        ScramKeys.parse(scram) if scram else None,
    )
