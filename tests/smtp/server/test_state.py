"""
How far a session has come, and which commands may come.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.listener import ListenerSettings
from deferrals.model.reply import R503_HELO_FIRST, R530_AUTH_FIRST, R530_STARTTLS_FIRST
from deferrals.model.transaction import Phase
from deferrals.smtp.server.state import SessionState


def state(**settings: Any) -> SessionState:
    return SessionState(ListenerSettings(hostname="mx.test", **settings))


class RefusalTests(SynchronousTestCase):
    """
    Why a command may not come.
    """

    def test_phase(self) -> None:
        """A phase is left by the command that may come in it."""
        one = state()
        self.assertEqual(one.refusal("MAIL"), R503_HELO_FIRST)
        self.assertIsNone(one.refusal("NOOP"))
        one.phase = Phase.READY
        self.assertIsNone(one.refusal("MAIL"))
        self.assertIsNotNone(one.refusal("RCPT"))

    def test_encryption(self) -> None:
        """Where TLS is required, nothing else comes before it (RFC 3207 section 4)."""
        one = state(tls="required", certificates="some")
        one.phase = Phase.READY
        for verb in ("MAIL", "AUTH", "VRFY", "XCLIENT"):
            self.assertEqual(one.refusal(verb), R530_STARTTLS_FIRST, verb)
        for verb in ("EHLO", "NOOP", "STARTTLS", "QUIT"):
            self.assertIsNone(one.refusal(verb), verb)
        one.tls = "TLSv1.3"
        self.assertIsNone(one.refusal("MAIL"))

    def test_authentication(self) -> None:
        """Where authentication is required, mail waits for it (RFC 4954 section 6)."""
        one = state(auth="required")
        one.phase = Phase.READY
        self.assertEqual(one.refusal("MAIL"), R530_AUTH_FIRST)
        for verb in ("AUTH", "STARTTLS", "RSET", "XCLIENT"):
            self.assertIsNone(one.refusal(verb), verb)
        one.user = ""
        self.assertIsNone(one.refusal("MAIL"))

    def test_encryptionFirst(self) -> None:
        """Of two things that are missing, the first one is told."""
        one = state(tls="required", certificates="some", auth="required")
        self.assertEqual(one.refusal("MAIL"), R530_STARTTLS_FIRST)


class IdleTests(SynchronousTestCase):
    """
    Whether there is a transaction.
    """

    def test_phases(self) -> None:
        """Before MAIL there is none."""
        one, found = state(), []
        for phase in Phase:
            one.phase = phase
            found.append(one.isIdle)
        self.assertEqual(found, [True, True, False, False, False])
