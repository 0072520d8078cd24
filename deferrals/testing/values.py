"""
Messages, envelopes and recipients for tests.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

from deferrals.interfaces import IMessage
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Client, Envelope, Parameters, Recipient
from deferrals.model.reply import Reply
from deferrals.model.tablekeys import TableKeys
from deferrals.model.verdict import Route
from deferrals.spool.message import HEADER_OCTETS, Message

_numbers = itertools.count(1 << 20)

LATER = Reply(451, "4.3.0", "later")

#: Who has connected, unless a test says otherwise.
CLIENT = Client("192.0.2.1", 1025, "client.example.com", "ESMTP")


def makeMessage(content: bytes = b"Subject: test\r\n\r\nhello\r\n") -> IMessage:
    """
    @param content: octets with CRLF line ends.
    """
    digest = hashlib.sha256(content).digest()
    return Message(len(content), digest, content, None, content[:HEADER_OCTETS])


def makeEnvelope(
    sender: str = "sender@example.com", *, client: Client = CLIENT, **parameters: Any
) -> Envelope:
    """
    @param sender: the reverse path; empty for the null path.
    @param client: who has connected.
    @param parameters: of L{Parameters<deferrals.model.envelope.Parameters>}.
    """
    return Envelope(
        next(_numbers),
        1000000000.0,
        client,
        Mailbox.parse(sender) if sender else None,
        Parameters(**parameters),
        "test",
    )


def makeRecipient(
    address: str, policy: str = "strict", delivery: str = "box", subaddress: str = ""
) -> Recipient:
    """
    @param address: without brackets.
    """
    route = Route(policy, delivery, subaddress=subaddress)
    return Recipient(Mailbox.parse(address), route=route)


def makeAddressees(*addresses: str) -> list[Addressee]:
    """
    One for each address, numbered.
    """
    return [Addressee(makeRecipient(address), seq=seq) for seq, address in enumerate(addresses)]


def tableKeys(address: str, subaddress: str = "+") -> TableKeys:
    """
    By what a table is asked about an address.
    """
    recipient = makeRecipient(address, subaddress=subaddress)
    return TableKeys.of(recipient.address, recipient.parted()[0])
