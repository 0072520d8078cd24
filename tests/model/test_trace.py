"""
The header fields that a delivery adds.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.envelope import Client
from deferrals.model.trace import Head, field, fields, placesBefore, received, returnPath
from deferrals.model.verdict import NO_MARKS, Marks
from deferrals.testing import (
    makeEnvelope,
)


class TraceTests(SynchronousTestCase):
    """
    The fields in front.
    """

    def test_received(self) -> None:
        """From, by, with, id, for one recipient only, and a date."""
        envelope = makeEnvelope()
        text = received(envelope, "mx.example.net", "a@example.net").decode()
        self.assertRegex(
            text.replace("\r\n\t", " "),
            r"^Received: from client.example.com \(unknown \[192.0.2.1\]\) by mx.example.net"
            rf" with ESMTP id {envelope.id} for <a@example.net>;"
            r" Sun, 09 Sep 2001 01:46:40 \+0000\r\n$",
        )
        self.assertNotIn("for <", received(envelope, "mx.example.net").decode())

    def test_name(self) -> None:
        """
        The client's name in DNS; C{unknown}, where there may be one; nothing for this
        machine, and where there is no address.
        """
        for address, hostname, wanted in (
            ("192.0.2.1", "mail.example.com", "(mail.example.com [192.0.2.1])"),
            ("192.0.2.1", "", "(unknown [192.0.2.1])"),
            ("2001:db8::1", "", "(unknown [IPv6:2001:db8::1])"),
            ("127.0.0.1", "", "([127.0.0.1])"),
            ("::1", "", "([IPv6:::1])"),
            ("127.0.0.1", "localhost", "(localhost [127.0.0.1])"),
            ("local", "", "([local])"),
            ("unknown", "", "([unknown])"),
        ):
            envelope = makeEnvelope(client=Client(address, hostname=hostname))
            self.assertIn(wanted, received(envelope, "mx.example.net").decode())

    def test_returnPath(self) -> None:
        """The null path, too."""
        self.assertEqual(returnPath(makeEnvelope("")), b"Return-Path: <>\r\n")

    def test_field(self) -> None:
        """A value from outside stays one field."""
        for value in ("a\r\nBcc: x@y.z", "a\n\nbody", "a\rb", "a\0b", "word " * 100, "\ud800"):
            self.assertEqual(field("\r\n: ", value), b"")
            self.assertEqual(field("X-Te:st\r\n", value), b"")
            lines = field("X-Test", value).decode("ascii").split("\r\n")
            self.assertTrue(lines[0].startswith("X-Test: "))
            self.assertEqual(lines.pop(), "")
            self.assertTrue(all(line.startswith(" ") for line in lines[1:]), lines)

    def test_wasDelivered(self) -> None:
        """Whose Delivered-To it is: however it is spelled, and not what has another name."""
        address = Mailbox.parse("Me@X.example")
        for found, wanted in (
            ([("Delivered-To", "me@x.example")], True),
            ([("delivered-to", " ME@X.Example ")], True),
            ([("Delivered-To", "you@x.example"), ("Delivered-To", "me@x.example")], True),
            ([("Delivered-To", "you@x.example"), ("To", "me@x.example")], False),
            ([("Delivered-To", "mailing list me@x.example")], False),
            ([], False),
        ):
            self.assertIs(address.key in placesBefore(found), wanted, found)

    def test_marked(self) -> None:
        """Fields are added, removed and changed; what is not marked stays as it is."""
        head = b"Subject: hello\r\n there\r\nX-Old: 1\r\n 2\r\nFrom: a"
        self.assertIs(Head(head).marked(NO_MARKS), head)
        marks = Marks((("X-New", "3"),), ("x-old",), "[spam] ")
        self.assertEqual(fields(marks), b"X-New: 3\r\n")
        self.assertEqual(Head(head).marked(marks), b"Subject: [spam] hello\r\n there\r\nFrom: a")
        changed = Head(b"From: a").marked(Marks(subjectPrefix="[spam] "))
        self.assertEqual(changed, b"From: a\r\nSubject: [spam]")

    def test_once(self) -> None:
        """Copies that are marked alike share one header section, and not many are kept."""
        head = Head(b"From: a\r\nTo: b\r\nX-Old: 1")
        one = head.marked(Marks((("X-New", "1"),), ("x-old",)))
        self.assertIs(head.marked(Marks((("X-New", "2"),), ("x-old",))), one)
        for number in range(100):
            self.assertIn(b"[%d]" % number, head.marked(Marks(subjectPrefix=f"[{number}] ")))
        self.assertIsNot(head.marked(Marks(removed=("x-old",))), one)
        self.assertEqual(head.marked(Marks(removed=("x-old",))), one)

    def test_blanks(self) -> None:
        """A value of blanks only is one line: none has nothing but blanks."""
        lines = field("X", " " * 200).split(b"\r\n")
        self.assertEqual(lines, [b"X:" + b" " * 74, b""])
