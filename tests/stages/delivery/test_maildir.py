"""
Delivery into Maildirs.
"""

from __future__ import annotations

import mailbox
import os
import shutil
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.envelope import Recipient
from deferrals.model.pathpart import pathPart
from deferrals.model.verdict import Delivered, Failed, Marks, Retry
from deferrals.stages.delivery.mailboxfiles import R550_LONG_NAME
from deferrals.stages.delivery.maildir import MaildirDelivery, MaildirSettings, folderName
from deferrals.testing import (
    FakeServices,
    ReportingDeliveryContract,
    makeAddressees,
    makeEnvelope,
    makeMessage,
)
from tests.stages.delivery.test_together import halting


class MaildirTests(ReportingDeliveryContract, SynchronousTestCase):
    """
    L{MaildirDelivery}.
    """

    def makeHalting(self) -> MaildirDelivery:
        return halting(self.makeStage())

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

    def test_otherContent(self) -> None:
        """Another message that came to the same name is not replaced."""
        stage, envelope, people = (
            self.makeStage(quota=10**6),
            makeEnvelope(),
            makeAddressees("a@example.net"),
        )
        contents = [b"Subject: %d\r\n\r\n" % number for number in range(3)]
        for content in contents * 2:
            self.successResultOf(stage.deliver(makeMessage(content), envelope, people))
        found = self.files("example.net", "a", "new")
        self.assertEqual(sorted(one[-len(contents[0]) :] for one in found), contents)
        box = mailbox.Maildir(os.path.join(self.directory, "mail", "example.net", "a"))
        self.assertEqual(len(box), 3)

    def test_spools(self) -> None:
        """Messages of two spools with one number have different names."""
        stage, envelope, people = self.makeStage(), makeEnvelope(), makeAddressees("a@example.net")
        for spool in ("1f", "2f"):
            one = attrs.evolve(envelope, spool=spool)
            self.successResultOf(stage.deliver(makeMessage(), one, people))
        names = os.listdir(os.path.join(self.directory, "mail", "example.net", "a", "new"))
        self.assertEqual(
            sorted(name.split(".")[1] for name in names),
            [f"{envelope.id}-1f_0", f"{envelope.id}-2f_0"],
        )

    def test_oneMailbox(self) -> None:
        """Copies for two recipients with one mailbox have different names."""
        stage, envelope = self.makeStage(subaddress="+"), makeEnvelope()
        people = makeAddressees("a+x@example.net", "a+y@example.net")
        self.successResultOf(stage.deliver(makeMessage(), envelope, people))
        names = os.listdir(os.path.join(self.directory, "mail", "example.net", "a", "new"))
        self.assertEqual(
            sorted(name.split(".")[1] for name in names),
            [f"{envelope.uniqueId}_0", f"{envelope.uniqueId}_1"],
        )

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
            path = stage.mailbox(Recipient(Mailbox(local, "example.net")))
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


