"""
Mailboxes in the file system: quotas, mailboxes that mail does not make, subaddresses.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import IEnvelopeStage
from deferrals.model.verdict import Delivered, Failed, Refuse, Retry
from deferrals.stages.delivery.file import FileDelivery, FileSettings
from deferrals.stages.delivery.maildir import MaildirDelivery, MaildirSettings, maildirCopy
from deferrals.stages.delivery.quota import Usage
from deferrals.testing import (
    FakeServices,
    MemoryServer,
    makeAddressees,
    makeEnvelope,
    makeMessage,
    makeRecipient,
)
from tests.rigs import rig


def put(maildir: str, name: str, folder: str = "") -> None:
    """
    Put a message into a Maildir.
    """
    copy = maildirCopy(maildir, folder, lambda more: name + more, [b"x"])
    copy.file.write(copy.chunks)
    copy.file.name()
    copy.written(copy.file.size)
    copy.file.close()


class MailboxTests(SynchronousTestCase):
    """
    L{MaildirDelivery} with its further settings.
    """

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.makedirs(os.path.join(self.directory, "mail"))

    def stage(self, **settings: Any) -> MaildirDelivery:
        self.services = FakeServices(os.path.abspath(self.directory))
        self.services.reactor.advance(2_000_000_000)
        return MaildirDelivery(MaildirSettings("mail/{local}", **settings), self.services)

    def judge(self, stage: MaildirDelivery, address: str, size: int | None = None) -> str:
        d = stage.judgeRecipient(makeEnvelope(size=size), makeRecipient(address))
        verdict = self.successResultOf(d)
        return str(verdict.reply)[:9] if isinstance(verdict, Refuse) else "fine"

    def deliver(self, stage: MaildirDelivery, address: str, body: bytes = b"\r\nx\r\n") -> Any:
        people = makeAddressees(address)
        found = self.successResultOf(stage.deliver(makeMessage(body), makeEnvelope(), people))
        return found[people[0]]

    def files(self, *path: str) -> list[str]:
        where = os.path.join(self.directory, "mail", *path, "new")
        return os.listdir(where) if os.path.isdir(where) else []

    def test_longName(self) -> None:
        """A name that no directory can have is no reason to try for days."""
        found = self.deliver(self.stage(), f"{'%' * 90}@example.net")
        self.assertIsInstance(found, Failed)
        self.assertEqual(str(found.reply)[:9], "550 5.1.3")

    def test_asked(self) -> None:
        """Only a stage that can refuse at RCPT is asked there."""
        self.assertFalse(IEnvelopeStage.providedBy(self.stage()))
        self.assertTrue(IEnvelopeStage.providedBy(self.stage(quota=1000)))
        self.assertTrue(IEnvelopeStage.providedBy(self.stage(create=False)))

    def test_inside(self) -> None:
        """A local part is one component of the path, whatever it is: not several, not none."""
        top = os.path.join(os.path.abspath(self.directory), "mail")
        stage = self.stage(subaddress="+")
        for local in ('""', '"."', '".."', '"../x"', '"a/b"', '"/etc"', '"%2F"', '"+"', '"+x"'):
            self.assertIsInstance(self.deliver(stage, f"{local}@x.example"), Delivered)
        names = {
            os.path.relpath(os.path.dirname(path), top)
            for path, _, _ in os.walk(self.directory)
            if os.path.basename(path) == "new"
        }
        self.assertEqual(
            names, {"%", "%2E", "%2E.", "%2E.%2Fx", "a%2Fb", "%2Fetc", "%252f", "+", "+x"}
        )

    def test_missing(self) -> None:
        """A mailbox that mail does not make: 550 5.1.1; 451 where the disk is not there."""
        stage = self.stage(create=False)
        put(os.path.join(self.directory, "mail", "there"), "x")
        self.assertEqual(self.judge(stage, "there@x.example"), "fine")
        self.assertEqual(self.judge(stage, "nobody@x.example"), "550 5.1.1")
        self.assertIsInstance(self.deliver(stage, "there@x.example"), Delivered)
        self.assertIsInstance(self.deliver(stage, "nobody@x.example"), Retry)
        os.rename(os.path.join(self.directory, "mail"), os.path.join(self.directory, "away"))
        self.assertEqual(self.judge(stage, "there@x.example"), "451 4.2.1")

    def test_quota(self) -> None:
        """452 4.2.2 in the envelope where it is known, otherwise retry; folders count, too."""
        stage = self.stage(quota=2000)
        self.assertEqual(self.judge(stage, "a@x.example", 1000), "fine")
        self.assertEqual(self.judge(stage, "a@x.example", 2001), "552 5.2.3")
        self.assertIsInstance(self.deliver(stage, "a@x.example", b"\r\n" + b"x" * 800), Delivered)
        (name,) = self.files("a")
        size = os.stat(os.path.join(self.directory, "mail", "a", "new", name)).st_size
        self.assertTrue(name.endswith(f",S={size}"))
        junk = os.path.join(self.directory, "mail", "a", ".Junk", "cur")
        os.makedirs(junk)
        with open(os.path.join(junk, "1:2,S"), "wb") as file:
            file.write(b"x" * 900)
        self.assertEqual(self.judge(stage, "a@x.example"), "452 4.2.2" if size > 1099 else "fine")
        self.assertEqual(self.judge(stage, "a@x.example", 500), "452 4.2.2")
        full = self.deliver(stage, "a@x.example", b"\r\n" + b"x" * 500)
        self.assertEqual((type(full), full.reply.enhanced), (Retry, "4.2.2"))
        never = self.deliver(stage, "a@x.example", b"\r\n" + b"x" * 3000)
        self.assertEqual((type(never), never.reply.enhanced), (Failed, "5.2.3"))
        os.unlink(os.path.join(junk, "1:2,S"))
        self.assertIsInstance(self.deliver(stage, "a@x.example", b"\r\n" + b"x" * 500), Delivered)

    def test_subaddress(self) -> None:
        """user+list: the mailbox of user, and its folder list if it is there."""
        stage = self.stage(subaddress="+")
        for local in ("a", "a+nothing", "a+", "a+LIST", '"a+../b"'):
            self.deliver(stage, f"{local}@x.example")
        self.assertEqual(len(self.files("a")), 5)
        put(os.path.join(self.directory, "mail", "a"), "x", ".list")
        self.deliver(stage, "a+LIST@x.example")
        self.assertEqual((len(self.files("a")), len(self.files("a", ".list"))), (5, 2))
        self.deliver(stage, "+odd@x.example")
        self.assertEqual(len(self.files("+odd")), 1)
        self.assertEqual(sorted(os.listdir(os.path.join(self.directory, "mail"))), ["+odd", "a"])
        self.assertEqual(len(self.files("a+b")), 0)
        self.deliver(self.stage(), "a+b@x.example")
        self.assertEqual(len(self.files("a+b")), 1)
        for wrong in ("++", "/", "@", "\u00e4"):
            self.assertRaises(ValueError, MaildirSettings, "mail", subaddress=wrong)

    def test_usage(self) -> None:
        """A directory that has not changed is not read again; one that has, is."""
        box = os.path.join(self.directory, "box")
        put(box, "one,S=100")
        usage, new = Usage(), os.path.join(box, "new")
        os.utime(new, (1, 1))
        self.assertEqual(usage.octets(box, 1000.0), 100)
        os.rename(os.path.join(new, "one,S=100"), os.path.join(new, "one,S=7"))
        os.utime(new, (1, 1))
        self.assertEqual(usage.octets(box, 1000.0), 100)
        os.utime(new, (2, 2))
        self.assertEqual(usage.octets(box, 1000.0), 7)
        self.assertEqual(usage.octets(os.path.join(box, "nothing"), 1000.0), 0)


class ModeTests(SynchronousTestCase):
    """
    Whatever the umask, mailboxes are the server's own.
    """

    def test_modes(self) -> None:
        """So are the directories between, whose names are those of mailboxes."""
        directory = os.path.abspath(self.mktemp())
        os.mkdir(directory)
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        services = FakeServices(directory)
        stage = MaildirDelivery(MaildirSettings("mail/{domain}/{local}"), services)
        self.successResultOf(
            stage.deliver(makeMessage(), makeEnvelope(), makeAddressees("a@example.net"))
        )
        top = os.path.join(directory, "mail")
        found = [os.path.join(top, ".")]
        for where, directories, names in os.walk(top):
            found += [os.path.join(where, name) for name in [*directories, *names]]
        self.assertEqual(len(found), 7)
        for path in found:
            self.assertFalse(os.stat(path).st_mode & 0o077, path)


class TwoServersTests(SynchronousTestCase):
    """
    Two servers that are process 1 of their containers, at the same milliseconds, on one
    mail store.
    """

    def setUp(self) -> None:
        self.patch(os, "getpid", lambda: 1)
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)

    def sent(self, **stages: Any) -> list[str]:
        """
        What each of the two has taken.
        """
        servers = [MemoryServer(**stages) for _ in range(2)]
        for server in servers:
            self.addCleanup(server.stop)
        taken = []
        for number in range(rig(50, 1000)):
            for name, server in zip("ab", servers, strict=True):
                word = f"{name}{number}"
                envelope = ("EHLO x.example", "MAIL FROM:<s@x.example>", "RCPT TO:<r@y.example>")
                *_, reply, _ = server.dialogue(
                    *envelope, "DATA", f"Subject: {word}\r\n\r\n{word}\r\n.", "QUIT"
                )
                self.assertTrue(reply.startswith("250 2.6.0"), reply)
                taken.append(word)
        return taken

    def found(self) -> list[str]:
        """
        What has arrived.
        """
        found = []
        for where, _, names in os.walk(self.directory):
            for name in names:
                with open(os.path.join(where, name), encoding="ascii") as file:
                    found.append(file.read().splitlines()[-1])
        return found

    def check(self, delivery: Any) -> None:
        taken = self.sent(delivery=delivery)
        self.assertEqual(Counter(self.found()), Counter(taken))
        self.assertGreater(len(taken), len({name.split("_")[0] for name in self.numbers()}))

    def numbers(self) -> set[str]:
        """
        The transactions' numbers in the names of the files.
        """
        names = [name for _, _, names in os.walk(self.directory) for name in names]
        return {part for name in names for part in re.findall(r"[0-9A-Z]{13}", name)}

    def test_maildir(self) -> None:
        """All that was acknowledged is there, though all ids meet."""
        services = FakeServices(self.directory)
        self.check(MaildirDelivery(MaildirSettings("{local}"), services))

    def test_file(self) -> None:
        """So it is with single files."""
        self.check(FileDelivery(FileSettings("{local}"), FakeServices(self.directory)))
