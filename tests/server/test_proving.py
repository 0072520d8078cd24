"""
What a message proves of its sender.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.admission import Proofs
from deferrals.model.authentication import Authentication, Signature
from deferrals.model.envelope import Envelope
from deferrals.model.spf import Finding
from deferrals.model.spfrecord import SPFResult
from deferrals.server.proving import Prover
from deferrals.testing import makeEnvelope, makeMessage

MESSAGE = makeMessage(b"From: A Friend <friend@mail.example.org>\r\n\r\nhello\r\n")


class FakeSPF:
    """
    Proves what it was told.
    """

    domain: str | None = None

    def proved(self, envelope: Envelope) -> Deferred[str | None]:
        return succeed(self.domain)


class ProverTests(SynchronousTestCase):
    """
    L{Prover}.
    """

    def setUp(self) -> None:
        self.spf = FakeSPF()
        self.found: Any = Authentication()
        spf: Any = self.spf
        self.prover = Prover(spf, lambda *_: self.answer())

    def answer(self) -> Deferred[Authentication]:
        return fail(self.found) if isinstance(self.found, Exception) else succeed(self.found)

    def proofs(self, *args: Any) -> Proofs:
        return self.successResultOf(Deferred.fromCoroutine(self.prover.proofs(*args)))

    def test_before(self) -> None:
        """Before the data only SPF can be known."""
        self.assertEqual(self.proofs(makeEnvelope()), Proofs())
        self.spf.domain = "Example.org"
        self.assertEqual(self.proofs(makeEnvelope()), Proofs(spf="example.org"))

    def test_signed(self) -> None:
        """A signature counts that is whole, and of the author's domain or the sender's."""
        self.found = Authentication(
            dkim=(
                Signature("pass", "Example.org"),
                Signature("fail", "mail.example.org"),
                Signature("pass", "bulk.example"),
                Signature("pass", "ample.org"),
                Signature("pass", "example.com"),
            )
        )
        found = self.proofs(makeEnvelope("sender@example.com"), MESSAGE)
        self.assertEqual(found.dkim, {"example.org", "example.com"})

    def test_spf(self) -> None:
        """SPF counts where it passes."""
        for result, domain in ((SPFResult.PASS, "example.com"), (SPFResult.FAIL, "")):
            self.found = Authentication(spf=Finding(result, "Example.com", ""))
            self.assertEqual(self.proofs(makeEnvelope(), MESSAGE).spf, domain)

    def test_gone(self) -> None:
        """Of a message that can be read no longer, it is what its envelope proves."""
        self.found, self.spf.domain = OSError("gone"), "example.org"
        self.assertEqual(self.proofs(makeEnvelope(), MESSAGE), Proofs(spf="example.org"))