class FolderTests(SynchronousTestCase):
    """
    Maildirs as the programs that read them expect (Maildir++).
    """

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        self.box = os.path.join(self.directory, "a")
        os.makedirs(self.box)

    def deliver(self, address: str = "a@example.net", marks: Marks | None = None) -> None:
        settings = MaildirSettings("{local}", subaddress="+")
        (addressee,) = makeAddressees(address)
        addressee = attrs.evolve(addressee, marks=marks or Marks())
        stage = MaildirDelivery(settings, FakeServices(self.directory))
        found = stage.deliver(makeMessage(), makeEnvelope(), [addressee])
        self.assertEqual(self.successResultOf(found)[addressee], Delivered())

    def mode(self, *path: str) -> int:
        return os.stat(os.path.join(self.box, *path)).st_mode & 0o7777

    def test_group(self) -> None:
        """What the administrator has given to a group is the group's: directories and files."""
        for given, directories, files in (
            (0o2770, 0o2770, 0o660),
            (0o750, 0o750, 0o640),
            (0o755, 0o750, 0o640),
            (0o700, 0o700, 0o600),
        ):
            shutil.rmtree(self.box)
            os.mkdir(self.box)
            os.chmod(self.box, given)
            self.deliver()
            self.deliver(marks=Marks(junk=True))
            for folder in (".", ".Junk"):
                (name,) = os.listdir(os.path.join(self.box, folder, "new"))
                self.assertEqual(self.mode(folder, "new", name), files)
                self.assertEqual(self.mode(folder, "cur"), directories)
            self.assertEqual(self.mode(".Junk"), directories)
            self.assertEqual(self.mode(".Junk", "maildirfolder"), files)

    def test_junk(self) -> None:
        """A folder that we make says that it is one; its mailbox is whole, too."""
        os.rmdir(self.box)
        self.deliver(marks=Marks(junk=True))
        self.assertEqual(sorted(os.listdir(self.box)), [".Junk", "cur", "new", "tmp"])
        names = sorted(os.listdir(os.path.join(self.box, ".Junk")))
        self.assertEqual(names, ["cur", "maildirfolder", "new", "tmp"])

    def test_encoded(self) -> None:
        """A subaddress finds the folder by its name, not by what its directory is called."""
        for name in (".&AMQ-rger", ".Tom &- Tim", ".list.sub", ".&broken", ".50%25"):
            for part in ("tmp", "new", "cur"):
                os.makedirs(os.path.join(self.box, name, part))
        for detail, name in (
            ("\u00e4RGER", ".&AMQ-rger"),
            ("a\u0308rger", ".&AMQ-rger"),
            ("list.sub", ".list.sub"),
            ("&broken", ".&broken"),
            ("50%", ".50%25"),
        ):
            before = os.listdir(os.path.join(self.box, name, "new"))
            self.deliver(f"a+{detail}@example.net")
            after = os.listdir(os.path.join(self.box, name, "new"))
            self.assertEqual(len(after), len(before) + 1, detail)
        os.makedirs(os.path.join(self.box, ".stra&AN8-e", "new"))
        os.makedirs(os.path.join(self.box, ".stra&AN8-e", "cur"))
        self.deliver("a+strasse@example.net")  # as with mailboxes: not the same word
        self.assertEqual(os.listdir(os.path.join(self.box, ".stra&AN8-e", "new")), [])
        self.deliver('"a+Tom & Tim"@example.net')
        self.assertEqual(len(os.listdir(os.path.join(self.box, ".Tom &- Tim", "new"))), 1)

    def test_names(self) -> None:
        """Modified UTF-7 (RFC 3501 §5.1.3); what is none is taken as it is."""
        for encoded, name in (
            ("Junk", "Junk"),
            ("&-", "&"),
            ("&AMQ-rger &- &2D3eAA-", "\u00c4rger & \U0001f600"),
            ("&2D3-", "&2D3-"),
            ("&A-", "&A-"),
            ("&", "&"),
            ("\u00e4", "\u00e4"),
        ):
            self.assertEqual(folderName(encoded), name)

    def test_size(self) -> None:
        """A size that other programs keep is kept; a link in its place is not followed."""
        path = os.path.join(self.box, "maildirsize")
        self.deliver()
        self.assertFalse(os.path.exists(path))
        with open(path, "w") as file:
            file.write("100000S\n100 1\n")
        self.deliver(marks=Marks(junk=True))
        (name,) = os.listdir(os.path.join(self.box, ".Junk", "new"))
        size = os.stat(os.path.join(self.box, ".Junk", "new", name)).st_size
        with open(path) as file:
            self.assertEqual(file.read(), f"100000S\n100 1\n{size} 1\n")
        os.rename(path, os.path.join(self.directory, "other"))
        os.symlink(os.path.join(self.directory, "other"), path)
        self.deliver()
        with open(path) as file:
            self.assertEqual(len(file.readlines()), 3)
