"""
A header section, field by field.
"""

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.fields import fieldsOf, hasEnd, headerEnd, messageIdOf, separation


class FieldsTests(SynchronousTestCase):
    """
    L{fieldsOf}.
    """

    def test_read(self) -> None:
        """Unfolded, in their order; what is no field is left out."""
        head = b"A: 1\r\n 2\r\nnothing\r\nb : \xff\r\nA:"
        self.assertEqual(fieldsOf(head), [("A", "1 2"), ("b", "\ufffd"), ("A", "")])
        self.assertEqual(fieldsOf(b""), [])


class MessageIdTests(SynchronousTestCase):
    """
    L{messageIdOf}.
    """

    def test_found(self) -> None:
        """The first one, also folded, also what is none; not one in the text."""
        for head, found in (
            (b"Message-ID: <a@b>\r\nmessage-id: <c@d>\r\n\r\nx", "a@b"),
            (b"A: b\r\nMESSAGE-ID :\r\n  <a@b> \r\n\r\n", "a@b"),
            (b"Message-ID: a > b\xff", "a > b\ufffd"),
            (b"Message-ID:\r\nA: b\r\n\r\n", ""),
            (b"A: b\r\n\r\nMessage-ID: <a@b>\r\n", ""),
            (b"X-Message-ID: <a@b>", ""),
            (b"", ""),
        ):
            self.assertEqual(messageIdOf(head), found)


class SectionTests(SynchronousTestCase):
    """
    L{headerEnd} and L{separation}.
    """

    def test_end(self) -> None:
        """In front of the first line that is no field, and continues none."""
        for head, length in (
            (b"", 0),
            (b"A: 1", 4),
            (b"A: 1\r\nB :\r\n \r\n\tc", 16),
            (b"A: 1\r\nno field\r\nB: 2", 4),
            (b"no field\r\nB: 2", 0),
            (b" A: 1\r\nB: 2", 0),
            (b"A: 1\r\n:\r\nB: 2", 4),
            (b"From a@b Mon\r\nA: 1\r\nno", 18),
            (b">From a@b Mon\r\nA: 1", 19),
        ):
            self.assertEqual(headerEnd(head), length, repr(head))

    def test_hasEnd(self) -> None:
        """An empty line, or a whole line that is no field; half a line could be one."""
        for first, isThere in (
            (b"A: 1\r\n\r\nx", True),
            (b"A: 1\r\n\r\n", True),
            (b"\r\nx", True),
            (b"A: 1\r\nno field\r\nB", True),
            (b"A: 1\r\nno", False),
            (b"A: 1\r\nB", False),
            (b"A: 1", False),
            (b"text without an end", True),
        ):
            self.assertIs(hasEnd(first), isThere, repr(first))

    def test_separation(self) -> None:
        """A line end, where there is no empty line behind the fields."""
        for header, following, wanted in (
            (b"A: 1", b"\r\n\r\nx", b""),
            (b"A: 1", b"\r\nx", b"\r\n"),
            (b"A: 1", b"\r\n", b"\r\n"),
            (b"", b"\r\nx", b""),
            (b"", b"x\r\n", b"\r\n"),
            (b"", b"", b"\r\n"),
        ):
            self.assertEqual(separation(header, following), wanted)
