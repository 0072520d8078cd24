"""
Delivery into single files.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.delivery import Addressee
from deferrals.model.verdict import Delivered, Marks, Retry
from deferrals.stages.delivery.file import FileDelivery, FileSettings
from deferrals.stages.delivery.mailboxfiles import R550_LONG_NAME
from deferrals.testing import (
    FakeServices,
    ReportingDeliveryContract,
    makeAddressees,
    makeEnvelope,
    makeMessage,
)
from tests.stages.delivery.test_together import halting


class FileTests(ReportingDeliveryContract, SynchronousTestCase):
    """
    L{FileDelivery}.
    """

    def makeHalting(self) -> FileDelivery:
        return halting(self.makeStage())

    def makeStage(self, **settings: Any) -> FileDelivery:
        self.directory = self.mktemp()
        os.makedirs(self.directory)
        services = FakeServices(os.path.abspath(self.directory))
        return FileDelivery(FileSettings("archive/{domain}", **settings), services)

    def test_refusal(self) -> None:
        """A directory that can never be made is refused in the envelope."""
        services = FakeServices(os.path.abspath(self.mktemp()))
        stage, envelope = FileDelivery(FileSettings("{local}"), services), makeEnvelope()
        for local, wanted in (("x" * 254, None), ("\u00e9" * 60, R550_LONG_NAME)):
            (addressee,) = makeAddressees(f"{local}@example.net")
            self.assertEqual(stage.refusal(envelope, addressee.recipient), wanted)
            outcomes = self.successResultOf(stage.deliver(makeMessage(), envelope, [addressee]))
            self.assertEqual(isinstance(outcomes[addressee], Delivered), wanted is None)

    def test_files(self) -> None:
        """One complete file per copy; a repeated delivery leaves it at that."""
        stage, envelope = self.makeStage(line_ends="lf"), makeEnvelope()
        a, b = makeAddressees("a@x.example", "b@x.example")
        b = Addressee(b.recipient, Marks((("X-Score", "9"),)), 1)
        for _ in "12":
            found = self.successResultOf(stage.deliver(makeMessage(), envelope, [a, b]))
            self.assertEqual(list(found.values()), [Delivered(), Delivered()])
        where = os.path.join(self.directory, "archive", "x.example")
        names = sorted(os.listdir(where))
        self.assertEqual(names, [f"{envelope.uniqueId}-0.eml", f"{envelope.uniqueId}-1.eml"])
        with open(os.path.join(where, names[0]), "rb") as file:
            text = file.read()
        self.assertNotIn(b"\r", text)
        self.assertNotIn(b"X-Score", text)
        self.assertNotIn(b"b@x.example", text)

    def test_otherContent(self) -> None:
        """What another message's file is called so is not replaced, nor is what it is now."""
        stage, envelope, people = self.makeStage(), makeEnvelope(), makeAddressees("a@x.example")
        contents = {b"Subject: %d\r\n\r\n" % number for number in range(3)}
        for content in sorted(contents) * 2:
            self.successResultOf(stage.deliver(makeMessage(content), envelope, people))
        where = os.path.join(self.directory, "archive", "x.example")
        found = []
        for name in sorted(os.listdir(where)):
            self.assertRegex(name, rf"^{envelope.uniqueId}-0(_\d)?\.eml$")
            with open(os.path.join(where, name), "rb") as file:
                found.append(file.read()[-len(min(contents)) :])
        self.assertEqual(sorted(found), sorted(contents))

    def test_cannot(self) -> None:
        """What cannot be written is tried again."""
        stage = self.makeStage()
        with open(os.path.join(self.directory, "archive"), "wb"):
            pass
        people = makeAddressees("a@x.example")
        (outcome,) = self.successResultOf(
            stage.deliver(makeMessage(), makeEnvelope(), people)
        ).values()
        self.assertIsInstance(outcome, Retry)
