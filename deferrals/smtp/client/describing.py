"""
What is told of a connection and of what went over it: to senders the server's
name, to the log the rest.
"""

from __future__ import annotations

import os

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from deferrals.model.address import AddressError, normalDomain
from deferrals.model.answers import Answer
from deferrals.model.outgoing import Hop
from deferrals.model.reply import Reply
from deferrals.model.verdict import Details
from deferrals.smtp.client.session import ClientSession

#: What senders know a server by that has no name for them.
UNNAMED = "the next server"


def shownName(hop: Hop, serverName: str) -> str:
    """
    What senders know a server by.  The name by which we know one of our own, and
    what is no name of the world's, is not for them.

    @param serverName: what it calls itself.
    """
    if hop.isPublic:
        return hop.host
    try:
        name = normalDomain(serverName)
    except (AddressError, ValueError):
        return UNNAMED
    isLiteral = name.startswith("[") or name.rpartition(".")[2].isdigit()
    return name if "." in name and not isLiteral else UNNAMED


def detailsOf(session: ClientSession, answer: Answer, lost: str = "") -> Details:
    """
    What there is to know of an answer.

    @param lost: why the connection was given up, if it was.
    """
    address, port = _place(session.transport.getPeer())
    tls = _protection(session)
    cause = "" if answer.reply.byServer else lost
    isProven = bool(tls) and session.verified
    return Details(cause, _finalOf(answer), address, port, tls, isProven)


def _finalOf(answer: Answer) -> Reply | None:
    return None if answer.final is answer.reply else answer.final


def _protection(session: ClientSession) -> str:
    """
    Protocol and cipher of a session; empty, where it is in clear.
    """
    handle = session.transport.getHandle() if session.protected else None
    if not isinstance(handle, SSL.Connection):
        return ""
    version, cipher = handle.get_protocol_version_name(), handle.get_cipher_name()
    return f"{version} {cipher or ''}".rstrip()


def _place(peer: IAddress) -> tuple[str, int]:
    """
    Where a server is: its address and port.
    """
    if isinstance(peer, IPv4Address | IPv6Address):
        return peer.host, peer.port
    if isinstance(peer, UNIXAddress):
        return os.fsdecode(peer.name or b""), 0
    return "", 0
