"""
Tests for L{deferrals.smtp.server.greetings}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.harness import Bench


class GreetingsTests(SynchronousTestCase):
    """
    HELO, EHLO and LHLO.
    """

    def test_name(self) -> None:
        """A name that is longer than DNS has is taken, and kept as far as that."""
        bench = Bench()
        bench.say(
            "EHLO " + "x" * 900, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>"
        )
        bench.say("DATA", "text", ".")
        self.assertEqual(bench.works[0].envelope.client.helo, "x" * 255)

    def test_noName(self) -> None:
        """What no host is called is refused, and the session is not begun by it."""
        bench = Bench()
        bench.say()
        for line in (b"EHLO", b"HELO <x>", b"EHLO a b", b'HELO a"b'):
            bench.send(line + b"\r\n")
            self.assertTrue(bench.take().startswith(b"501 5.5.4"), line)
        bench.send(b"MAIL FROM:<a@b.example>\r\n")
        self.assertTrue(bench.take().startswith(b"503 "))

    def test_offered(self) -> None:
        """HELO offers nothing; a parameter of what was not offered is refused."""
        bench = Bench()
        bench.say("HELO c")
        bench.send(b"MAIL FROM:<a@b.example> SIZE=9\r\n")
        self.assertTrue(bench.take().startswith(b"555 "))
        bench.send(b"EHLO c\r\n")
        self.assertIn(b"250-PRDR\r\n", bench.take())
        bench.send(b"MAIL FROM:<a@b.example> SIZE=9\r\n")
        self.assertTrue(bench.take().startswith(b"250 "))
