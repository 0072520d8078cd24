"""
Send a message and learn what each recipient was answered.

::

    result = yield sendMessage(
        reactor, clientFromString(reactor, "tcp:127.0.0.1:2525"),
        "a@example.org", ["b@example.net", "c@example.net"], b"Subject: hello\\r\\n\\r\\n…",
    )
    for answer in result.answers:
        print(answer.recipient, answer.reply)
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory

from deferrals.model.answers import Answer, Result
from deferrals.model.envelope import Form
from deferrals.model.lines import normalised
from deferrals.model.outgoing import Outgoing, Timeouts
from deferrals.smtp.client.session import ClientSession

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
    forms: Sequence[Form] = (Form.DEFERRALS, Form.PRDR),
    timeouts: Timeouts = Timeouts(),
    trace: Callable[[str, str], None] | None = None,
) -> Deferred[Result]:
    """
    Connect, send one message, say goodbye.

    @param endpoint: C{twisted.internet.interfaces.IStreamClientEndpoint}.
    @param sender: the reverse path; empty for the null path.
    @param recipients: the forward paths.
    @param message: octets whose lines end with CRLF (L{withCRLF}).
    @param hello: the name to give; by default this machine's.
    @param lmtp: speak LMTP.
    @param forms: which extensions to ask for, of those that are offered.
    @param trace: called with C{"C"} or C{"S"} and each line of the dialogue.
    @return: a Deferred of a L{Result<deferrals.model.answers.Result>}.  It
        fails where no message could be sent at all: no connection, or
        L{PeerError<deferrals.errors.PeerError>} for a server that did not let
        us in.
    """

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(message), _CHUNK_OCTETS):
            yield message[start : start + _CHUNK_OCTETS]

    session = ClientSession(reactor, hello or socket.gethostname(), lmtp, forms, timeouts, trace)
    outgoing = Outgoing(sender, recipients, len(message), chunks, not message.isascii())
    return Deferred.fromCoroutine(_send(endpoint, session, outgoing))


async def _send(
    endpoint: IStreamClientEndpoint, session: ClientSession, outgoing: Outgoing
) -> Result:
    factory = Factory.forProtocol(lambda: session)
    factory.noisy = False
    await endpoint.connect(factory)
    await session.open()
    result = await session.send(outgoing)
    await session.quit()
    return result


__all__ = ["Answer", "Form", "Result", "sendMessage", "withCRLF"]
