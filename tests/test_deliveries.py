"""
Delivery stages that need no network, and the copies that they hand over.
"""

from __future__ import annotations

import mailbox
import os
import re
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.trace import field, marked, received, returnPath
from deferrals.model.verdict import NO_MARKS, Delivered, Marks, Retry
from deferrals.stages.delivery.copy import Copy
from deferrals.stages.delivery.discard import DiscardDelivery, DiscardSettings
from deferrals.stages.delivery.mailboxfiles import pathPart
from deferrals.stages.delivery.maildir import MaildirDelivery, MaildirSettings
from deferrals.testing import (
    DeliveryStageContract,
    FakeServices,
    makeAddressees,
    makeEnvelope,
    makeMessage,
)


class DiscardTests(DeliveryStageContract, SynchronousTestCase):
    """
    L{DiscardDelivery}.
    """

    def makeStage(self) -> DiscardDelivery:
        return DiscardDelivery(DiscardSettings(), FakeServices())


class MaildirTests(DeliveryStageContract, SynchronousTestCase):
    """
    L{MaildirDelivery}.
    """

    def makeStage(self, **settings: Any) -> MaildirDelivery:
        self.directory = self.mktemp()
        os.makedirs(self.directory)
        settings = {"path": "mail/{domain}/{local}", **settings}
        return MaildirDelivery(MaildirSettings(**settings), FakeServices(self.directory))

    def files(self, *path: str) -> list[bytes]:
        directory = os.path.join(self.directory, "mail", *path)
        found = []
        for name in sorted(os.listdir(directory)):
            with open(os.path.join(directory, name), "rb") as file:
                found.append(file.read())
        return found

    def test_delivered(self) -> None:
        """Return-Path, Delivered-To and one Received field, then the message as it came."""
        stage, message = self.makeStage(), makeMessage(b"Subject: x\r\n\r\nhello\r\n")
        addressees = makeAddressees("A@example.net", "b@example.net")
        outcomes = self.successResultOf(stage.deliver(message, makeEnvelope(), addressees))
        self.assertEqual(list(outcomes.values()), [Delivered(), Delivered()])
        (copy,) = self.files("example.net", "a", "new")
        head, _, rest = copy.partition(b"Subject:")
        self.assertEqual(rest, b" x\r\n\r\nhello\r\n")
        self.assertTrue(
            head.startswith(b"Return-Path: <sender@example.com>\r\nDelivered-To: A@example.net\r\n")
        )
        self.assertEqual(head.count(b"Received:"), 1)
        self.assertNotIn(b"b@example.net", copy)
        self.assertEqual(self.files("example.net", "a", "tmp"), [])

    def test_readable(self) -> None:
        """Another program's Maildir finds it."""
        stage = self.makeStage(line_ends="lf")
        self.successResultOf(
            stage.deliver(makeMessage(), makeEnvelope(""), makeAddressees("a@example.net"))
        )
        box = mailbox.Maildir(os.path.join(self.directory, "mail", "example.net", "a"))
        (found,) = list(box)
        self.assertEqual(found["Subject"], "test")
        self.assertEqual(found["Return-Path"], "<>")
        self.assertNotIn(b"\r", found.as_bytes())

    def test_repeatedReplaces(self) -> None:
        """A delivery that is repeated after a crash leaves one copy."""
        stage, message, envelope = self.makeStage(), makeMessage(), makeEnvelope()
        for _ in range(2):
            self.successResultOf(stage.deliver(message, envelope, makeAddressees("a@example.net")))
        self.assertEqual(len(self.files("example.net", "a", "new")), 1)

    def test_paths(self) -> None:
        """No local part leads out of its place."""
        stage = self.makeStage()
        root = os.path.join(self.directory, "mail")
        seen = set()
        for local in (
            "..",
            ".",
            "../../etc",
            "a/b",
            ".hidden",
            "a\0b",
            "%2E.",
            "\u00e4",
            "A",
            "a b",
        ):
            path = stage.mailbox(Mailbox(local, "example.net"))
            self.assertEqual(
                os.path.dirname(os.path.normpath(path)), os.path.join(root, "example.net")
            )
            self.assertNotIn("\0", path)
            seen.add(path)
        self.assertEqual(len(seen), 10)
        self.assertEqual(pathPart("User"), pathPart("uSER"))

    def test_junk(self) -> None:
        """A copy that is marked as junk goes into the Junk folder."""
        stage = self.makeStage()
        (addressee,) = makeAddressees("a@example.net")
        object.__setattr__(addressee, "marks", Marks(junk=True))
        self.successResultOf(stage.deliver(makeMessage(), makeEnvelope(), [addressee]))
        self.assertEqual(len(self.files("example.net", "a", ".Junk", "new")), 1)

    def test_cannot(self) -> None:
        """What cannot be written is to be tried again."""
        stage = self.makeStage()
        os.makedirs(os.path.join(self.directory, "mail", "example.net"))
        with open(os.path.join(self.directory, "mail", "example.net", "a"), "w"):
            pass
        outcomes = self.successResultOf(
            stage.deliver(makeMessage(), makeEnvelope(), makeAddressees("a@example.net"))
        )
        (outcome,) = outcomes.values()
        self.assertIsInstance(outcome, Retry)
        self.assertTrue(outcome.reply.isTemporary)


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
            r"^Received: from client.example.com \(\[192.0.2.1\]\) by mx.example.net with ESMTP"
            rf" id {envelope.id} for <a@example.net>; Sun, 09 Sep 2001 01:46:40 \+0000\r\n$",
        )
        self.assertNotIn("for <", received(envelope, "mx.example.net").decode())

    def test_returnPath(self) -> None:
        """The null path, too."""
        self.assertEqual(returnPath(makeEnvelope("")), b"Return-Path: <>\r\n")

    def test_field(self) -> None:
        """A value from outside stays one field."""
        for value in ("a\r\nBcc: x@y.z", "a\n\nbody", "a\rb", "a\0b", "word " * 100, "\ud800"):
            self.assertEqual(field("\r\n: ", value), b"")
            lines = field("X-Te:st\r\n", value).decode().split("\r\n")
            self.assertTrue(lines[0].startswith("X-Test: "))
            self.assertEqual(lines.pop(), "")
            self.assertTrue(all(line.startswith(" ") for line in lines[1:]), lines)

    def test_marked(self) -> None:
        """Fields are added, removed and changed; what is not marked stays as it is."""
        head = b"Subject: hello\r\n there\r\nX-Old: 1\r\n 2\r\nFrom: a"
        self.assertIs(marked(NO_MARKS, head)[1], head)
        front, changed = marked(Marks((("X-New", "3"),), ("x-old",), "[spam] "), head)
        self.assertEqual(front, b"X-New: 3\r\n")
        self.assertEqual(changed, b"Subject: [spam] hello\r\n there\r\nFrom: a")
        _, changed = marked(Marks(subjectPrefix="[spam] "), b"From: a")
        self.assertEqual(changed, b"From: a\r\nSubject: [spam]")


class CopyTests(SynchronousTestCase):
    """
    L{Copy}.
    """

    def test_all(self) -> None:
        """Size and octets agree, and a body without a header is not taken for one."""
        for content in (
            b"",
            b"\r\nbody\r\n",
            b"A: 1\r\n\r\nbody\r\n",
            b"A: 1\r\n",
            b"no field\r\n",
        ):
            for marks in (NO_MARKS, Marks((("X", "1"),)), Marks(subjectPrefix="[x] ")):
                copy = Copy(makeMessage(content), b"Trace: 1\r\n", marks)
                octets = b"".join(copy.chunks())
                self.assertEqual(len(octets), copy.size)
                self.assertTrue(octets.startswith(b"Trace: 1\r\n"))
                if b"body" in content:
                    self.assertTrue(re.search(rb"\r\n\r\nbody\r\n$", octets), octets)
