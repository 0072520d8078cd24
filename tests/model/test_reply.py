"""
Replies: reading, writing, and keeping them harmless.
"""

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.reply import (
    KEPT_OCTETS,
    MAX_LINE_OCTETS,
    Reply,
    _addressed,
    _line,
    kept,
)
from deferrals.smtp.client.replies import MAX_REPLY_LINES
from tests.requirements import requirement
from tests.work import linesRun


class ValueTests(SynchronousTestCase):
    """
    What is no reply cannot be made.
    """

    def test_type(self) -> None:
        """A text alone, and other things that are no code."""
        for nonsense in ("550", "550 5.1.1 no", None, 550.0, True, b"550", [550]):
            self.assertRaises(TypeError, Reply, nonsense)
        for enhanced, text in ((5.1, "no"), (b"5.1.1", "no"), ("5.1.1", None), (["5.1.1"], "no")):
            self.assertRaises(TypeError, Reply, 550, enhanced, text)

    def test_code(self) -> None:
        """Codes that do not exist, and enhanced codes that belong to others."""
        for code, enhanced in (
            (99, None),
            (150, None),
            (600, None),
            (-550, None),
            (550, "4.1.1"),
            (250, "5.0.0"),
            (353, "2.0.0"),
            (550, "5.1"),
            (550, "5.1.1\r\n250 ok"),
            (550, "5.1.1\n"),
            (550, "5.1.1000"),
            (550, "5.\u0661.1"),
            (550, ""),
        ):
            self.assertRaises(ValueError, Reply, code, enhanced, "x")
            self.assertRaises(ValueError, Reply, code, enhanced, "x")  # not remembered as valid

    def test_mended(self) -> None:
        """What was stored by mistake can be read; the rest as it is."""
        self.assertEqual(Reply.mended(550, "5.1.1", "no"), Reply(550, "5.1.1", "no"))
        self.assertEqual(Reply.mended(550, "4.1.1", "no"), Reply(550, None, "no"))
        self.assertEqual(Reply.mended(99, None, "no"), Reply(451, None, "no"))


class ParseTests(SynchronousTestCase):
    """
    L{Reply.parse} and L{Reply.parseRefusal}.
    """

    def test_complete(self) -> None:
        """Code, enhanced code and text."""
        self.assertEqual(Reply.parse("550 5.1.1 no such user"), Reply(550, "5.1.1", "no such user"))

    @requirement("D-13")
    def test_withoutEnhanced(self) -> None:
        """A refusal without an enhanced code gets the general one of its class."""
        self.assertEqual(Reply.parseRefusal("450 later"), Reply(450, "4.0.0", "later"))

    def test_bare(self) -> None:
        """A code alone is a reply."""
        self.assertEqual(Reply.parse("250"), Reply(250, None, ""))
        self.assertEqual(Reply.parse("250 2.0.0"), Reply(250, "2.0.0", ""))

    def test_none(self) -> None:
        """What is no reply is refused."""
        for text in ("", "55", "5500 x", "150 x", "550x", "no", "550 4.1.1 wrong class", " 550 x"):
            self.assertRaises(ValueError, Reply.parse, text)

    def test_control(self) -> None:
        """Control characters and line ends are refused: no second reply can be smuggled in."""
        for text in ("550 a\r\n250 ok", "550 a\nb", "550 a\0", "550 a\x7f", "550 \x85"):
            self.assertRaises(ValueError, Reply.parse, text)

    def test_long(self) -> None:
        """More than 512 octets are refused."""
        Reply.parse("550 " + "x" * (MAX_LINE_OCTETS - 4))
        self.assertRaises(ValueError, Reply.parse, "550 " + "x" * (MAX_LINE_OCTETS - 3))

    def test_refusal(self) -> None:
        """A refusal is 4xx or 5xx."""
        for text in ("250 ok", "354 go", "221 bye"):
            self.assertRaises(ValueError, Reply.parseRefusal, text)

    @requirement("D-12")
    def test_551(self) -> None:
        """A 551 must carry the forward path."""
        self.assertRaises(ValueError, Reply.parseRefusal, "551 5.1.6 moved")
        Reply.parseRefusal("551 5.1.6 moved, try <a@example.org>")


