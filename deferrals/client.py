"""
Send a message and learn what each recipient was answered.

::

    result = await sendMessage(
        reactor, clientFromString(reactor, "tcp:127.0.0.1:2525"),
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

    @param endpoint: C{twisted.internet.interfaces.IStreamClientEndpoint}.
    @param sender: the reverse path; empty for the null path.
    @param recipients: the forward paths; at least one.
    @param message: octets whose lines end with CRLF (L{withCRLF}).
    @param hello: the name to give; by default this machine's.
    @param lmtp: speak LMTP.
    @param forms: which extensions to ask for, of those that are offered.
    @param security: C{"none"}: as the endpoint has it, which may be one that
        encrypts; C{"opportunistic"}: STARTTLS where it can be had, whatever the
        server is; C{"required"}: TLS or nothing; C{"verified"}: and with a
        certificate of that C{host}.
    @param host: the server's name, for C{"verified"}.
    @param login: the user to authenticate as.  A password goes only over a
        connection that is encrypted or does not leave the machine.
    @param timeouts: for each reply.
    @param trace: called with C{"C"} or C{"S"} and each line of the dialogue,
        the message and what is secret excepted.
    @return: a Deferred of a L{Result<deferrals.model.answers.Result>}.  It
        fails with L{HopError<deferrals.errors.HopError>} where no message could
        be sent at all: no connection, no TLS, no welcome.  May be cancelled:
        the connection is given up; unless the final reply has come, the server
        may then have the message, or not.
    @raise ValueError: an address, or a name, with control characters, brackets
        or blanks (but for blanks in a quoted local part); no recipient; a bare
        CR or LF in the message; no host where it is to be verified.
    """
    if not recipients:
        raise ValueError("no recipient")
    if hasBare(message):
        raise ValueError("a bare CR or LF in the message: see withCRLF")
    if security == "verified" and not host:
        raise ValueError("no host, whose name the certificate has to say")
    hello = hello or socket.gethostname()
    checkName(hello)

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(message), _CHUNK_OCTETS):
            yield message[start : start + _CHUNK_OCTETS]

    outgoing = Outgoing(sender, tuple(recipients), len(message), chunks, not message.isascii())
    hop = Hop(
        endpoint="",
        name="",
        host=host,
        lmtp=lmtp,
        forms=tuple(forms),
        security=security,
        login=login,
        connections=1,
        timeouts=timeouts,
    )
    means = Means(reactor, hello, lambda _: endpoint, threadsOf(reactor), trace)
    return Deferred.fromCoroutine(_send(HopConnections(hop, means, lambda: None), outgoing))


async def _send(connections: HopConnections, outgoing: Outgoing) -> Result:
    session, _ = await connections.take()
    result = await session.send(outgoing)
    await connections.end(session)
    return result


__all__ = ["Answer", "Form", "Login", "Result", "Timeouts", "sendMessage", "withCRLF"]
