"""
Commands that need no more than a reply.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.harness import GREETING, Bench

RCPT = "RCPT TO:<postmaster@x.test>"


class SimpleTests(SynchronousTestCase):
    """
    L{SimpleCommands<deferrals.smtp.server.simple.SimpleCommands>}.
    """

    def setUp(self) -> None:
        self.bench = Bench()
        self.bench.say(*GREETING)

    def code(self, *lines: str) -> str:
        """
        @return: that of the last reply.
        """
        return self.bench.say(*lines)[-1][:3]

    def test_replies(self) -> None:
        """Each has its own, also within a transaction, and leaves that alone."""
        for command, code in (
            ("NOOP", "250"),
            ("NOOP x", "250"),
            ("HELP", "214"),
            ("VRFY someone", "252"),
            ("EXPN list", "502"),
        ):
            self.assertEqual(self.code(command), code)
            self.assertEqual(self.code("MAIL FROM:<a@b.example>", command), code)
            self.assertEqual(self.code(RCPT), "250", command)
            self.assertEqual(self.code("RSET"), "250")

    def test_arguments(self) -> None:
        """VRFY needs one, RSET and QUIT take none: what they would do is not done."""
        self.bench.say("MAIL FROM:<a@b.example>")
        for command in ("VRFY", "RSET x", "QUIT x"):
            self.assertEqual(self.code(command), "501")
        self.assertEqual(self.code(RCPT), "250")
        self.assertFalse(self.bench.closed)

    def test_reset(self) -> None:
        """RSET forgets the transaction, QUIT the connection, too."""
        self.assertEqual(self.code("MAIL FROM:<a@b.example>", "RSET", RCPT), "503")
        self.assertEqual(self.code("MAIL FROM:<a@b.example>", "QUIT"), "221")
        self.assertTrue(self.bench.closed)
        self.assertEqual(self.bench.status.counted("transactions", "aborted"), 2)
