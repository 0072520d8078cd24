"""
Tests for L{deferrals.spool.postgresql.entrance}; what real servers say is in
L{tests.integration.test_cluster_start}.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any

import attrs
import psycopg
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError, StoreAway
from deferrals.spool.postgresql import entrance
from deferrals.spool.postgresql.entrance import entered

#: As a server in German says it.
_STARTS, _REFUSED = "FATAL:  das Datenbanksystem startet", "FATAL:  Anmeldung fehlgeschlagen"


@attrs.frozen
class Place:
    """
    Where a connection could not be made.
    """

    host: bytes
    port: bytes = b"7"
    hostaddr: bytes = b""


def refusal(code: str) -> bytes:
    """
    What a server says to somebody whom it does not know.
    """
    fields = b"".join(one.encode() + b"\0" for one in ("SFATAL", f"C{code}", "Mnein"))
    return b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0"


class EnteredTests(SynchronousTestCase):
    """
    L{entered}.
    """

    def setUp(self) -> None:
        self.answers: list[bytes | None] = []
        self.patch(entrance, "_connected", self.connected)

    def connected(self, host: str, port: int) -> socket.socket:
        """
        A server that has answered before it was asked.
        """
        answer = self.answers.pop(0)
        if answer is None:
            raise ConnectionRefusedError("refused")
        ours, theirs = socket.socketpair()
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        self.addCleanup(theirs.close)
        return ours

    def enter(self, *texts: str, answers: Sequence[bytes | None] = ()) -> str:
        """
        @param texts: what connections fail with, one after the other.
        @param answers: what the server says to those whom it does not know; C{None}, where
            it is not there.
        @return: what became of it.
        """
        waiting, self.answers = list(texts), list(answers)
        place: Any = Place(b"db.example")

        def connect() -> str:
            if not waiting:
                return "entered"
            raise psycopg.OperationalError(f"connection failed: {waiting.pop(0)}", pgconn=place)

        try:
            return entered(connect)
        except SpoolError as error:
            return f"{type(error).__name__}: {error}"
        finally:
            self.assertEqual(self.answers, [])

    def test_enters(self) -> None:
        """Who is let in is asked nothing."""
        self.assertEqual(self.enter(), "entered")

    def test_away(self) -> None:
        """What no server has said may pass."""
        for text in ("Connection refused", "timeout expired", "session is read-only"):
            self.assertEqual(self.enter(text), f"StoreAway: connection failed: {text}")

    def test_lasting(self) -> None:
        """What the server says, while it takes others, stays, in any language."""
        wants = b"R" + struct.pack("!II", 8, 10)
        for answers in ([refusal("28P01"), wants], [wants, refusal("3D000")]):
            found = self.enter(_REFUSED, _REFUSED, answers=answers)
            self.assertEqual(found, f"SpoolError: connection failed: {_REFUSED}")
        missing = "fe_sendauth: no password supplied"
        self.assertEqual(self.enter(missing, missing), f"SpoolError: connection failed: {missing}")

    def test_passing(self) -> None:
        """A server that starts, or is full, is waited for; that it does not answer, too."""
        answers = refusal("57P03"), refusal("53300"), b"", b"E\0\0", b"E" * 70_000, None
        for answer in answers:
            found = self.enter(_STARTS, answers=[answer])
            self.assertEqual(found, f"StoreAway: connection failed: {_STARTS}")
        for more in (
            'too many connections for role "x"',
            "remaining connection slots are",
            "no more connections allowed (max_client_conn)",
        ):
            text = f"FATAL:  {more}"
            self.assertEqual(self.enter(text), f"StoreAway: connection failed: {text}")

    def test_started(self) -> None:
        """One that has started since it was asked first lets in."""
        self.assertEqual(self.enter(_STARTS, answers=[refusal("28000")]), "entered")

    def test_password(self) -> None:
        """A password that cannot be read is not waited for."""

        def connect() -> None:
            raise FileNotFoundError(2, "No such file or directory", "pw")

        error = self.assertRaises(SpoolError, entered, connect)
        self.assertNotIsInstance(error, StoreAway)
