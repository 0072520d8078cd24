"""
Any octets in any state, in pieces of any size.
"""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.octets import STATES, checkReplies, checkSame, said
from tests.rigs import examples, some

_WORDS = [
    *(b"EHLO c\r\n", b"HELO c\r\n", b"LHLO c\r\n", b"EHLO \r\n", b"NOOP\r\n", b"RSET\r\n"),
    *(b"QUIT\r\n", b"HELP\r\n", b"VRFY x\r\n", b"EXPN x\r\n", b"STARTTLS\r\n", b"TURN\r\n"),
    *(b"MAIL FROM:<>\r\n", b"MAIL FROM:<a@example.com> DEFERRALS\r\n", b"MAIL FROM:<a\r\n"),
    *(b"MAIL FROM:<a@example.com> PRDR SMTPUTF8\r\n", b"MAIL FROM:<a@b.c> SIZE=9999\r\n"),
    *(b"MAIL FROM:<a@example.com> BODY=BINARYMIME RET=HDRS ENVID=x\r\n", b"mail from: <>\r\n"),
    *(b"RCPT TO:<one@example.net>\r\n", b"RCPT TO:<two@example.net> NOTIFY=NEVER\r\n"),
    *(b"RCPT TO:<old-user@example.net>\r\n", b"RCPT TO:<postmaster>\r\n", b"RCPT TO:<>\r\n"),
    *(b"RCPT TO:<d\xc3\xbcrer@example.net>\r\n", b"RCPT TO:<\xff@example.net>\r\n"),
    *(b"DATA\r\n", b"DATA x\r\n", b"BDAT 5\r\n", b"BDAT 0 LAST\r\n", b"BDAT 3 LAST\r\n"),
    *(b"BDAT\r\n", b"BDAT x\r\n", b"BDAT 4000\r\n", b"BDAT 99999999999999999999 LAST\r\n"),
    *(b"AUTH PLAIN\r\n", b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n", b"AUTH LOGIN\r\n", b"AUTH X\r\n"),
    *(b"AUTH PLAIN AHVzZXIAd3Jvbmc=\r\n", b"dXNlcg==\r\n", b"c2VjcmV0\r\n", b"*\r\n", b"=\r\n"),
    *(b"AUTH SCRAM-SHA-256 biwsbj11c2VyLHI9YWJj\r\n", b"XCLIENT ADDR=192.0.2.9\r\n"),
    *(b"\r\n.\r\n", b".\r\n", b"\n.\n", b"\r.\r", b"\r\n.\n", b"\n.\r\n", b"\r\n.\r", b"..\r\n"),
    *(b"\r", b"\n", b"\r\n", b".", b"\0", b" ", b"Subject: x\r\n\r\n", b"x" * 600, b"y" * 4100),
    *(b"Received: from a\r\n", b"\xff\xfe", b"\xc3\xa4"),
]
_OCTETS = st.lists(
    st.one_of(st.sampled_from(_WORDS), st.binary(max_size=12)), min_size=1, max_size=12
).map(b"".join)


class AnyOctetsTests(SynchronousTestCase):
    """
    A session's promises that hold for everybody.
    """

    @settings(deadline=None, max_examples=examples(150), suppress_health_check=list(HealthCheck))
    @given(
        _OCTETS,
        st.sampled_from(sorted(STATES)),
        st.lists(st.integers(1, 40), max_size=8),
        st.sampled_from(["smtp", "lmtp"]),
    )
    def test_same(self, data: bytes, state: str, sizes: list[int], protocol: str) -> None:
        """
        Any octets in any state, whole, octet by octet or in pieces: the same
        well-formed replies, the same mail, and no logged exception.
        """
        checkSame(data, state, sizes, protocol)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_words(self) -> None:
        """Each command, in each state."""
        for state in STATES:
            for word in some(_WORDS):
                checkSame(word + b"NOOP\r\n", state, [1, 2])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_differing(self) -> None:
        """Recipients of several cohorts, whom a splitting listener would weigh by the piece."""
        recipients = [b"one@a.example", *(b"postmaster@%d.example" % n for n in range(3))]
        data = b"".join(b"RCPT TO:<%s>\r\n" % recipient for recipient in recipients)
        checkSame(data, "sender", [3, 5])

    def test_replies(self) -> None:
        """What is no reply is seen."""
        for bad in (b"250 ok", b"250 ok\n", b"250-ok\r\n", b"250-ok\r\n251 ok\r\n", b"25 x\r\n"):
            self.assertRaises(AssertionError, checkReplies, bad)
        self.assertRaises(AssertionError, checkReplies, b"250 " + b"x" * 600 + b"\r\n")
        checkReplies(said([b"NOOP\r\nNOOP\r\n"], "greeted")[0])
