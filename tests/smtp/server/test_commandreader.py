"""
Octets into command lines.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.smtp.server.commandreader import MAX_KEPT_OCTETS, CommandReader, Fault, LineForm


def lines(octets: bytes, step: int, form: LineForm | None = None) -> list[bytes | Fault]:
    """
    @return: what a reader takes for lines, fed in pieces of C{step} octets.
    """
    reader, found = CommandReader(form or LineForm(most=12)), []
    for start in range(0, len(octets), step):
        reader.feed(octets[start : start + step])
        while (line := reader.line()) is not None:
            found.append(line)
            if line is Fault.BINARY:
                reader.clear()
    return found


class LineTests(SynchronousTestCase):
    """
    Lines, in whatever pieces they come.
    """

    def check(self, octets: bytes, *wanted: bytes | Fault, form: LineForm | None = None) -> None:
        for step in (1, 2, 5, 13, 1000):
            self.assertEqual(lines(octets, step, form), list(wanted), step)

    def test_lines(self) -> None:
        """A line ends with CRLF, and has neither of them."""
        self.check(b"NOOP\r\n\r\nQUIT\r\nMAI", b"NOOP", b"", b"QUIT")

    def test_carriageReturns(self) -> None:
        """A CR that stands alone is in the line."""
        self.check(b"NO\rOP\r\r\n", b"NO\rOP\r")

    def test_bareLF(self) -> None:
        """What ends with LF alone is no line; neither is an LF at the beginning."""
        self.check(b"NOOP\n\nNOOP\r\n", Fault.BARE_LF, Fault.BARE_LF, b"NOOP")

    def test_longest(self) -> None:
        """The CRLF counts for the length."""
        self.check(b"0123456789\r\n01234567890\r\nNOOP\r\n", b"0123456789", Fault.TOO_LONG, b"NOOP")

    def test_withoutEnd(self) -> None:
        """What is much too long is not kept, and ends with the next line end."""
        self.check(b"x" * 100 + b"\r\nNOOP\r\n", Fault.TOO_LONG, b"NOOP")
        self.check(b"x" * 100 + b"\nNOOP\r\n", Fault.BARE_LF, b"NOOP")
        reader = CommandReader(LineForm(most=12))
        for _ in range(100):
            reader.feed(b"x" * 10)
            self.assertIsNone(reader.line())
            self.assertLessEqual(reader.waiting, 12)

    def test_dropped(self) -> None:
        """The beginning of a line that is too long is kept, in whatever pieces it comes."""
        octets = b"NOOP\r\n" + bytes(range(64, 90)) * 20 + b"\r\nRCPT 12345\r\nNOOP\r\n"
        for step in (1, 2, 5, 13, 1000):
            reader, found = CommandReader(LineForm(most=12)), []
            for start in range(0, len(octets), step):
                reader.feed(octets[start : start + step])
                while (line := reader.line()) is not None:
                    found.append(reader.dropped if line is Fault.TOO_LONG else line)
            long, short = found[1], found[2]
            self.assertTrue(octets[6:].startswith(long))
            self.assertGreater(len(long), 12)
            self.assertLessEqual(len(long), MAX_KEPT_OCTETS)
            self.assertEqual(short, b"RCPT 12345"[: len(short)])
            self.assertEqual(found[-1], b"NOOP")

    def test_binary(self) -> None:
        """What begins as no text does is told at its first octet."""
        for octet in (b"\x16", b"\x00", b"\x80"):
            self.check(b"NOOP\r\n" + octet, b"NOOP", Fault.BINARY)
        self.check(b"\xc3\xa4\r\n\tx\r\n", b"\xc3\xa4", b"\tx")

    def test_binaryInALongLine(self) -> None:
        """The rest of a line that is dropped may begin with anything."""
        self.check(b"x" * 20 + b"\x16" * 20 + b"\r\nNOOP\r\n", Fault.TOO_LONG, b"NOOP")

    def test_otherForm(self) -> None:
        """Lines of another form may be longer, or begin with any octet."""
        form = LineForm(most=20, isText=False)
        self.check(b"\x16\x03\r\n" + b"x" * 18 + b"\r\n", b"\x16\x03", b"x" * 18, form=form)


class OctetTests(SynchronousTestCase):
    """
    What is no line.
    """

    def test_between(self) -> None:
        """Octets are taken between lines, as many as are wanted or all there are."""
        reader = CommandReader(LineForm())
        reader.feed(b"BDAT 3\r\nab")
        self.assertEqual(reader.line(), b"BDAT 3")
        self.assertEqual(reader.octets(3), b"ab")
        reader.feed(b"cNOOP\r\nrest")
        self.assertEqual(reader.octets(1), b"c")
        self.assertEqual((reader.line(), reader.waiting), (b"NOOP", 4))
        self.assertEqual((reader.octets(), reader.waiting), (b"rest", 0))

    def test_givenBack(self) -> None:
        """What is given back comes first."""
        reader = CommandReader(LineForm())
        reader.feed(b"abNOOP\r\nQUIT\r\n")
        self.assertEqual(reader.octets(8), b"abNOOP\r\n")
        reader.giveBack(b"NOOP\r\n")
        self.assertEqual([reader.line(), reader.line()], [b"NOOP", b"QUIT"])

    def test_next(self) -> None:
        """A verb is the next one's, in any case, once its line is whole."""
        reader = CommandReader(LineForm())
        for octets, wanted in (
            (b"rcpt TO:<a@b.example>\r\n", True),
            (b"RCPT TO:<a@b.example>", False),
            (b"RCPT\nTO:<a@b.example>\r\n", False),
            (b"DATA\r\nRCPT TO:<a@b.example>\r\n", False),
            (b"", False),
        ):
            reader.clear()
            reader.feed(octets)
            self.assertEqual((reader.isNext(b"RCPT"), reader.waiting), (wanted, len(octets)))
