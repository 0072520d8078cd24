"""
What only this server may say, in messages from outside: what scanners see of it,
and what each kind of delivery passes on.
"""

from __future__ import annotations

import email
import email.policy
import hashlib
import io
import os
from collections.abc import Sequence
from typing import Any

import attrs
import hypothesis
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import FileBodyProducer
from zope.interface import implementer, verify

from deferrals.interfaces import IContentStage, IDeliveryStage, IMessage
from deferrals.model.delivery import Addressee
from deferrals.model.fields import fieldsOf
from deferrals.model.verdict import ACCEPT, NO_MARKS, Delivered, Marks
from deferrals.spool.message import HEADER_OCTETS, Message
from deferrals.stages.content.match.stage import _buffer
from deferrals.stages.delivery.copy import final, relayed
from deferrals.stages.delivery.maildir import MaildirDelivery, MaildirSettings
from deferrals.stages.foreign import ownHead, seen, view
from deferrals.testing import FakeServices, MemoryServer
from deferrals.testing.values import makeAddressees, makeEnvelope, makeMessage
from tests.rigs import examples

HOST = "mx.example.net"
FORGED = (
    b"Return-Path: <boss@bank.example>\r\n"
    b"Delivered-To: other@example.net\r\n"
    b"X-Deferrals-Refused: no\r\n"
    b"Authentication-Results: (c) MX.example.net;\r\n dkim=pass\r\n"
)
HONEST = b"Authentication-Results: other.test; dkim=pass\r\nSubject: x\r\n"
BODY = b"Return-Path: in the text\r\n"


#: Messages without an empty line in front of their text, and how long their header
#: sections are.
WHOLE = {
    b"hello world\r\n": 0,
    b"hello world\r\nSubject: no field\r\n\r\nmore\r\n": 0,
    b"Alarm: door 3 open\r\nTime: 10:00\r\n": 31,
    b"Subject: x\r\nThe text begins here\r\nSo: it does\r\n\r\nmore\r\n": 10,
    b"Subject: x\r\n folded\r\n\tand again\r\nText\r\n": 31,
    b" begins with a blank\r\nSubject: x\r\n\r\ntext\r\n": 0,
    b"\tbegins with a tab\r\n": 0,
    b": no name\r\n": 0,
    b"\xc3\xa9: no name\r\n": 0,
    b".\r\n": 0,
    b"": 0,
}


#: What messages are made of: fields, ours and others', text, and what is neither.
LINES = [
    *(b"Subject: x\r\n", b"X :y\r\n", b" folded\r\n", b"\tfolded: too\r\n", b" \r\n"),
    *(b"\r\n", b"text\r\n", b"\xc3\xa9: text\r\n", b": text\r\n", b".\r\n", b"x" * 999 + b"\r\n"),
    *(b"Return-Path: <boss@bank.example>\r\n", b"Deferrals-Refused: no\r\n"),
    *(b"Authentication-Results: mx.example.net; a\r\n", b"Received: from x\r\n\tby y; z\r\n"),
    *(b">From a b\r\n", b"From a b\r\n"),
]


def onDisk(case: SynchronousTestCase, content: bytes) -> IMessage:
    """
    A message in a file.
    """
    path = case.mktemp()
    with open(path, "wb") as file:
        file.write(content)
    digest = hashlib.sha256(content).digest()
    return Message(len(content), digest, None, path, content[:HEADER_OCTETS])


class WholeTests(SynchronousTestCase):
    """
    Messages whose text is not separated from their fields: nothing that is put in
    front swallows it.
    """

    def contents(self, message: IMessage) -> bytes:
        with message.open() as file:
            return file.read()

    def expected(self, content: bytes, length: int) -> tuple[bytes, bytes]:
        """
        @return: the fields, and what a reader finds behind the empty line.
        """
        header, text = content[:length], content[length:]
        return (header + b"\r\n", text.removeprefix(b"\r\n")) if header else (b"", text)

    def test_copies(self) -> None:
        """In a mailbox, and on the way to another server, whatever is marked."""
        (addressee,) = makeAddressees("a@example.net")
        envelope = makeEnvelope()
        for content, length in WHOLE.items():
            for marks in (NO_MARKS, Marks((("X-A", "b"),)), Marks(subjectPrefix="[x] ")):
                message = makeMessage(content)
                marked = attrs.evolve(addressee, marks=marks)
                header, text = self.expected(content, length)
                for copy in (
                    final(message, envelope, HOST, marked),
                    relayed(message, envelope, HOST, [marked]),
                ):
                    octets = b"".join(copy.chunks())
                    self.assertEqual(len(octets), copy.size, content)
                    head, mark, rest = octets.partition(b"\r\n\r\n")
                    self.assertEqual((mark, rest), (b"\r\n\r\n", text), (content, marks))
                    if not marks.subjectPrefix:
                        self.assertTrue((head + b"\r\n").endswith(header), content)
                    self.assertNotIn(b"text begins", head)

    def test_seen(self) -> None:
        """For stages, and for scanners."""
        for content, length in WHOLE.items():
            message = makeMessage(content)
            header, text = self.expected(content, length)
            shown = seen(message, HOST)
            self.assertEqual(self.contents(shown), header + b"\r\n" + text)
            self.assertEqual(shown.size, len(header) + 2 + len(text))
            whole = view(message, makeEnvelope(), HOST)
            self.assertTrue(self.contents(whole).endswith(header + b"\r\n" + text))

    def test_separated(self) -> None:
        """One that is separated stays as it is; so does what a mail file puts in front."""
        for content in (
            b"Subject: x\r\n\r\ntext\r\n",
            b"\r\ntext\r\n",
            b"\r\n",
            b"X :y\r\n \r\n\tz\r\n\r\n",
            b"From a@b.example Mon Nov 23 12:00:00 2026\r\nSubject: x\r\n\r\ntext\r\n",
        ):
            message = makeMessage(content)
            self.assertIs(seen(message, HOST), message)

    def test_forged(self) -> None:
        """In the text nothing is taken out; in the header it is."""
        text = b"no field\r\nReturn-Path: in the text\r\n"
        shown = seen(makeMessage(FORGED + text), HOST)
        self.assertEqual(self.contents(shown), b"\r\n" + text)


