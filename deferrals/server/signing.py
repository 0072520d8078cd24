"""
Signs messages for their senders' domains (L{deferrals.model.dkim}).  What makes a
signature is dkimpy, in threads, and only here.

A body is hashed as it is read, so that a signature needs no more memory than a header
section; the time of the signature is that at which the message came, so that it is
the same signature each time that it is made with the same key.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import closing

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.interfaces import IMessage, ISigner
from deferrals.logger import Logger
from deferrals.model import headertext
from deferrals.model.address import normalDomain
from deferrals.model.dkim import (
    BodyHash,
    Field,
    KeyType,
    Purpose,
    SigningSettings,
    authors,
    fieldsIn,
    mayBeSigned,
    namesToSign,
)
from deferrals.model.dkimkeys import PrivateKey, kindOf, publicOctets
from deferrals.model.dsn import isNotice
from deferrals.model.envelope import Client, Envelope
from deferrals.model.events import happened
from deferrals.model.status import Status
from deferrals.threads import InThread, Threads

_log = Logger(namespace="deferrals.signing")

#: So many messages are signed at once.
SIGNING = 2

#: A longer header section is not signed, and not sealed.
HEADER_OCTETS = 512 * 1024

_NAME = b"DKIM-Signature"
_CANONICAL = b"relaxed/relaxed"

#: The octets of a signature in one line.
_LINE_OCTETS = 72


@attrs.frozen(eq=False)
class SigningKey:
    """
    A private key, and what it signs.

    @ivar domain: as L{normalDomain<deferrals.model.address.normalDomain>} spells it.
    @ivar kind: C{"rsa"} or C{"ed25519"}.
    @ivar public: the public key as DNS has it.
    """

    domain: str
    selector: str
    kind: KeyType
    public: bytes
    sign: frozenset[Purpose]
    headers: tuple[str, ...]
    secret: PrivateKey = attrs.field(repr=False)

    @property
    def algorithm(self) -> str:
        """
        What C{a=} says.
        """
        return f"{self.kind}-sha256"


def signingKey(settings: SigningSettings, secret: PrivateKey) -> SigningKey:
    """
    @raise ValueError: it cannot be used; the text says what was expected.
    """
    try:
        import dkim  # noqa: F401 (behind chroot there would be none)
    except ImportError:
        raise ValueError("the extra deferrals[dkim] to be installed") from None
    return SigningKey(
        normalDomain(settings.domain),
        settings.selector.lower(),
        kindOf(secret),
        publicOctets(secret),
        frozenset(settings.sign),
        settings.headers,
        secret,
    )


def signature(key: SigningKey, fields: Sequence[Field], bodyHash: bytes, seconds: int) -> bytes:
    """
    @param fields: those of the message, in their order.
    @param bodyHash: what L{BodyHash.end} says.
    @param seconds: when, since the epoch.
    @return: the C{DKIM-Signature} field, CRLF included.
    """
    names = namesToSign(fields, key.headers)
    headers = [(one.name, one.value) for one in fields if one.name in names]
    tags = [
        ("v", "1"),
        ("a", key.algorithm),
        ("c", _CANONICAL.decode("ascii")),
        ("d", key.domain),
        ("s", key.selector),
        ("t", str(seconds)),
        ("h", b" : ".join(names).decode("ascii")),
        ("bh", bodyHash.decode("ascii")),
    ]
    return _NAME + b":" + signedValue(key, _NAME, tags, names, headers)


def signedValue(
    key: SigningKey,
    name: bytes,
    tags: Sequence[tuple[str, str]],
    signed: Sequence[bytes],
    headers: Sequence[tuple[bytes, bytes]],
) -> bytes:
    """
    @param name: of the field that signs others.
    @param tags: all but C{b=}.
    @param signed: the names of these others, in order.
    @param headers: names and values.
    @return: its value, CRLF included.
    """
    import dkim
    from dkim.canonicalization import CanonicalizationPolicy

    value = _unsigned(name, tags)
    policy = CanonicalizationPolicy.from_c_value(_CANONICAL)
    digest = hashlib.sha256()
    dkim.hash_headers(
        digest, policy, policy.canonicalize_headers(headers), signed, (name, value), {}
    )
    octets = base64.b64encode(_made(key.secret, digest.digest()))
    lines = [octets[i : i + _LINE_OCTETS] for i in range(0, len(octets), _LINE_OCTETS)]
    return value + b"\r\n ".join(lines) + b"\r\n"


def _unsigned(name: bytes, tags: Iterable[tuple[str, str]]) -> bytes:
    """
    The value of the field, of which the signature itself is missing.  It is folded
    between words only: a name in two lines is none for a receiver.
    """
    words = "; ".join(f"{tag}={value}" for tag, value in tags)
    found = headertext.lines(f"{words};", len(name) + 1)
    return "\r\n".join([*found, " b="]).encode("ascii")


def _made(secret: PrivateKey, digest: bytes) -> bytes:
    """
    A signature by OpenSSL, which lets other threads run: RSA takes ten times as long in
    dkimpy's own Python.

    @param digest: SHA-256 of what is signed.
    """
    if isinstance(secret, Ed25519PrivateKey):
        return secret.sign(digest)  # RFC 8463 §3
    return secret.sign(digest, PKCS1v15(), Prehashed(SHA256()))


class ToSign:
    """
    A message that is read once, by what signs it.  Blocks: for a thread.

    @param chunks: all of it.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._behind = b""

    def fields(self) -> list[Field]:
        """
        @return: those of the header section; none where it is too long to be signed.
        """
        return fieldsIn(self._header())

    def _header(self) -> bytes:
        head = bytearray()
        for chunk in self._chunks:
            start = max(0, len(head) - 3)
            head += chunk
            end = head.find(b"\r\n\r\n", start)
            if (len(head) if end < 0 else end) > HEADER_OCTETS:
                return b""
            if end >= 0:
                self._behind = bytes(head[end + 4 :])
                return bytes(head[:end])
        return bytes(head.removesuffix(b"\r\n"))

    def bodyHash(self) -> bytes:
        """
        @return: what the body comes to, which is read behind the fields.
        """
        body = BodyHash()
        body.feed(self._behind)
        for chunk in self._chunks:
            body.feed(chunk)
        return body.end()

    def close(self) -> None:
        """
        No more is read.
        """
        if isinstance(self._chunks, Generator):
            self._chunks.close()


