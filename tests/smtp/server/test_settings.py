"""
What stands behind a session.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import Work
from deferrals.smtp.server.settings import Backend
from tests.harness import GREETING, Bench, gate

MAIL = ("MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>", "DATA", "text", ".")


class BackendTests(SynchronousTestCase):
    """
    L{Backend}.
    """

    def test_byName(self) -> None:
        """Nothing is given by its place: two that change places would pass every check."""
        self.assertTrue(all(field.kw_only for field in attrs.fields(Backend)))

    def test_ownLimits(self) -> None:
        """Backends that are given no connection limits count each for itself."""
        one, two = Bench().backend, Bench().backend
        self.assertIsNot(one.connectionLimits, two.connectionLimits)

    def test_authenticator(self) -> None:
        """Without an authenticator no client can log in, whatever the listener says."""
        settings: dict[str, Any] = {"auth": "offered", "auth_without_tls": True}
        for backend, wanted in (({}, False), ({"authenticator": gate(ann=b"x")}, True)):
            offered = Bench(backend=backend, **settings).say(*GREETING)
            self.assertEqual(any("AUTH" in line for line in offered), wanted)

    def test_binary(self) -> None:
        """BINARYMIME is offered where every delivery takes it."""
        for binary in (False, True):
            offered = Bench(backend={"binary": binary}).say(*GREETING)
            self.assertEqual(any("BINARYMIME" in line for line in offered), binary)

    def test_attempt(self) -> None:
        """Where delivery comes first, C{attempt} has the message, and C{release} has not."""
        tried: list[Work] = []

        def attempt(work: Work, handsBack: bool) -> Any:
            tried.append(work)
            return succeed({})

        bench = Bench(backend={"attempt": attempt})
        bench.say(*GREETING, *MAIL)
        self.assertEqual((len(tried), bench.works), (1, []))
        bench = Bench()
        bench.say(*GREETING, *MAIL)
        self.assertEqual(len(bench.works), 1)
