"""
What senders are told of a server, and what the log is.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.answers import Answer
from deferrals.model.outgoing import Hop
from deferrals.model.reply import Reply
from deferrals.smtp.client.describing import UNNAMED, detailsOf, shownName


class Handle(SSL.Connection):  # type: ignore[misc]
    """
    A TLS connection, as far as it is described.
    """

    def __init__(self) -> None:
        """There is no socket."""

    def get_protocol_version_name(self) -> str:
        return "TLSv1.3"

    def get_cipher_name(self) -> str:
        return "TLS_AES_256_GCM_SHA384"


class Session:
    """
    A session, as far as it is described; it is its own transport.
    """

    def __init__(self, peer: Any, handle: Any = None, verified: bool = False) -> None:
        self.transport = self
        self.protected = handle is not None
        self.verified = verified
        self._peer, self._handle = peer, handle

    def getPeer(self) -> Any:
        return self._peer

    def getHandle(self) -> Any:
        return self._handle


def details(session: Session, answer: Answer | None = None, lost: str = "") -> Any:
    answer = answer or Answer("a@x.example", Reply.ofLines(["250 2.1.5 ok"]), "final")
    return detailsOf(session, answer, lost)  # type: ignore[arg-type]


class NameTests(SynchronousTestCase):
    """
    L{shownName}.
    """

    def test_public(self) -> None:
        """A server that DNS names has that name, whatever it says."""
        hop = Hop("tcp:192.0.2.1:25", "x", "mx.there.example", isPublic=True)
        self.assertEqual(shownName(hop, "other.example"), "mx.there.example")

    def test_own(self) -> None:
        """One of our own is called as it calls itself, where that is a name of the world's."""
        hop = Hop("tcp:10.0.0.5:24", "tcp:10.0.0.5:24", "10.0.0.5")
        for name, shown in (
            ("Store.Example.net.", "store.example.net"),
            ("[10.0.0.5]", UNNAMED),
            ("10.0.0.5", UNNAMED),
            ("localhost", UNNAMED),
            ("", UNNAMED),
            ("a/b.c", UNNAMED),
            ("x" * 300 + ".example", UNNAMED),
        ):
            self.assertEqual(shownName(hop, name), shown)


class DetailsTests(SynchronousTestCase):
    """
    L{detailsOf}.
    """

    def test_place(self) -> None:
        """Where the server is."""
        for peer, address, port in (
            (IPv4Address("TCP", "192.0.2.1", 25), "192.0.2.1", 25),
            (IPv6Address("TCP", "2001:db8::1", 24), "2001:db8::1", 24),
            (UNIXAddress(b"/run/lmtp"), "/run/lmtp", 0),
            (UNIXAddress(None), "", 0),
            (None, "", 0),
        ):
            found = details(Session(peer))
            self.assertEqual((found.address, found.port), (address, port))

    def test_tls(self) -> None:
        """Protocol and cipher, and whether the server has proved its name."""
        clear = details(Session(None, verified=True))
        self.assertEqual((clear.tls, clear.verified), ("", False))
        for verified in (False, True):
            found = details(Session(None, Handle(), verified))
            self.assertEqual(found.tls, "TLSv1.3 TLS_AES_256_GCM_SHA384")
            self.assertEqual(found.verified, verified)

    def test_final(self) -> None:
        """The final reply, where it is not the recipient's own anyway."""
        own, final = Reply(250, "2.1.5", "ok"), Reply(250, "2.0.0", "queued as 4711")
        for answer, found in (
            (Answer("a", own, "recipient", final), final),
            (Answer("a", final, "final"), None),
        ):
            self.assertEqual(details(Session(None), answer).final, found)

    def test_cause(self) -> None:
        """Why the connection was given up, where the server has not said the reply itself."""
        ours = Answer("a", Reply(451, "4.4.2", "the connection was lost"), "none")
        self.assertEqual(details(Session(None), ours, "no reply in time").cause, "no reply in time")
        self.assertEqual(details(Session(None), None, "no reply in time").cause, "")
