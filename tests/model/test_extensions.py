"""
MAIL and RCPT with parameters.
"""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import PeerError
from deferrals.model.envelope import (
    Form,
    Parameters,
)
from deferrals.model.extensions import decodeXtext, encodeXtext, parseMail, parseRcpt
from tests.characters import anyText
from tests.requirements import requirement

ALL = {
    *("SIZE", "8BITMIME", "SMTPUTF8", "DSN", "AUTH", "REQUIRETLS", "DEFERRALS", "PRDR"),
    "BINARYMIME",
}


class MailTests(SynchronousTestCase):
    """
    L{parseMail}.
    """

    def refusal(self, rest: str, offered: set[str] = ALL) -> int:
        error = self.assertRaises(PeerError, parseMail, rest, offered)
        return int(error.reply.code)

    def test_all(self) -> None:
        """Every parameter there is."""
        _, parameters = parseMail(
            "FROM:<a@b.example> SIZE=5 BODY=BINARYMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb"
            " AUTH=c+40d.example REQUIRETLS PRDR",
            ALL,
        )
        self.assertEqual(
            parameters,
            Parameters(Form.PRDR, 5, "BINARYMIME", True, "HDRS", "a+b", "c@d.example", True),
        )

    @requirement("D-3")
    def test_notOffered(self) -> None:
        """A parameter whose keyword was not offered is unknown: 555."""
        for word in ("SIZE=5", "BODY=8BITMIME", "RET=FULL", "DEFERRALS", "PRDR"):
            self.assertEqual(self.refusal(f"FROM:<> {word}", set()), 555)
        self.assertEqual(self.refusal("FROM:<> BODY=BINARYMIME", {"8BITMIME"}), 501)
        self.assertEqual(self.refusal("FROM:<> BODY=BINARYMIME BODY=7BIT", {"8BITMIME"}), 501)

    def test_auth(self) -> None:
        """AUTH is written by who relays, to every server: it is no error, and not believed."""
        for digits in (20, 21, 1000):
            _, parameters = parseMail("FROM:<> SIZE=" + "9" * digits, {"SIZE"})
            self.assertEqual(parameters.size, 10**20 - 1)  # too large, and no malformed number
        _, parameters = parseMail("FROM:<> AUTH=<> SIZE=5", {"SIZE"})
        self.assertEqual((parameters.auth, parameters.size), (None, 5))

    def test_dropped(self) -> None:
        """What only tells more and cannot be read is dropped, and nothing else is."""
        for words in ("ENVID=" + "x" * 101, "ENVID=a=b", "ENVID=+0A", "ENVID=a+zz", "AUTH=nobody"):
            _, parameters = parseMail(f"FROM:<a@b.example> {words} SIZE=5", ALL)
            self.assertEqual((parameters.envid, parameters.auth, parameters.size), (None, None, 5))
        _, parameters = parseMail("FROM:<a@b.example> ENVID=a+2bb", ALL)
        self.assertEqual(parameters.envid, "a+b")

    def test_doubles(self) -> None:
        """Where they do no harm, the last one counts."""
        _, parameters = parseMail(
            "FROM:<a@b.example>\tSIZE=1 SIZE=0000000000000000000000002 BODY=7BIT  BODY=8BITMIME"
            " SMTPUTF8 SMTPUTF8",
            ALL,
        )
        self.assertEqual(parameters, Parameters(size=2, body="8BITMIME", smtputf8=True))

    def test_bad(self) -> None:
        """Bad values, superfluous ones, missing ones and doubles: 501."""
        for words in (
            "SIZE",
            "SIZE=-1",
            "SIZE=1x",
            "SIZE=" + "1" * 20 + "x",
            "BODY=9BIT",
            "SMTPUTF8=1",
            "RET=SOME",
            "ENVID",
            "ENVID=",
            "ENVID=a ENVID=b",
            "RET=FULL RET=FULL",
            "SIZE=\u0663",
            "DEFERRALS=1",
            "DEFERRALS PRDR",
            "PRDR PRDR",
            "=x",
        ):
            self.assertEqual(self.refusal(f"FROM:<a@b.example> {words}"), 501, words)

    def test_space(self) -> None:
        """A blank before the path is tolerated, one within is not."""
        parseMail("FROM: <a@b.example>", ALL)
        self.assertEqual(self.refusal("FROM :<a@b.example>"), 501)
        self.assertEqual(self.refusal("TO:<a@b.example>"), 501)

    def test_utf8(self) -> None:
        """A UTF-8 address without SMTPUTF8 is 553 5.6.7."""
        self.assertEqual(self.refusal("FROM:<\u00e4@b.example>"), 553)
        parseMail("FROM:<\u00e4@b.example> SMTPUTF8", ALL)

    @given(anyText(max_size=60))
    def test_anything(self, text: str) -> None:
        """Any argument is understood, or refused with a reply."""
        try:
            parseMail(f"FROM:{text}", ALL)
        except PeerError as error:
            self.assertGreaterEqual(error.reply.code, 501)


