"""
What only this server may say, in messages from outside: what scanners see of it,
and what each kind of delivery passes on.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import FileBodyProducer
from zope.interface import implementer, verify

from deferrals.interfaces import IContentStage, IDeliveryStage, IMessage
from deferrals.model.delivery import Addressee
from deferrals.model.verdict import ACCEPT, Delivered
from deferrals.spool.message import HEADER_OCTETS, Message
from deferrals.stages.content.match.stage import _buffer
from deferrals.stages.delivery.copy import final, relayed
from deferrals.stages.foreign import ownHead, seen
from deferrals.testing import MemoryServer
from deferrals.testing.values import makeAddressees, makeEnvelope, makeMessage

HOST = "mx.example.net"
FORGED = (
    b"Return-Path: <boss@bank.example>\r\n"
    b"Delivered-To: other@example.net\r\n"
    b"X-Deferrals-Refused: no\r\n"
    b"Authentication-Results: (c) MX.example.net;\r\n dkim=pass\r\n"
)
HONEST = b"Authentication-Results: other.test; dkim=pass\r\nSubject: x\r\n"
BODY = b"Return-Path: in the text\r\n"


class SeenTests(SynchronousTestCase):
    """
    L{seen}.
    """

    def onDisk(self, content: bytes) -> IMessage:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(content)
        digest = hashlib.sha256(content).digest()
        return Message(len(content), digest, None, path, content[:HEADER_OCTETS])

    def test_same(self) -> None:
        """In memory or in a file: one message, with size, digest and header of its own."""
        body = BODY * 100_000
        for message in (
            makeMessage(FORGED + HONEST + b"\r\n" + BODY),
            self.onDisk(FORGED + HONEST + b"\r\n" + body),
        ):
            shown = seen(message, HOST)
            self.assertTrue(verify.verifyObject(IMessage, shown))
            with message.open() as file:
                wanted = file.read()[len(FORGED) :]
            with shown.open() as file:
                self.assertEqual(file.read(), wanted)
            with shown.open() as file:
                self.assertEqual(b"".join(iter(lambda: file.read(7000), b"")), wanted)
            self.assertEqual(shown.size, len(wanted))
            self.assertEqual(shown.digest, hashlib.sha256(wanted).digest())
            self.assertEqual(shown.header + b"\r\n", HONEST)
            self.assertEqual([name for name, _ in shown.fields()][1:], ["Subject"])
            self.assertEqual(shown.inMemory, message.inMemory)
            self.assertTrue(shown.isIntact())
            with shown.open() as file:
                self.assertEqual(_buffer(file)[:], wanted)

    def test_fromAnywhere(self) -> None:
        """It is read from anywhere, as the file of any message."""
        content = FORGED + HONEST + b"\r\n" + BODY * 20_000
        wanted = io.BytesIO(content[len(FORGED) :])
        size, head = len(wanted.getvalue()), len(HONEST)
        for message in (makeMessage(content), self.onDisk(content)):
            with seen(message, HOST).open() as file:
                self.assertEqual(FileBodyProducer(file).length, size)
                for place in (0, 3, head - 1, head, head + 1, size - 5, size, size + 9, 1):
                    self.assertEqual(file.seek(place), wanted.seek(place))
                    self.assertEqual(file.read(100), wanted.read(100))
                    self.assertEqual(file.tell(), wanted.tell())
                for back in (0, 5, size - head, size):
                    self.assertEqual(file.seek(-back, os.SEEK_END), size - back)
                    self.assertEqual(file.read(), wanted.getvalue()[size - back :])
                file.seek(7)
                self.assertEqual(file.seek(30, os.SEEK_CUR), 37)
                self.assertEqual(file.read(10), wanted.getvalue()[37:47])
                self.assertRaises(ValueError, file.seek, -1)

    def test_nothingLeft(self) -> None:
        """A header of nothing else is none: the body stays the body."""
        for end in (b"\r\n" + BODY, b"\r\n", b""):
            shown = seen(makeMessage(FORGED + end), HOST)
            with shown.open() as file:
                self.assertEqual(file.read(), end)
            self.assertEqual((shown.header, shown.size), (b"", len(end)))

    def test_honest(self) -> None:
        """A message without such fields is what it was."""
        message = makeMessage(HONEST + b"\r\n" + BODY)
        self.assertIs(seen(message, HOST), message)

    def test_shared(self) -> None:
        """What is computed once is computed of what is shown."""
        shown = seen(makeMessage(FORGED + HONEST), HOST)
        sizes = [self.successResultOf(shown.shared("k", lambda one: one.size)) for _ in range(2)]
        self.assertEqual(sizes, [len(HONEST)] * 2)

    def test_once(self) -> None:
        """The header is looked through once per message, not once per recipient."""
        message = makeMessage(FORGED + HONEST)
        self.assertIs(ownHead(message, HOST, True), ownHead(message, HOST, True))


class DeliveryTests(SynchronousTestCase):
    """
    What each kind of copy has of it.
    """

    def copies(self, isFinal: bool | None) -> list[bytes]:
        message, envelope = makeMessage(FORGED + HONEST + b"\r\n" + BODY), makeEnvelope()
        several = makeAddressees("a@example.net", "b@example.net")
        if isFinal is None:
            made = [final(message, envelope, HOST, one) for one in several]
        else:
            made = [relayed(message, envelope, HOST, several, isFinal)]
        found = [b"".join(one.chunks()) for one in made]
        self.assertEqual([len(one) for one in found], [one.size for one in made])
        for one in found:
            self.assertTrue(one.endswith(HONEST + b"\r\n" + BODY))
        return found

    def test_mailbox(self) -> None:
        """What we say of a copy, once, and nothing that others say of it."""
        for number, copy in enumerate(self.copies(None)):
            head = copy.partition(b"\r\n\r\n")[0]
            self.assertEqual(head.count(b"Return-Path:"), 1)
            self.assertIn(b"Return-Path: <sender@example.com>", head)
            self.assertEqual(head.count(b"Delivered-To:"), 1)
            self.assertIn(b"Delivered-To: %s@example.net" % b"ab"[number : number + 1], head)
            self.assertNotIn(b"X-Deferrals", head)
            self.assertNotIn(b"MX.example.net;", head)

    def test_store(self) -> None:
        """A mail store writes these fields itself: it gets none."""
        (copy,) = self.copies(True)
        for name in (b"Return-Path:", b"Delivered-To:", b"X-Deferrals", b"MX.example.net"):
            self.assertNotIn(name, copy.partition(b"\r\n\r\n")[0])

    def test_onward(self) -> None:
        """On the way, loops are found by Delivered-To; our name is still ours."""
        (copy,) = self.copies(False)
        self.assertIn(b"Delivered-To: other@example.net\r\n", copy)
        self.assertIn(b"Return-Path: <boss@bank.example>\r\n", copy)
        self.assertNotIn(b"X-Deferrals", copy)
        self.assertNotIn(b"MX.example.net;", copy)


@implementer(IContentStage, IDeliveryStage)
class Stage:
    """
    Remembers the header that it was shown when it judged.
    """

    def __init__(self) -> None:
        self.judged: list[bytes] = []
        self.stored: list[bytes] = []

    def cohort(self, recipient: Any) -> Any:
        return None

    def judge(self, message: IMessage, envelope: Any, recipients: Any) -> Any:
        self.judged.append(message.header)
        return ACCEPT

    def destination(self, recipient: Any) -> str:
        return "test"

    def deliver(self, message: IMessage, envelope: Any, recipients: Sequence[Addressee]) -> Any:
        self.stored.append(message.header)
        return dict.fromkeys(recipients, Delivered())


class ServerTests(SynchronousTestCase):
    """
    A whole transaction.
    """

    def test_judged(self) -> None:
        """Content stages are not shown what no mailbox will have."""
        stage = Stage()
        server = MemoryServer(content=stage, delivery=stage)
        lines = (FORGED + HONEST).decode().splitlines()
        server.dialogue(
            *("EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>", "DATA"),
            *(*lines, "", "hello", "."),
        )
        server.stop()
        self.assertEqual(stage.judged, [HONEST.rstrip()])
        self.assertEqual(stage.stored, [(FORGED + HONEST).rstrip()])
