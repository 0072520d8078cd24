"""
What we write into a header is right, whoever says it.
"""

from __future__ import annotations

import email
import email.header
import email.policy

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.headertext import isFieldName
from deferrals.model.text import cleaned, oneLine
from deferrals.model.trace import Head, field
from deferrals.model.verdict import Marks

TEXT = st.text(max_size=300) | st.text("ab =?\u00fc\U0001f600", max_size=1200)


def decoded(data: bytes, name: str) -> str:
    """
    What a reader shows, its blanks as one.
    """
    message = email.message_from_bytes(data, policy=email.policy.compat32)
    text = str(email.header.make_header(email.header.decode_header(str(message[name]))))
    return " ".join(text.replace("\r\n", "").split())


class HeaderTextTests(SynchronousTestCase):
    """
    L{field} and what is put in front of a Subject.
    """

    def check(self, data: bytes) -> None:
        """
        One field: ASCII, printable, no line too long, none of blanks alone.
        """
        self.assertTrue(data.endswith(b"\r\n"))
        for number, line in enumerate(data[:-2].split(b"\r\n")):
            self.assertTrue(line.decode("ascii").isprintable(), line)
            self.assertLessEqual(len(line), 998)
            self.assertTrue(number == 0 or (line.startswith(b" ") and line.strip()), data)

    @given(TEXT)
    def test_field(self, value: str) -> None:
        """What goes in comes out decoded."""
        data = field("X-Test", value.strip())
        self.check(data)
        self.assertEqual(decoded(data, "X-Test"), " ".join(cleaned(value).split()))

    @given(TEXT.filter(str.strip), st.sampled_from(["", "hello", "=?utf-8?q?=C3=BC?=", "x" * 980]))
    def test_subject(self, prefix: str, subject: str) -> None:
        """What is put in front of a Subject, too, and the Subject stays as it is."""
        head = b"From: a\r\nSubject: %s\r\nTo: b" % subject.encode()
        data = Head(head).marked(Marks(subjectPrefix=f"{prefix.strip()} "))
        self.check(data.removeprefix(b"From: a\r\n").removesuffix(b"To: b"))
        self.assertIn(subject.encode(), data)
        wanted = f"{oneLine(prefix.strip())} {decoded(head, 'Subject')}"
        self.assertEqual("".join(decoded(data, "Subject").split()), "".join(wanted.split()))

    def test_examples(self) -> None:
        """Umlauts; a value that cannot be folded; one that only looks encoded."""
        tagged = Head(b"Subject: hello").marked(Marks(subjectPrefix="[M\u00fcll] "))
        self.assertEqual(tagged, b"Subject: =?utf-8?b?W03DvGxsXQ==?= hello")
        self.check(field("X", "x" * 1854))
        self.assertEqual(decoded(field("X", "=?utf-8?q?a?="), "X"), "=?utf-8?q?a?=")

    def test_names(self) -> None:
        """A name is what RFC 5322 says."""
        for name in ("X", "X-Spam_1", "!"):
            self.assertTrue(isFieldName(name))
        for name in ("", "X Y", "X:", "X\r\n", "\u00fc", "x" * 201):
            self.assertFalse(isFieldName(name))
            self.assertEqual(field(name, "x"), b"")
