"""
Seals what is forwarded (ARC, L{deferrals.model.arc}): what this server has found out
about a message as it came in, signed, so that the next one may believe it although the
forwarding has spoilt SPF.

What signs is dkimpy, in threads.  A chain that does not hold is not sealed again, and
neither is one whose check has not come to an end: the message goes on without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.interfaces import IMessage, ISealer
from deferrals.logger import Logger
from deferrals.model import arc
from deferrals.model.authentication import Authentication
from deferrals.model.dkim import Field, fieldsIn, namesToSign
from deferrals.model.envelope import Envelope
from deferrals.model.status import Status
from deferrals.model.trace import asciiName
from deferrals.server.authentication import Authentications
from deferrals.server.signing import SigningKey, ToSign, signature, signedValue
from deferrals.stages.content.exchange import chunks
from deferrals.threads import InThread, Threads

_log = Logger(namespace="deferrals.sealing")

#: So many messages are checked and sealed at once.
SEALING = 2

#: What a signature says of itself.
_Tags = Sequence[tuple[str, str]]


def sealingKey(keys: Sequence[SigningKey]) -> SigningKey | None:
    """
    @return: the one that seals: receivers know RSA alone; C{None} where there is none.
    """
    return next((one for one in keys if one.kind == "rsa"), None)


@attrs.frozen(eq=False)
class _Sealing:
    """
    What seals, from one reload to the next.

    @ivar key: makes the seal.
    @ivar signing: these sign what is forwarded besides.
    """

    key: SigningKey
    signing: tuple[SigningKey, ...]

    @classmethod
    def make(cls, keys: Sequence[SigningKey]) -> _Sealing | None:
        """
        @return: C{None} where none of the keys can seal.
        """
        key = sealingKey(keys)
        if key is None:
            return None
        return cls(key, tuple(one for one in keys if "forward" in one.sign))


@implementer(ISealer)
class Sealer:
    """
    Has no keys, and seals nothing, until it is given some.

    @param inThread: runs a function outside the reactor thread.
    @param authentications: know what has come in.
    @param hostname: this server's name.
    @param status: counts what could not be sealed.
    """

    def __init__(
        self,
        inThread: InThread,
        authentications: Authentications,
        hostname: str,
        status: Status,
    ) -> None:
        self._threads = Threads(inThread, SEALING)
        self._authentications = authentications
        self._hostname = asciiName(hostname)
        self._status = status
        self._now: _Sealing | None = None

    def use(self, keys: Sequence[SigningKey]) -> None:
        """
        Seal with the first RSA key of these from now on; those that are for it also sign
        what is forwarded.
        """
        self._now = _Sealing.make(keys)

    @property
    def hasKeys(self) -> bool:
        return self._now is not None

    def seal(self, message: IMessage, leaving: IMessage, envelope: Envelope) -> Deferred[bytes]:
        now = self._now  # a reload may come before the end
        if now is None:
            return succeed(b"")
        return Deferred.fromCoroutine(self._seal(now, message, leaving, envelope))

    async def _seal(
        self, now: _Sealing, message: IMessage, leaving: IMessage, envelope: Envelope
    ) -> bytes:
        """
        What cannot be read cannot be delivered either, and is tried again.
        """
        try:
            return await self._made(now, message, leaving, envelope)
        except (OSError, CancelledError):
            raise
        except Exception:
            _log.failure("{transaction}: sealing", Failure(), transaction=envelope.id)
            return self._without(envelope, "it could not be checked")

    async def _made(
        self, now: _Sealing, message: IMessage, leaving: IMessage, envelope: Envelope
    ) -> bytes:
        fields = fieldsIn(message.header)
        try:
            sets = arc.setsIn(fields)
        except arc.NoChain as error:
            return self._without(envelope, str(error))
        if len(sets) == arc.MOST_SETS:
            return self._without(envelope, "no chain is longer")
        found = await self._authentications.ofMessage(message, envelope)
        if found.unchecked:
            return self._without(envelope, found.unchecked)
        if found.arc.result not in ("none", "pass"):
            return self._without(envelope, f"its chain does not hold: {found.arc.result}")
        sealed = _sealed(now, self._hostname, found, int(envelope.received))
        made = await self._threads.run(sealed, leaving)
        return made or self._without(envelope, "its header section is too long")

    def _without(self, envelope: Envelope, why: str) -> bytes:
        _log.tell(
            self._status,
            "{transaction} is not sealed: {why}",
            event="unsealed",
            transaction=envelope.id,
            why=why,
        )
        return b""


def _sealed(
    now: _Sealing, hostname: str, found: Authentication, seconds: int
) -> Callable[[IMessage], bytes]:
    """
    @return: makes the fields that seal a message; none where its header section cannot
        be signed.  Blocks: for a thread.
    """

    def seal(leaving: IMessage) -> bytes:
        with closing(ToSign(chunks(leaving))) as read:
            fields = read.fields()
            if not fields:
                return b""
            bodyHash = read.bodyHash()
        made = sealOf(now.key, fields, bodyHash, hostname, found, seconds)
        return b"".join(signature(one, fields, bodyHash, seconds) for one in now.signing) + made

    return seal


def sealOf(
    key: SigningKey,
    fields: Sequence[Field],
    bodyHash: bytes,
    hostname: str,
    found: Authentication,
    seconds: int,
) -> bytes:
    """
    @param fields: those of the message that leaves, in their order.
    @param found: what is sealed.
    @return: one set of fields (RFC 8617 §4.1), each with its CRLF.
    """
    sets = arc.setsIn(fields)
    number = str(len(sets) + 1)
    common = [
        ("i", number),
        ("a", key.algorithm),
        ("d", key.domain),
        ("s", key.selector),
        ("t", str(seconds)),
    ]
    results = b" i=" + number.encode("ascii") + b"; " + _words(found, hostname) + b"\r\n"
    message = _messageSignature(key, common, fields, bodyHash)
    chain = [(arc.MESSAGE, message), (arc.RESULTS, results)]
    for before in reversed(sets):
        chain += [(one.name, one.value) for one in reversed(before)]
    values = (
        (b"Seal", _chainSignature(key, [*common, ("cv", found.arc.result)], chain)),
        (b"Message-Signature", message),
        (b"Authentication-Results", results),
    )
    return b"".join(b"ARC-" + name + b":" + value for name, value in values)


def _words(found: Authentication, hostname: str) -> bytes:
    return ";\r\n ".join(found.words(hostname)).encode("ascii")


def _messageSignature(
    key: SigningKey, common: _Tags, fields: Sequence[Field], bodyHash: bytes
) -> bytes:
    """
    @return: the value of C{ARC-Message-Signature}, which is about the message (RFC 8617
        §4.1.2).
    """
    names = namesToSign(fields, (*key.headers, "DKIM-Signature"))
    headers = [(one.name, one.value) for one in fields if one.name in names]
    tags = [
        *common,
        ("c", "relaxed/relaxed"),
        ("h", b" : ".join(names).decode("ascii")),
        ("bh", bodyHash.decode("ascii")),
    ]
    return signedValue(key, b"ARC-Message-Signature", tags, names, headers)


def _chainSignature(key: SigningKey, tags: _Tags, chain: Sequence[tuple[bytes, bytes]]) -> bytes:
    """
    @param chain: the fields of all sets, the last one first.
    @return: the value of C{ARC-Seal}, which is about the sets (RFC 8617 §4.1.3).
    """
    signed = [name for name, _ in reversed(chain)]
    return signedValue(key, b"ARC-Seal", tags, signed, chain)
