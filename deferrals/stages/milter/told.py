"""
What filters are told of a message, in the protocol's own words.

Our own C{Received} and C{Return-Path} are not among its fields, as with other mail
servers: filters make them up of what they are told.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from ipaddress import ip_address

from kilter.protocol.messages import EnvelopeFrom, EnvelopeRecipient

from deferrals.interfaces import IMessage
from deferrals.model.edits import isCounted
from deferrals.model.envelope import Client, Envelope, Recipient
from deferrals.model.networks import LOCAL
from deferrals.model.outgoing import mailParameters, recipientParameters
from deferrals.model.text import cleaned
from deferrals.model.trace import Head
from deferrals.stages.milter.dialogue import MAX_STEP_OCTETS, Told
from deferrals.stages.milter.macros import Macros
from deferrals.stages.milter.wire import NamedConnect, NamedHelo


def toldOf(
    envelope: Envelope,
    recipients: Sequence[Recipient],
    hostname: str,
    version: str,
    macros: Mapping[str, str],
) -> Told:
    """
    @param recipients: the ones that the filter is told of.
    @param hostname: this server's name.
    @param version: this program, and its version.
    @param macros: those of the configuration.
    """
    return Told(
        _connect(envelope.client),
        NamedHelo(cleaned(envelope.client.helo)),
        EnvelopeFrom(_path(envelope.senderText), [*_mail(envelope)]),
        [EnvelopeRecipient(_path(str(one)), _rcpt(one)) for one in recipients],
        recipients,
        Macros(envelope, hostname, version, macros),
    )


def _connect(client: Client) -> NamedConnect:
    if client.address == LOCAL:
        return NamedConnect("localhost", ip_address("127.0.0.1"))
    try:
        address = ip_address(client.address)
    except ValueError:
        return NamedConnect(cleaned(client.hostname) or "unknown")
    return NamedConnect(cleaned(client.hostname) or f"[{client.address}]", address, client.port)


def _path(address: str) -> bytes:
    return f"<{cleaned(address)}>".encode("utf-8", "replace")


def _mail(envelope: Envelope) -> Iterator[bytes]:
    parameters = envelope.parameters
    if parameters.size is not None:
        yield f"SIZE={parameters.size}".encode()
    if parameters.body != "7BIT":
        yield f"BODY={parameters.body}".encode()
    if parameters.smtputf8:
        yield b"SMTPUTF8"
    for _, text in mailParameters(envelope):
        yield text.encode("utf-8", "replace")


def _rcpt(recipient: Recipient) -> list[bytes | memoryview]:
    return [text.encode("utf-8", "replace") for _, text in recipientParameters(recipient)]


def fieldsOf(message: IMessage) -> Iterator[tuple[str, bytes]]:
    """
    A message's header fields: each name, with what stands behind its colon.
    """
    for line in filter(isCounted, Head(message.header).fields):
        name, _, value = line.partition(b":")
        yield (
            name.strip().decode("ascii", "replace").replace("\ufffd", "?"),
            value.replace(b"\r\n", b"\n").replace(b"\0", b""),
        )


def fits(message: IMessage) -> bool:
    """
    Whether each header field is one that filters take: one step is one packet of theirs.
    """
    if len(message.header) < MAX_STEP_OCTETS:
        return True
    ends = len(b"\0\0")
    return all(
        len(name) + len(value) + ends <= MAX_STEP_OCTETS for name, value in fieldsOf(message)
    )


def bodyOf(message: IMessage) -> Generator[bytes, None, None]:
    """
    A message's body, piece by piece.
    """
    header = message.header
    with message.open() as file:
        file.seek(len(header))
        start = file.read(4)
        gap = b"\r\n\r\n" if header and start != b"\r\n" else b"\r\n"
        file.seek(len(header) + (len(gap) if start.startswith(gap) else 0))
        while chunk := file.read(MAX_STEP_OCTETS):
            yield chunk
