"""
What we write into a header is right, whoever says it.
"""

from __future__ import annotations

import email
import email.header
import email.policy
import re

import attrs
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.dsn import Notification
from deferrals.model.envelope import Client
from deferrals.model.headertext import isFieldName
from deferrals.model.reply import Reply
from deferrals.model.text import cleaned, oneLine
from deferrals.model.trace import Head, deliveredTo, field, fields, received, returnPath
from deferrals.model.verdict import Marks
from deferrals.testing import makeAddressees, makeEnvelope
from tests.characters import CHARACTERS, anyText

UNFOLDED = re.compile(rb"\r\n(?![ \t]|\Z)")

NAMES = st.from_regex(r"[!-9;-~]{1,200}", fullmatch=True, alphabet=CHARACTERS)
TEXT = anyText(max_size=300) | st.text("ab =?\u00fc\U0001f600", max_size=1200)


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
    @example("x" * 80 + "\t" * 80)
    def test_field(self, value: str) -> None:
        """What goes in comes out decoded."""
        data = field("X-Test", value)
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

    @given(
        st.dictionaries(
            st.from_regex(r"[!-9;-~]{1,200}", fullmatch=True, alphabet=CHARACTERS), TEXT, max_size=5
        ),
        TEXT,
    )
    def test_marks(self, headers: dict[str, str], prefix: str) -> None:
        """All that a stage says is one header section, and nothing else."""
        marks = Marks(tuple(headers.items()), subjectPrefix=prefix)
        data = fields(marks) + Head(b"Subject: x").marked(marks)
        found = [line.partition(b":")[0].decode() for line in UNFOLDED.split(data)]
        self.assertEqual(found, [*headers, "Subject"])
        self.assertTrue(all(len(line) <= 998 for line in data.split(b"\r\n")))
        data.decode("ascii")

    @example("h" * 2000, "n" * 2000, "t" * 2000, None)
    @given(TEXT, TEXT, TEXT, st.none() | TEXT)
    def test_trace(self, helo: str, name: str, tls: str, user: str | None) -> None:
        """Nor do our own fields carry what a client says into another line."""
        client = Client("192.0.2.1", 1, helo, hostname=name, tls=tls, user=user)
        envelope = attrs.evolve(makeEnvelope(), client=client)
        data = received(envelope, "mx.example.net", "a@example.net")
        self.assertEqual(len(UNFOLDED.split(data.removesuffix(b"\r\n"))), 1)
        for line in data.split(b"\r\n"):
            self.assertLessEqual(len(line), 998)
            self.assertTrue(line.decode("ascii").replace("\t", " ").isprintable(), line)

    def test_addresses(self) -> None:
        """An address is in UTF-8 where the message may have it, otherwise written out."""
        envelope = makeEnvelope("m\xfcller@example.com")
        self.assertEqual(returnPath(envelope), b"Return-Path: <m\\x{FC}ller@example.com>\r\n")
        self.assertEqual(deliveredTo("\xfc@x.y", envelope), b"Delivered-To: \\x{FC}@x.y\r\n")
        self.assertIn(b"for <\\x{FC}@x.y>;", received(envelope, "mx", "\xfc@x.y"))
        envelope = makeEnvelope("m\xfcller@example.com", smtputf8=True)
        self.assertEqual(returnPath(envelope).decode(), "Return-Path: <m\xfcller@example.com>\r\n")
        self.assertEqual(deliveredTo("\xfc@x.y", envelope).decode(), "Delivered-To: \xfc@x.y\r\n")

    @given(TEXT, TEXT)
    def test_notification(self, text: str, helo: str) -> None:
        """What a next hop has said is in a notification's fields, decoded, in lines that fit."""
        said = f"x{cleaned(text)}"
        one = attrs.evolve(
            makeAddressees("a@example.net")[0],
            action="failed",
            reply=Reply(550, "5.1.1", said),
            host="mx.there.example",
        )
        client = attrs.evolve(makeEnvelope().client, helo=helo)
        envelope = attrs.evolve(makeEnvelope(), client=client)
        data, _ = Notification(envelope, [one], b"", None, "mx.example.net", "X", 0.0).build()
        status = data.split(b"message/delivery-status", 1)[1].partition(b"\r\n\r\n")[2]
        status = status.partition(b"\r\n\r\n")[2].partition(b"\r\n--")[0]
        for line in status.split(b"\r\n"):
            self.assertLessEqual(len(line), 998)
            self.assertTrue(line.decode("ascii").isprintable())
        wanted = " ".join(f"smtp; 550 5.1.1 {said}".split())
        self.assertEqual(decoded(status, "Diagnostic-Code"), wanted)

    def test_examples(self) -> None:
        """Umlauts; a value that cannot be folded; one that only looks encoded."""
        tagged = Head(b"Subject: hello").marked(Marks(subjectPrefix="[M\u00fcll] "))
        self.assertEqual(tagged, b"Subject: =?utf-8?b?W03DvGxsXQ==?= hello")
        self.check(field("X", "x" * 1854))
        self.assertEqual(decoded(field("X", "=?utf-8?q?a?="), "X"), "=?utf-8?q?a?=")
        # what has a structure keeps it
        said = field("Reply-To", "M\xfcller \xdc <a@example.net>")
        self.assertEqual(said, b"Reply-To: =?utf-8?b?TcO8bGxlciDDnA==?= <a@example.net>\r\n")

    def test_names(self) -> None:
        """A name is what RFC 5322 says."""
        for name in ("X", "X-Spam_1", "!"):
            self.assertTrue(isFieldName(name))
        for name in ("", "X Y", "X:", "X\r\n", "\u00fc", "x" * 201):
            self.assertFalse(isFieldName(name))
            self.assertEqual(field(name, "x"), b"")
            self.assertRaises(ValueError, Marks, ((name, "x"),))
            kept = {"headers": [[name, "x"]], "removed": [], "subjectPrefix": "", "junk": False}
            self.assertEqual(Marks.fromJSON(kept), Marks())
