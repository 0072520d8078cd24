"""
The Sender Rewriting Scheme: a reverse path of this server's own domain that carries
another one, so that a forwarded message passes SPF, and what is reported of it finds
its sender again.

C{me@example.org} becomes C{SRS0=HHHH=TT=example.org=me@here}: a hash that only this
server can make, and the day.  What another forwarder has made,
C{SRS0=HHHH=TT=example.org=me@there}, becomes C{SRS1=HHHH=there==HHHH=TT=example.org=me@here}:
a path grows once, and no more, however many forwarders there are.

Parameters are those of postsrsd: HMAC-SHA-1 over what stands behind the hash, in lower
case; four characters of base64, compared without case; the day modulo 1024, in base32.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
from collections.abc import Sequence
from typing import TypeAlias

import attrs

from deferrals.model.address import MAX_LOCAL_OCTETS, AddressError, Mailbox, normalDomain
from deferrals.model.settings import Seconds, checked

__all__ = ["SRS", "SRSError", "SRSSettings"]

DAY_SECONDS = 86400

_HASH_LETTERS = 4
_DAYS = 1024
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

_SRS0 = re.compile(r"srs0[=+-]([^=]+)=([^=]+)=([^=]+)=(.+)", re.I | re.S)
_SRS1 = re.compile(r"srs1[=+-]([^=]+)=([^=]+)=(.+)", re.I | re.S)
_TAGGED = re.compile(r"srs[01][=+-].", re.I | re.S)


class SRSError(ValueError):
    """
    An address that this server has not made, or too long ago.
    """


def _valid(value: Seconds) -> None:
    if not DAY_SECONDS <= value <= 1000 * DAY_SECONDS:
        raise ValueError("a time from 1d to 1000d")


def _domain(value: str) -> None:
    try:
        normalDomain(value)
    except AddressError:
        raise ValueError("a domain, such as example.net") from None


@attrs.frozen(kw_only=True)
class SRSSettings:
    """
    The C{[srs]} table.

    @ivar domain: where rewritten reverse paths are: a domain that a rule names, or
        C{hostname}; its mail comes to this server.
    @ivar secret_file: a file with a secret in each line, which only its owner may
        read (mode 0600).  The first one signs; addresses are good that any of them
        has signed, so that a new one goes in front.
    @ivar valid: how long a rewritten reverse path takes mail.
    @ivar any_sender: whether it takes mail from all senders; otherwise only from
        C{<>}, as reports are sent.
    """

    domain: str = attrs.field(validator=checked(_domain))
    secret_file: str
    valid: Seconds = attrs.field(default=Seconds(21 * DAY_SECONDS), validator=checked(_valid))
    any_sender: bool = False


@attrs.frozen
class SRS0:
    """
    What stands in the local part of a first forwarder's address.
    """

    hash: str
    stamp: str
    domain: str
    local: str

    @property
    def signed(self) -> Sequence[str]:
        """
        What the hash is about.
        """
        return self.stamp, self.domain, self.local


@attrs.frozen
class SRS1:
    """
    What stands in the local part of a later forwarder's address.

    @ivar domain: the first forwarder's.
    @ivar rest: its local part behind C{SRS0}.
    """

    hash: str
    domain: str
    rest: str

    @property
    def signed(self) -> Sequence[str]:
        """
        What the hash is about.
        """
        return self.domain, self.rest

    @property
    def local(self) -> str:
        """
        The first forwarder's local part.
        """
        return f"SRS0{self.rest}"


Parts: TypeAlias = SRS0 | SRS1


def parse(local: str) -> Parts | None:
    """
    @return: the parts of a local part; C{None} where it has neither form.
    """
    found = _SRS0.fullmatch(local)
    if found is not None:
        return SRS0(*found.groups())
    found = _SRS1.fullmatch(local)
    return None if found is None else SRS1(*found.groups())


def isTagged(local: str) -> bool:
    """
    Whether a local part is a forwarder's, as far as that is any other server's to see:
    it need not have the parts that this one makes.
    """
    return _TAGGED.match(local) is not None


@attrs.frozen
class SRS:
    """
    A forwarder's reverse paths.

    @ivar domain: where they are, as L{normalDomain} spells it.
    @ivar secrets: the first one signs, all verify.
    @ivar validDays: so old may one be that takes mail.
    """

    domain: str
    secrets: tuple[bytes, ...] = attrs.field(repr=False)
    validDays: int = 21

    @classmethod
    def make(cls, settings: SRSSettings, secrets: Sequence[bytes]) -> SRS:
        """
        @param secrets: those of the file.
        """
        days = math.ceil(settings.valid / DAY_SECONDS)
        return cls(normalDomain(settings.domain), tuple(secrets), days)

    def forward(self, sender: Mailbox, seconds: float) -> Mailbox:
        """
        @param seconds: the time, since the epoch.
        @return: the reverse path in the place of another one; that one itself, where
            no address can be so long.
        """
        found = parse(sender.local)
        if isinstance(found, SRS1):
            made = self._guarded(found.domain, found.rest)
        elif isTagged(sender.local) and sender.local[3] == "0":
            made = self._guarded(sender.domain, sender.local[4:])
        else:
            stamp = _stamp(int(seconds // DAY_SECONDS))
            signed = (stamp, sender.domain, sender.local)
            made = "=".join(("SRS0", _hash(self.secrets[0], signed), *signed))
        isLong = len(made.encode()) > MAX_LOCAL_OCTETS
        return sender if isLong else Mailbox(made, self.domain)

    def _guarded(self, domain: str, rest: str) -> str:
        signed = _hash(self.secrets[0], (domain, rest))
        return f"SRS1={signed}={domain}={rest}"

    def has(self, address: Mailbox) -> bool:
        """
        Whether an address looks like one of these.
        """
        return address.domain == self.domain and parse(address.local) is not None

    def reverse(self, address: Mailbox, seconds: float | None) -> Mailbox:
        """
        @param seconds: the time, since the epoch; C{None} where the address has been
            good when its mail came.
        @return: the reverse path that an address carries.
        @raise SRSError: it is none of ours, or too old.
        """
        found = parse(address.local)
        if found is None or address.domain != self.domain:
            raise SRSError("no reverse path of this server")
        if isinstance(found, SRS0) and seconds is not None:
            age = (int(seconds // DAY_SECONDS) - _dayOf(found.stamp)) % _DAYS
            if age > self.validDays:
                raise SRSError("a reverse path of too long ago")
        self._check(found)
        try:
            origin = Mailbox(found.local, normalDomain(found.domain))
        except AddressError:
            raise SRSError("a reverse path of no domain") from None
        # It went around through another forwarder: the way back is the short one.
        return self.reverse(origin, seconds) if self.has(origin) else origin

    def _check(self, found: Parts) -> None:
        said = found.hash.lower().encode()
        letters = max(_HASH_LETTERS, len(said))  # postsrsd can make longer ones
        made = [_hash(one, found.signed, letters).lower().encode() for one in self.secrets]
        if not any(hmac.compare_digest(said, one) for one in made):
            raise SRSError("a reverse path with another hash")


def _hash(secret: bytes, parts: Sequence[str], letters: int = _HASH_LETTERS) -> str:
    text = "".join(parts).encode().lower()
    digest = hmac.new(secret, text, hashlib.sha1).digest()
    return base64.b64encode(digest)[:letters].decode()


def _stamp(day: int) -> str:
    high, low = divmod(day % _DAYS, 32)
    return _BASE32[high] + _BASE32[low]


def _dayOf(stamp: str) -> int:
    """
    @raise SRSError: it names no day.
    """
    day = 0
    for letter in stamp.upper():
        found = _BASE32.find(letter)
        if found < 0 or day >= _DAYS:
            raise SRSError("a reverse path of no day")
        day = day * 32 + found
    if day >= _DAYS:
        raise SRSError("a reverse path of no day")
    return day
