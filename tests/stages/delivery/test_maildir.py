"""
Delivery into Maildirs.
"""

from __future__ import annotations

import mailbox
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.verdict import Delivered, Failed, Marks, Retry
from deferrals.stages.delivery.mailboxfiles import R550_LONG_NAME, pathPart
from deferrals.stages.delivery.maildir import MaildirDelivery, MaildirSettings
from deferrals.testing import (
    DeliveryStageContract,
    FakeServices,
    makeAddressees,
    makeEnvelope,
    makeMessage,
)


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

    def test_refusal(self) -> None:
        """
        A name that no file system takes is refused in the envelope, as it is behind
        the data: octets of the quoted form count, and not the folder.
        """
        stage, envelope = self.makeStage(subaddress="+"), makeEnvelope()
        for local, isRefused in (
            ("x" * 254, False),
            ("\u00e9" * 42, False),
            ("\u00e9" * 43, True),
            ("a+" + "\u00e9" * 60, False),
        ):
            (addressee,) = makeAddressees(f"{local}@example.net")
            found = stage.refusal(envelope, addressee.recipient)
            outcomes = self.successResultOf(stage.deliver(makeMessage(), envelope, [addressee]))
            expected = Failed(R550_LONG_NAME) if isRefused else Delivered()
            self.assertEqual((found, outcomes[addressee]), (expected.reply, expected))
        self.assertEqual(str(R550_LONG_NAME)[:9], "550 5.1.3")

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
