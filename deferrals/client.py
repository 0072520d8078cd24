"""
Send a message and learn what each recipient was answered.

::

    result = await sendMessage(
        reactor, clientEndpoint(reactor, "tcp:127.0.0.1:2525"),
        "a@example.org", ["b@example.net", "c@example.net"], b"Subject: hello\\r\\n\\r\\n…",
    )
    for answer in result.answers:
        print(answer.recipient, answer.reply)

What is sent is what was meant: an address or a message that a server could
read as a further command is refused before anything is connected to.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from deferrals.model.answers import Answer, Result
from deferrals.model.commands import checkName
from deferrals.model.envelope import Form
from deferrals.model.lines import hasBare, normalised
from deferrals.model.outgoing import PREFERENCE, Hop, Login, Outgoing, Security, Timeouts
from deferrals.smtp.client.connections import HopConnections, Means, threadsOf
from deferrals.tls import clientEndpoint

_CHUNK_OCTETS = 64 * 1024


def withCRLF(message: bytes) -> bytes:
    """
    A text with line ends of any kind, as mail wants it.
    """
    message = normalised(message)
    return message if message.endswith(b"\r\n") or not message else message + b"\r\n"


def sendMessage(
    reactor: IReactorTime,
    endpoint: IStreamClientEndpoint,
    sender: str,
    recipients: Sequence[str],
    message: bytes,
    *,
    hello: str = "",
    lmtp: bool = False,
    forms: Sequence[Form] = PREFERENCE,
    security: Security = "none",
    host: str = "",
    login: Login | None = None,
    timeouts: Timeouts = Timeouts(),
    trace: Callable[[str, str], None] | None = None,
) -> Deferred[Result]:
    """
    Connect, send one message, say goodbye.

    @param endpoint: the server; of a string, by L{clientEndpoint}.
    @param sender: the reverse path; empty for the null path.
    @param recipients: the forward paths; at least one.
    @param message: octets whose lines end with CRLF (L{withCRLF}).
    @param hello: the name to give; by default this machine's.
    @param forms: which extensions to ask for, of those that are offered.
    @param security: what STARTTLS is for, as in L{Hop.security}; C{"none"}
        leaves the connection as the endpoint has it.
    @param host: the server's name, which C{"verified"} needs.
    @param login: a password goes only over a connection that is private.
    @param trace: called with C{"C"} or C{"S"} and each line of the dialogue.
    @return: a Deferred of a L{Result}.  It fails with
        L{HopError<deferrals.errors.HopError>} where there was no session.
        Cancelled, it gives the connection up; between the end of the data and
        the last reply the server may have the message, or not.
    @raise TypeError: one address instead of a sequence of them.
    @raise ValueError: what could be read as something else: an address, the
        name, a bare CR or LF in the message; no recipient; no host.
    """
    if security == "verified" and not host:
        raise ValueError("no host, whose name the certificate has to say")
    hello = hello or socket.gethostname()
    checkName(hello)
    outgoing = _outgoing(sender, recipients, message)
    hop = Hop("", "", host, lmtp, tuple(forms), security, login=login, timeouts=timeouts)
    means = Means(reactor, hello, lambda _: endpoint, threadsOf(reactor), trace)
    return Deferred.fromCoroutine(_send(HopConnections(hop, means, lambda: None), outgoing))


def _outgoing(sender: str, recipients: Sequence[str], message: bytes) -> Outgoing:
    if isinstance(recipients, str):  # a sequence of text, too: of its letters
        raise TypeError("recipients: expected a sequence of addresses, not one address")
    if not recipients:
        raise ValueError("no recipient")
    if hasBare(message):
        raise ValueError("a bare CR or LF in the message: see withCRLF")

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(message), _CHUNK_OCTETS):
            yield message[start : start + _CHUNK_OCTETS]

    return Outgoing(sender, tuple(recipients), len(message), chunks, not message.isascii())


async def _send(connections: HopConnections, outgoing: Outgoing) -> Result:
    session, _ = await connections.take()
    result = await session.send(outgoing)
    await connections.end(session)
    return result


__all__ = [
    "Answer",
    "Form",
    "Login",
    "Result",
    "Timeouts",
    "clientEndpoint",
    "sendMessage",
    "withCRLF",
]