class ViewTests(SynchronousTestCase):
    """
    L{view}: what scanners are sent.
    """

    def test_isTheCopy(self) -> None:
        """It is the mailbox's copy but for what names the recipient."""
        envelope = makeEnvelope()
        (addressee,) = makeAddressees("a@example.net")
        for content in (
            FORGED + HONEST + b"\r\n" + BODY,
            HONEST + b"\r\n" + BODY,
            FORGED + b"\r\n" + BODY,
            b"\r\n" + BODY,
            *WHOLE,
        ):
            message = makeMessage(content)
            copy = b"".join(final(message, envelope, HOST, addressee).chunks())
            copy = copy.replace(b"Delivered-To: a@example.net\r\n", b"", 1)
            copy = copy.replace(b"\r\n\tfor <a@example.net>", b"", 1)
            shown = view(message, envelope, HOST)
            with shown.open() as file:
                octets = file.read()
            self.assertEqual(octets, copy)
            self.assertEqual((shown.size, shown.digest), (len(copy), hashlib.sha256(copy).digest()))
            self.assertEqual(shown.header, copy.partition(b"\r\n\r\n")[0])
            self.assertTrue(verify.verifyObject(IMessage, shown))
            names = [name for name, _ in shown.fields()]
            self.assertEqual(names[:2], ["Return-Path", "Received"])

    @hypothesis.settings(max_examples=examples(40))
    @hypothesis.given(st.lists(st.sampled_from(LINES), max_size=12), st.booleans())
    def test_anyMessage(self, lines: list[bytes], isLarge: bool) -> None:
        """
        Of any lines: the view's fields, its separation and its text are what the
        Maildir holds, and the text is what came in.
        """
        content = b"".join(lines)
        message = onDisk(self, content) if isLarge else makeMessage(content)
        envelope = makeEnvelope()
        (addressee,) = makeAddressees("a@example.net")
        directory = self.mktemp()
        services = FakeServices(os.path.abspath(directory))
        stage = MaildirDelivery(MaildirSettings("{local}"), services)
        self.successResultOf(stage.deliver(message, envelope, [addressee]))
        (name,) = os.listdir(os.path.join(directory, "a", "new"))
        with open(os.path.join(directory, "a", "new", name), "rb") as file:
            stored = file.read()
        stored = stored.replace(b"Delivered-To: a@example.net\r\n", b"", 1)
        stored = stored.replace(b"\r\n\tfor <a@example.net>", b"", 1)
        shown = services.view(message, envelope)
        with shown.open() as file:
            self.assertEqual(file.read(), stored)
        head, mark, text = stored.partition(b"\r\n\r\n")
        self.assertEqual((shown.header, mark), (head, b"\r\n\r\n"))
        self.assertEqual(shown.fields(), fieldsOf(head))
        self.assertTrue(content.endswith(text))
        if b"X :" not in head and b"From a" not in head:  # no fields, says that reader
            parsed = email.message_from_bytes(stored, policy=email.policy.compat32)
            self.assertEqual(parsed.get_payload(decode=True), text)

    def test_helo(self) -> None:
        """A HELO name that is not ASCII makes no mail an 8-bit one."""
        envelope = makeEnvelope()
        for name, written in (
            ("b\u00fccher.example", b"xn--bcher-kva.example"),
            ("\u00fc_", b"?_"),
        ):
            client = attrs.evolve(envelope.client, helo=name)
            sent = attrs.evolve(envelope, client=client)
            copy = final(makeMessage(), sent, HOST, makeAddressees("a@example.net")[0])
            self.assertTrue(copy.isASCII)
            self.assertIn(b"Received: from " + written + b" (", next(copy.chunks()))

    def test_hostname(self) -> None:
        """Our Received field has the client's name in DNS, where it is known."""
        envelope = makeEnvelope()
        client = attrs.evolve(envelope.client, hostname="mail.example.com")
        shown = view(makeMessage(), attrs.evolve(envelope, client=client), HOST)
        self.assertIn(b"(mail.example.com [192.0.2.1])", shown.header)


class SeenTests(SynchronousTestCase):
    """
    L{seen}.
    """

    def test_same(self) -> None:
        """In memory or in a file: one message, with size, digest and header of its own."""
        body = BODY * 100_000
        for message in (
            makeMessage(FORGED + HONEST + b"\r\n" + BODY),
            onDisk(self, FORGED + HONEST + b"\r\n" + body),
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
        for message in (makeMessage(content), onDisk(self, content)):
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
        for end in (b"\r\n" + BODY, b"\r\n"):
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
        shown = seen(makeMessage(FORGED + HONEST + b"\r\n"), HOST)
        sizes = [self.successResultOf(shown.shared("k", lambda one: one.size)) for _ in range(2)]
        self.assertEqual(sizes, [len(HONEST) + 2] * 2)

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
