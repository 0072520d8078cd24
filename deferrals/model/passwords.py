"""
The file of users and what is kept of their passwords: one line each,

::

    alice@example.net:$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH:SCRAM-SHA-256$20000:SALT$STORED:SERVER

The first of the two may be of scrypt, too, as older versions wrote it.  Empty
lines, and lines that begin with C{#}, are nothing.  Either of the two may be
missing: without the second one SCRAM does not work for this user.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import TypeAlias

import attrs
from argon2.low_level import ARGON2_VERSION, Type, hash_secret_raw

from deferrals.model.sasl import SaslError, ScramKeys, decode, saslprep

#: The cost of Argon2id: 19 MiB, two passes, one lane.
ARGON2_KIB = 19456
ARGON2_PASSES = 2
ARGON2_LANES = 1

_ARGON2 = re.compile(
    r"\$argon2id\$v=(\d{1,2})\$m=(\d{1,7}),t=(\d{1,3}),p=(\d{1,2})"
    r"\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)",
    re.A,
)
_ARGON2_FORM = "$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH"

#: The cost of scrypt: 2**14 * 8 * 128 octets, 16 MiB.
SCRYPT_LOG_N = 14

_SCRYPT = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)", re.A
)
_MAX_MEMORY = 256 << 20

#: What a check costs: its kind, and its numbers.
Cost: TypeAlias = tuple[str, int, int, int]


@attrs.frozen
class Argon2Hash:
    """
    Argon2id (RFC 9106), in the form that other programs write, too.

    @ivar version, kib, passes, lanes: what it costs.
    """

    version: int
    kib: int
    passes: int
    lanes: int
    salt: bytes
    hash: bytes = attrs.field(repr=False)

    @classmethod
    def make(
        cls, password: str, salt: bytes, kib: int = ARGON2_KIB, passes: int = ARGON2_PASSES
    ) -> Argon2Hash:
        """
        Slow on purpose: call it in a thread.

        @param salt: 8 octets at least.
        """
        empty = cls(ARGON2_VERSION, kib, passes, ARGON2_LANES, salt, b"\0" * 32)
        return attrs.evolve(empty, hash=empty._of(password))

    @classmethod
    def parse(cls, text: str) -> Argon2Hash:
        """
        @raise ValueError: it is none.
        """
        match = _ARGON2.fullmatch(text)
        if match is None:
            raise ValueError(_ARGON2_FORM)
        found = cls(
            *(int(match[1]), int(match[2]), int(match[3]), int(match[4])),
            salt=_unpadded(match[5]),
            hash=_unpadded(match[6]),
        )
        if not found._isPossible():
            raise ValueError(f"{_ARGON2_FORM}, with at most 1 GiB, 8 octets of salt at least")
        return found

    def _isPossible(self) -> bool:
        return (
            self.version in (16, 19)
            and 0 < self.lanes <= 16
            and 8 * self.lanes <= self.kib <= 1 << 20
            and 0 < self.passes <= 100
            and len(self.salt) >= 8
            and 4 <= len(self.hash) <= 128
        )

    def __str__(self) -> str:
        salt, hash = map(_padless, (self.salt, self.hash))
        cost = f"m={self.kib},t={self.passes},p={self.lanes}"
        return f"$argon2id$v={self.version}${cost}${salt}${hash}"

    @property
    def cost(self) -> Cost:
        """What two hashes have in common that take as long."""
        return ("argon2id", self.kib, self.passes, self.lanes)

    def check(self, password: str) -> bool:
        """
        Slow on purpose: call it in a thread.
        """
        try:
            found = self._of(password)
        except SaslError:
            return False
        return hmac.compare_digest(found, self.hash)

    def _of(self, password: str) -> bytes:
        return hash_secret_raw(
            saslprep(password).encode("utf-8"),
            self.salt,
            self.passes,
            self.kib,
            self.lanes,
            len(self.hash),
            Type.ID,
            self.version,
        )


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
        return cls(
            *(int(match[1]), int(match[2]), int(match[3])),
            salt=_unpadded(match[4]),
            hash=_unpadded(match[5]),
        )

    def __str__(self) -> str:
        salt, hash = map(_padless, (self.salt, self.hash))
        return f"$scrypt$ln={self.logN},r={self.r},p={self.p}${salt}${hash}"

    @property
    def cost(self) -> Cost:
        """What two hashes have in common that take as long."""
        return ("scrypt", self.logN, self.r, self.p)

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


def _unpadded(text: str) -> bytes:
    """
    @raise ValueError: it is no base 64.
    """
    return decode(text.encode("ascii") + b"=" * (-len(text) % 4))


def _padless(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii").rstrip("=")


@attrs.frozen
class Secrets:
    """
    What is kept of one user's password.

    @ivar hash: of the password as it is sent by PLAIN and LOGIN.
    @ivar scram: what SCRAM-SHA-256 proves it by, and nothing else can.
    """

    hash: Argon2Hash | ScryptHash | None = None
    scram: ScramKeys | None = None

    def check(self, password: str) -> bool:
        """
        Slow on purpose: call it in a thread.
        """
        if self.hash is not None:
            return self.hash.check(password)
        if self.scram is None:
            return False
        try:
            made = ScramKeys.make(password, self.scram.salt, self.scram.iterations)
        except SaslError:
            return False
        return hmac.compare_digest(made.stored, self.scram.stored)

    @property
    def cost(self) -> Cost | None:
        """
        What two users have in common for whom L{check} takes as long; C{None}
        where no password is right.
        """
        if self.hash is not None:
            return self.hash.cost
        return None if self.scram is None else ("scram", self.scram.iterations, 0, 0)


class Strangers:
    """
    What is there for names that no user has, so that it takes as long, and looks
    like, what is there for users: of each kind of it as much as users have.
    The same name gets the same one each time, after a restart, too; without
    the file it cannot be known which one.

    @ivar shapes: iterations and octets of salt of all keys for SCRAM.
    @param users: those of a file.
    """

    def __init__(self, users: Mapping[str, Secrets]) -> None:
        costs = [(one.cost, one) for one in users.values()]
        found = [(cost, str(one.hash or one.scram), one) for cost, one in costs if cost is not None]
        found.sort(key=lambda one: one[:2])
        self._secrets = [one for _, _, one in found]
        self._key = min((text for _, text, _ in found), default="").encode("ascii")
        scram = [one.scram for one in users.values() if one.scram is not None]
        self.shapes = sorted((keys.iterations, len(keys.salt)) for keys in scram)

    def secrets(self, name: bytes) -> Secrets:
        """
        What a stranger's password is compared with, in vain.
        """
        if not self._secrets:
            return _NO_USER
        return self._secrets[indexOf(self._key, name, len(self._secrets))]


def indexOf(key: bytes, name: bytes, count: int) -> int:
    """
    @param key: only we know it.
    @return: one of so many numbers, from 0 on: always the same for a name.
    """
    return int.from_bytes(hmac.digest(key, name, "sha256")[:8], "big") * count >> 64


#: What a stranger's password is compared with where there are no users.
_NO_USER = Secrets(
    Argon2Hash(ARGON2_VERSION, ARGON2_KIB, ARGON2_PASSES, ARGON2_LANES, b"no user's", b"\0" * 32)
)


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
    return f"{goodName(user)}:{secrets.hash or ''}:{secrets.scram or ''}"


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
        raise ValueError("USER:HASH:SCRAM")
    user, hash, scram = parts
    kind = ScryptHash if hash.startswith("$scrypt$") else Argon2Hash
    return goodName(user), Secrets(
        kind.parse(hash) if hash else None,
        ScramKeys.parse(scram) if scram else None,
    )