class EncodeTests(SynchronousTestCase):
    """
    L{Reply.encode}.
    """

    def test_line(self) -> None:
        """One line."""
        self.assertEqual(Reply(550, "5.1.1", "no").encode(), b"550 5.1.1 no\r\n")
        self.assertEqual(Reply(354, None, "go").encode(), b"354 go\r\n")
        self.assertEqual(Reply(250, "2.0.0").encode(), b"250 2.0.0\r\n")
        self.assertEqual(Reply(250).encode(), b"250\r\n")

    def test_lines(self) -> None:
        """Each line of a multi-line reply has code and enhanced code (RFC 2034)."""
        self.assertEqual(Reply(550, "5.1.1", "a\nb").encode(), b"550-5.1.1 a\r\n550 5.1.1 b\r\n")

    def test_halves(self) -> None:
        """Half a character, as JSON can say it, has octets all the same."""
        for text in ("\ud800", "x\ud800 " * 200):
            Reply(550, "5.7.1", text).encode(utf8=True).decode("utf-8")

    def test_harmless(self) -> None:
        """Control characters from outside become blanks, or are written out."""
        said = Reply(550, None, "a\r\0b\tc\x7f").encode()
        self.assertEqual(said, b"550 a \\x{00}b c\\x{7F}\r\n")

    def test_long(self) -> None:
        """A long text becomes several lines, none longer than 512 octets."""
        for text in ("x" * 2000, "word " * 400, "\u00e4" * 600):
            for utf8 in (True, False):
                lines = Reply(550, "5.1.1", text).encode(utf8).split(b"\r\n")[:-1]
                self.assertTrue(all(len(line) + 2 <= MAX_LINE_OCTETS for line in lines))
                self.assertTrue(all(line.startswith(b"550-5.1.1 ") for line in lines[:-1]))
                self.assertTrue(lines[-1].startswith(b"550 5.1.1 "))

    def test_huge(self) -> None:
        """A text without end is cut, in time that does not grow with it."""
        for text in ("x" * 10_000_000, "x\n" * 5_000_000, "é " * 5_000_000, " " * 10_000_000):
            reply = Reply(550, "5.7.1", text)
            self.assertLess(len(reply.encode(utf8=True)), 200_000)
            self.assertLessEqual(reply.encode().count(b"\n"), MAX_REPLY_LINES)
            self.assertLess(len(str(reply)), 200_000)
        self.assertIs(type(Reply(558, None, "550 no\n" * 5000).lines()[4999]), str)

    def test_longLine(self) -> None:
        """It is read once, however many pieces it makes."""
        one, two = (linesRun(Reply(550, None, "é " * count).lines) for count in (5000, 10000))
        self.assertLess(two, 2.1 * one)
        self.assertEqual("".join(Reply(550, None, "é" * 9999).lines()), "é" * 9999)

    def test_utf8(self) -> None:
        """UTF-8 is for those who asked for it (RFC 6531)."""
        reply = Reply(250, "2.1.5", "<\u00e4@example.net> ok")
        self.assertEqual(reply.encode(), b"250 2.1.5 <?@example.net> ok\r\n")
        self.assertEqual(reply.encode(True), "250 2.1.5 <\u00e4@example.net> ok\r\n".encode())


class RecipientTests(SynchronousTestCase):
    """
    Replies that stand for a recipient.
    """

    @requirement("D-12")
    @requirement("P-8")
    def test_code(self) -> None:
        """A code that RCPT TO does not know becomes the general one of its class."""
        self.assertEqual(Reply(554, "5.7.1", "no").forRecipient(), Reply(550, "5.7.1", "no"))
        self.assertEqual(Reply(421, "4.3.2", "no").forRecipient(), Reply(451, "4.3.2", "no"))
        self.assertEqual(Reply(452, "4.3.1", "no").forRecipient(), Reply(452, "4.3.1", "no"))

    @requirement("D-12")
    def test_addressed(self) -> None:
        """The address stands in front; a 551 has its own path."""
        self.assertEqual(Reply(550, "5.1.1", "no").addressed("a@b.c").text, "<a@b.c> no")
        moved = Reply(551, "5.1.6", "try <b@b.c>")
        self.assertEqual(moved.addressed("a@b.c"), moved)