@attrs.frozen(eq=False)
class _Signing:
    """
    What signs, from one reload to the next.

    @ivar keys: all of them.
    @ivar isTrusted: whether a client's mail is signed that has not logged in.
    """

    keys: tuple[SigningKey, ...] = ()
    isTrusted: Callable[[Client], bool] = lambda client: False

    def purpose(self, envelope: Envelope) -> Purpose | None:
        """
        @return: as what a message of this envelope is signed; C{None} for not at all.
        """
        if isNotice(envelope):
            return "notices"
        client = envelope.client
        return "submission" if client.user is not None or self.isTrusted(client) else None

    def keysFor(self, purpose: Purpose, domains: Iterable[str]) -> list[SigningKey]:
        """
        @return: those of these domains, each once.
        """
        wanted = set(domains)
        return [one for one in self.keys if purpose in one.sign and one.domain in wanted]


@attrs.frozen
class _Signed:
    """
    @ivar fields: the signatures.
    @ivar withheld: the domains of the author that the client may not use.
    """

    fields: bytes = b""
    withheld: tuple[str, ...] = ()


@implementer(ISigner)
class Signer:
    """
    Has no keys, and signs nothing, until it is given some.

    @param inThread: runs a function outside the reactor thread.
    @param hostname: this server's name.
    @param status: counts what could not be signed.
    @ivar threads: those in which is signed.
    """

    def __init__(self, inThread: InThread, hostname: str, status: Status) -> None:
        self.threads = Threads(inThread, SIGNING)
        self._hostname = hostname
        self._status = status
        self._now = _Signing()

    def use(self, keys: Sequence[SigningKey], isTrusted: Callable[[Client], bool]) -> None:
        """
        Sign with these keys from now on.

        @param isTrusted: whether mail of a client is signed that has not logged in.
        """
        self._now = _Signing(tuple(keys), isTrusted)

    def keysFor(self, purpose: Purpose, domain: str) -> Sequence[SigningKey]:
        """
        @return: the keys that sign for a domain now.
        """
        return self._now.keysFor(purpose, [domain])

    def sign(
        self,
        message: IMessage,
        envelope: Envelope,
        form: Hashable,
        chunks: Callable[[], Iterator[bytes]],
    ) -> Deferred[bytes]:
        now = self._now
        purpose = now.purpose(envelope)
        isBinary = envelope.parameters.body == "BINARYMIME"
        if purpose is None or isBinary or not any(purpose in one.sign for one in now.keys):
            return succeed(b"")

        def sign(_: IMessage) -> Deferred[bytes]:
            found = self.threads.run(_signed, now, purpose, envelope, self._hostname, chunks)
            return found.addCallbacks(
                self._told, self._failed, callbackArgs=(envelope,), errbackArgs=(envelope,)
            )

        return message.shared((__name__, now, form), sign)

    def _told(self, signed: _Signed, envelope: Envelope) -> bytes:
        for domain in signed.withheld:
            _log.tell(
                self._status,
                "{transaction} is not signed for {domain}: {user} may not use that domain",
                event="unsigned",
                transaction=envelope.id,
                domain=domain,
                user=envelope.client.user or "",
            )
        return signed.fields

    def _failed(self, failure: Failure, envelope: Envelope) -> bytes | Failure:
        """
        What cannot be read cannot be delivered either, and is tried again.  Whatever
        else it is would be so the next time, too: the message goes unsigned.
        """
        if failure.check(OSError, CancelledError):
            return failure
        happened(self._status, "unsigned", {})
        _log.failure(
            "{transaction} could not be signed, and goes unsigned",
            failure,
            event="unsigned",
            transaction=envelope.id,
        )
        return b""


def _signed(
    now: _Signing,
    purpose: Purpose,
    envelope: Envelope,
    hostname: str,
    chunks: Callable[[], Iterator[bytes]],
) -> _Signed:
    """
    Blocks: for a thread.
    """
    with closing(ToSign(chunks())) as read:
        fields = read.fields()
        found = {author.domain: author for author in authors(fields)}
        keys = now.keysFor(purpose, found)
        domains = dict.fromkeys(key.domain for key in keys)
        withheld = tuple(one for one in domains if not mayBeSigned(found[one], envelope, hostname))
        if withheld or not keys:
            return _Signed(withheld=withheld)
        bodyHash, seconds = read.bodyHash(), int(envelope.received)
    return _Signed(b"".join(signature(key, fields, bodyHash, seconds) for key in keys))
