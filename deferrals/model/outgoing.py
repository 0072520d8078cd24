"""
A message on its way to another server: what it needs of that server, how the
server is reached, and what became of it there.

These are the values that the delivery stages and the client hand to each other.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import attrs

from deferrals.model.address import Mailbox
from deferrals.model.answers import Answer
from deferrals.model.commands import (
    checkParameter,
    checkPath,
    checkRecipient,
    checkSecret,
)
from deferrals.model.envelope import Envelope, Form, Recipient
from deferrals.model.extensions import encodeXtext
from deferrals.model.verdict import NO_DETAILS, Details

#: The ways of asking for each recipient's own answer, the best one first.
PREFERENCE = (Form.DEFERRALS, Form.PRDR, Form.EXDATA)

#: C{"none"}: in clear.  C{"opportunistic"}: TLS where it can be had, whatever
#: certificate the server has.  C{"required"}: TLS or nothing.  C{"verified"}: and with a
#: certificate of that name.
Security = Literal["none", "opportunistic", "required", "verified"]

_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")


@attrs.frozen
class Timeouts:
    """
    Seconds for each reply (RFC 5321 §4.5.3.2).

    @ivar command: greeting, EHLO, MAIL, RCPT, RSET.
    @ivar data: the reply to DATA; and the longest time in which no octet of
        the message can be written.
    @ivar answer: each reply after the data (D-24).
    """

    command: float = 300.0
    data: float = 180.0
    answer: float = 600.0  # D-24


@attrs.frozen
class Login:
    """
    A user at a server that asks for one (RFC 4954).

    @ivar user: the name.
    @ivar password: the password; or C{None}, where C{passwordFile} has it.
    @ivar passwordFile: the absolute path of a file whose first line it is.
    @raise ValueError: a NUL or a line end in the name or the password.
    """

    user: str
    password: str | None = attrs.field(default=None, repr=False)
    passwordFile: str | None = None

    def __attrs_post_init__(self) -> None:
        checkSecret(self.user)
        checkSecret(self.password or "")


@attrs.frozen
class Hop:
    """
    One server, and how to speak to it.  Equal hops share their connections.

    @ivar endpoint: a Twisted client endpoint string.
    @ivar name: the server for people, and for what is remembered of it:
        C{"mx.example.net:25"}.
    @ivar host: its host name, where it has one: what its certificate must say.
    @ivar isPublic: whether all the world knows it by that name: otherwise a
        notification calls it as it calls itself.
    @ivar lmtp: whether it speaks LMTP.
    @ivar forms: the ways of asking for each recipient's answer that may be used.
    @ivar security: whether the connection is to be protected.
    @ivar ca: the absolute path of a file of certificates (PEM) that are
        trusted; C{None} for those that the system trusts.
    @ivar login: who we are.
    @ivar chunking: whether BDAT may be used.
    @ivar notOurselves: whether a server that calls itself as we do is taken
        for a loop.
    @ivar connections: at most so many at once.
    @ivar messages: at most so many over one connection.
    @ivar recipients: at most so many in one transaction.
    @ivar idleSeconds: how long a connection that is not used is kept.
    """

    endpoint: str
    name: str
    host: str = ""
    isPublic: bool = attrs.field(default=False, kw_only=True)
    lmtp: bool = False
    forms: tuple[Form, ...] = PREFERENCE
    security: Security = "none"
    ca: str | None = None
    login: Login | None = None
    chunking: bool = True
    notOurselves: bool = False
    connections: int = 5
    messages: int = 100
    recipients: int = 1000
    idleSeconds: float = 30.0
    timeouts: Timeouts = Timeouts()


@attrs.frozen
class Outgoing:
    """
    A message for one server.

    @ivar sender: the reverse path without brackets; empty for the null path.
    @ivar recipients: the forward paths without brackets.
    @ivar size: in octets.
    @ivar chunks: gives the message anew each time it is called: octets whose
        lines end with CRLF and nothing else, unless it is binary.
    @ivar converted: converts it for a server without 8BITMIME: fires with the same message
        in 7-bit, or with C{None} where it must stay as it is.
    @ivar eightBit: whether there are octets above 127 (RFC 6152).
    @ivar binary: whether only BDAT can carry it (RFC 3030 §3).
    @ivar utf8Header: whether its header has UTF-8 (RFC 6531 §3.2).
    @ivar isFinal: whether the server is the recipients' mail store, which reads no header:
        it takes one with UTF-8 as it takes other 8-bit text.
    @ivar requireTLS: whether its sender asked for REQUIRETLS (RFC 8689).
    @ivar parameters: further ones of MAIL FROM, each with its EHLO keyword; it
        is sent where the server offers that.
    @ivar recipientParameters: the same for RCPT TO, by index.
    @raise ValueError: an address or a parameter that a server could read as
        something else.
    """

    sender: str
    recipients: Sequence[str]
    size: int
    chunks: Callable[[], Iterator[bytes]]
    eightBit: bool = False
    binary: bool = False
    utf8Header: bool = False
    requireTLS: bool = False
    parameters: Sequence[tuple[str, str]] = ()
    recipientParameters: Mapping[int, Sequence[tuple[str, str]]] = attrs.field(factory=dict)
    isFinal: bool = False
    converted: Callable[[], Awaitable[bytes | None]] | None = attrs.field(default=None, eq=False)

    def __attrs_post_init__(self) -> None:
        checkPath(self.sender)
        for recipient in self.recipients:
            checkRecipient(recipient)
        for parameters in (self.parameters, *self.recipientParameters.values()):
            for _, text in parameters:
                checkParameter(text)

    @property
    def needsUTF8(self) -> bool:
        """
        Whether it needs SMTPUTF8: for an address, or for its header.
        """
        return self.utf8Header or self._hasUTF8Address

    @property
    def _hasUTF8Address(self) -> bool:
        return not all(address.isascii() for address in (self.sender, *self.recipients))

    def fitting(self, keywords: Container[str]) -> Outgoing:
        """
        The message for a server that offers these extensions only: a mail store without
        SMTPUTF8 is asked for it no more than an address needs it.
        """
        isNeeded = self._hasUTF8Address or not self.isFinal or "SMTPUTF8" in keywords
        return self if isNeeded else attrs.evolve(self, utf8Header=False)

    @property
    def isConvertible(self) -> bool:
        """
        Whether it is 8-bit, and may be tried in 7-bit.
        """
        isPlain = self.eightBit and not self.binary and not self.needsUTF8
        return isPlain and self.converted is not None

    def inSevenBits(self, octets: bytes) -> Outgoing:
        """
        The same message, converted.
        """
        return attrs.evolve(self.asSevenBits(len(octets)), chunks=lambda: iter([octets]))

    def asSevenBits(self, size: int) -> Outgoing:
        """
        What it needs once it is converted.
        """
        return attrs.evolve(self, size=size, eightBit=False, utf8Header=False, converted=None)

    def only(self, indexes: Sequence[int]) -> Outgoing:
        """
        The same message for some of its recipients.
        """
        if len(indexes) == len(self.recipients):
            return self
        more = self.recipientParameters
        return attrs.evolve(
            self,
            recipients=[self.recipients[index] for index in indexes],
            recipientParameters={
                position: more[index] for position, index in enumerate(indexes) if index in more
            },
        )


@attrs.frozen
class Sent:
    """
    What became of one message at one server.

    @ivar answers: one per recipient, in their order.
    @ivar host: what the server is called in notifications.
    @ivar knowsDSN: whether it will tell the sender what RFC 3461 asks for.
    @ivar details: for the log: one per answer, or none at all.
    """

    answers: tuple[Answer, ...]
    host: str = ""
    knowsDSN: bool = False
    details: tuple[Details, ...] = ()

    def each(self) -> list[tuple[Answer, Details]]:
        """
        The answers, each with its details.
        """
        details = self.details or (NO_DETAILS,) * len(self.answers)
        return list(zip(self.answers, details, strict=True))


#: Is told which recipient (its index) has an answer that stands, and what came of it:
#: a L{Sent} with this one answer.
Heard: TypeAlias = Callable[[int, Sent], None]


def wireAddress(mailbox: Mailbox) -> str:
    """
    An address as the next server is told it: A-labels, so that only a local
    part that is not ASCII needs SMTPUTF8 (RFC 6531 §3.2).
    """
    if mailbox.local.isascii() and not mailbox.shownDomain.isascii():
        return str(Mailbox(mailbox.local, mailbox.domain))
    return str(mailbox)


def mailParameters(envelope: Envelope) -> list[tuple[str, str]]:
    """
    What is passed on of MAIL FROM's parameters (RFC 3461 §5.2), each with its
    EHLO keyword.
    """
    found = []
    if envelope.parameters.ret is not None:
        found.append(("DSN", f"RET={envelope.parameters.ret}"))
    if envelope.parameters.envid is not None:
        found.append(("DSN", f"ENVID={encodeXtext(envelope.parameters.envid)}"))
    return found


def recipientParameters(recipient: Recipient) -> list[tuple[str, str]]:
    """
    The same for RCPT TO.
    """
    found = []
    if recipient.notify is not None:
        found.append(("DSN", f"NOTIFY={','.join(sorted(recipient.notify))}"))
    if recipient.orcpt is not None:
        found.append(("DSN", f"ORCPT={encodeOriginal(recipient.orcpt)}"))
    return found


def encodeOriginal(orcpt: str) -> str:
    """
    The value of ORCPT= in the form that every server can read: xtext
    (RFC 3461 §4.2); for C{utf-8} the ASCII form of RFC 6533 §3.
    """
    kind, _, address = orcpt.partition(";")
    if kind != "utf-8":
        return f"{kind};{encodeXtext(address)}"
    return f"{kind};" + _QCHAR.sub(_embedded, address)


def _embedded(match: re.Match[str]) -> str:
    return f"\\x{{{ord(match[0]):02X}}}"