class RcptTests(SynchronousTestCase):
    """
    L{parseRcpt}.
    """

    def test_dsn(self) -> None:
        """NOTIFY and ORCPT (RFC 3461)."""
        recipient = parseRcpt(
            "TO:<a@b.example> NOTIFY=success,FAILURE ORCPT=rfc822;x+2By@z", ALL, False
        )
        self.assertEqual(recipient.notify, frozenset({"SUCCESS", "FAILURE"}))
        self.assertEqual(recipient.orcpt, "rfc822;x+y@z")
        never = parseRcpt("TO:<a@b.example> NOTIFY=NEVER", ALL, False)
        self.assertEqual(never.notify, frozenset({"NEVER"}))

    def test_utf8Orcpt(self) -> None:
        """ORCPT in its UTF-8 form (RFC 6533 §3)."""
        recipient = parseRcpt("TO:<a@b.example> ORCPT=utf-8;\\x{E4}@b.example", ALL, True)
        self.assertEqual(recipient.orcpt, "utf-8;\u00e4@b.example")

    def test_bad(self) -> None:
        """Bad values: 501."""
        for words in (
            "NOTIFY=",
            "NOTIFY=NEVER,SUCCESS",
            "NOTIFY=SOMETIMES",
            "NOTIFY=,DELAY",
            "ORCPT",
            "ORCPT=",
        ):
            error = self.assertRaises(PeerError, parseRcpt, f"TO:<a@b.example> {words}", ALL, True)
            self.assertEqual(error.reply.code, 501, words)

    def test_dropped(self) -> None:
        """An ORCPT that cannot be read is dropped."""
        for word in (
            "nothing",
            "rfc822;",
            "rfc822;a+0Db",
            "rfc822;é@b",
            'rfc822;"a b"@c',
            "r_c;a@b",
            "utf-8;\\x{D800}",
            "utf-8;\\x{0A}",
            "rfc822;" + "x" * 500,
        ):
            recipient = parseRcpt(f"TO:<a@b.example> ORCPT={word} NOTIFY=DELAY,DELAY,", ALL, True)
            self.assertIsNone(recipient.orcpt)
            self.assertEqual(recipient.notify, {"DELAY"})

    def test_strict(self) -> None:
        """Paths as RFC 5321 has them, where they are asked for."""
        for path in ("a@b.example", "<a..b@b.example>", "<a.@b.example>", "< a@b.example>"):
            parseRcpt(f"TO:{path} NOTIFY=NEVER", ALL, False)
            parseMail(f"FROM:{path} SIZE=1", ALL)
            self.assertRaises(PeerError, parseRcpt, f"TO:{path}", ALL, False, True)
            self.assertRaises(PeerError, parseMail, f"FROM:{path}", ALL, True)

    def test_utf8(self) -> None:
        """A UTF-8 recipient without SMTPUTF8 is 553."""
        error = self.assertRaises(PeerError, parseRcpt, "TO:<\u00e4@b.example>", ALL, False)
        self.assertEqual(error.reply.code, 553)


class XtextTests(SynchronousTestCase):
    """
    RFC 3461 §4.
    """

    @given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
    def test_roundTrip(self, text: str) -> None:
        """What was encoded is what is decoded."""
        self.assertEqual(decodeXtext(encodeXtext(text)), text)