class RememberedTests(SynchronousTestCase):
    """
    Replies that are remembered as they are said.
    """

    def test_long(self) -> None:
        """Long ones are not, of which a next hop could make many: they would stay in memory."""
        before = _line.cache_info(), _addressed.cache_info()
        reply = Reply(550, "5.0.0", "no " * 10_000)
        reply.addressed("a@b.example").encode(False)
        self.assertIn("no no", str(reply))
        self.assertEqual((_line.cache_info(), _addressed.cache_info()), before)


class KeptTests(SynchronousTestCase):
    """
    L{kept}.
    """

    def test_short(self) -> None:
        """What is short and harmless stays as it is."""
        reply = Reply(550, "5.1.1", "no such recipient\nhere, \N{SNOWMAN}")
        self.assertIs(kept(reply), reply)

    def test_long(self) -> None:
        """What is long ends, at no half of a character."""
        for text in (
            "x" * 5000,
            "\N{SNOWMAN}" * 5000,
            "x" + "\N{GRINNING FACE}" * 400,
            "\n" * 5000,
        ):
            found = kept(Reply(550, "5.1.1", text))
            self.assertTrue(text.startswith(found.text))
            self.assertIn(KEPT_OCTETS - len(found.text.encode()), range(4))

    def test_harmless(self) -> None:
        """There are no control characters in it."""
        found = kept(Reply(550, None, "a\x1b[2J\x9b\x00\x7f\ud800b\nc"))
        self.assertEqual(found.text, "a\\x{1B}[2J\\x{9B}\\x{00}\\x{7F}\\x{D800}b\nc")


class PiecesTests(SynchronousTestCase):
    """
    A text that does not fit into one line.
    """

    def test_pieces(self) -> None:
        """All of it is there, in lines that fit, broken at blanks where there are any."""
        for text in ("word " * 1000, "x" * 3000, "\N{SNOWMAN}" * 1000, "x" * 505 + " " * 600 + "y"):
            lines = Reply(550, "5.1.1", text).lines()
            self.assertTrue(all(len(line.encode()) <= MAX_LINE_OCTETS for line in lines))
            self.assertEqual("".join(lines).replace(" ", ""), text.replace(" ", ""))


class ReferenceTests(SynchronousTestCase):
    """
    L{Reply.referring}.
    """

    def last(self, reply: Reply, utf8: bool = False) -> str:
        """
        @return: the last line that is said of a reply with a reference, which none
            of its lines makes too long.
        """
        octets = reply.referring("id 1M84B9SJQ005Q").encode(utf8)
        lines = octets.split(b"\r\n")[:-1]
        self.assertLessEqual(max(map(len, lines)), MAX_LINE_OCTETS - 2)
        coded = reply.referring("id 1M84B9SJQ005Q").coded(4)
        self.assertLessEqual(max(map(len, coded)), MAX_LINE_OCTETS - 6)
        self.assertTrue(coded[-1].endswith(" (id 1M84B9SJQ005Q)"), coded[-1][-40:])
        return lines[-1].decode("utf-8")

    def test_end(self) -> None:
        """It ends the last line, whatever the text is."""
        self.assertEqual(self.last(Reply(550, "5.7.1", "no")), "550 5.7.1 no (id 1M84B9SJQ005Q)")
        self.assertEqual(self.last(Reply(550, None, "")), "550 (id 1M84B9SJQ005Q)")
        self.assertEqual(self.last(Reply(550, None, "a\nb")), "550 b (id 1M84B9SJQ005Q)")

    def test_long(self) -> None:
        """The text is cut, never the reference."""
        for text in (
            *("x" * length for length in range(440, 520)),
            *("x" * 5000, "x " * 50000, "\n" * 5000, "\x1b" * 70000, "\u2764" * 30000, "a\r" * 999),
            "\n".join(["y" * 490] * 600),
        ):
            for utf8 in (False, True):
                said = self.last(Reply(451, "4.100.100", text), utf8)
                self.assertTrue(said.endswith(" (id 1M84B9SJQ005Q)"), said[-40:])

    def test_none(self) -> None:
        """Without a reference a reply stays as it is."""
        self.assertEqual(Reply(550, None, "no").referring(""), Reply(550, None, "no"))
