"""
Delivery into Maildirs: C{tmp}, sync, rename into C{new}, sync.

A copy begins with Return-Path, Delivered-To and one Received field, none of
which names another recipient.  Its file name follows from the transaction and
the recipient, so that a delivery that is repeated after a crash replaces the
first one as long as it has not been opened.

Where mailboxes are limited, or are not made by mail, the stage says so at
RCPT TO already.  On an error the recipient is retried; nothing half-written is
ever in C{new}.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from typing import Literal

import attrs
from twisted.internet.defer import Deferred
from zope.interface import alsoProvides, implementer

from deferrals.interfaces import (
    IBinaryDelivery,
    IEnvelopeStage,
    IForeseeingDelivery,
    IMessage,
    IServices,
)
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R550_UNKNOWN_RECIPIENT, Reply
from deferrals.model.settings import Octets, checked, positive
from deferrals.model.verdict import Delivered, Failed, Outcome, Refuse, Retry
from deferrals.stages.delivery.copies import writeEach
from deferrals.stages.delivery.copy import final, withLF
from deferrals.stages.delivery.mailboxfiles import (
    cannotBe,
    cannotWrite,
    mailboxPath,
    makeDirectories,
    pathPart,
    template,
    writeWhole,
)
from deferrals.stages.delivery.quota import Usage

R452_FULL = Reply(452, "4.2.2", "the mailbox is full")
R552_NEVER_FITS = Reply(552, "5.2.3", "the message is larger than the mailbox may be")
R451_NO_MAILBOX = Reply(451, "4.2.1", "the mailbox is not there now")


def _separator(value: str) -> None:
    if len(value) > 1 or (value and not value.isascii()) or value in ("/", "@"):
        raise ValueError('one character such as "+", or none')


@attrs.frozen
class MaildirSettings:
    """
    @ivar path: where a recipient's Maildir is; C{{domain}} and C{{local}}
        stand for the parts of the address, in lower case, with what could
        leave the directory written as %XX.
    @ivar create: whether mail makes a mailbox that is not there; if not, its
        recipient is refused.
    @ivar quota: how much may be in a mailbox with all its folders.
    @ivar subaddress: the character that ends the mailbox's part of a local
        part: with C{"+"}, mail for C{user+list} goes to C{user}, into the
        folder C{list} if that is there.
    @ivar line_ends: C{"crlf"} keeps the message's octets; C{"lf"} writes them
        the way older programs expect.
    """

    path: str = attrs.field(validator=checked(template))
    create: bool = True
    quota: Octets | None = attrs.field(default=None, validator=checked(positive))
    subaddress: str = attrs.field(default="", validator=checked(_separator))
    line_ends: Literal["crlf", "lf"] = "crlf"


@implementer(IForeseeingDelivery)
class MaildirDelivery:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: MaildirSettings, services: IServices) -> None:
        self._settings = settings
        self._services = services
        if settings.line_ends == "crlf":
            alsoProvides(self, IBinaryDelivery)
        self._host = services.hostname.replace("/", "\\057").replace(":", "\\072")
        self._usage = Usage()
        if settings.quota is not None or not settings.create:
            alsoProvides(self, IEnvelopeStage)

    def mailbox(self, address: Mailbox) -> str:
        """
        The absolute path of a recipient's Maildir.
        """
        local, _ = self._parts(address)
        owner = Mailbox(local, address.domain)
        return mailboxPath(self._services.baseDir, self._settings.path, owner)

    def _parts(self, address: Mailbox) -> tuple[str, str]:
        """
        A local part as the mailbox's name, and what is behind the separator.
        """
        separator = self._settings.subaddress
        local, _, detail = address.local.partition(separator) if separator else (address.local,) * 3
        return (local, detail) if separator and local else (address.local, "")

    def _folder(self, addressee: Addressee) -> str:
        """
        Where in the mailbox a copy goes.  Only a folder that is there counts:
        senders make none.
        """
        maildir = self.mailbox(addressee.recipient.address)
        if addressee.marks.junk:
            return os.path.join(maildir, ".Junk")
        _, detail = self._parts(addressee.recipient.address)
        if detail:
            wanted = f".{pathPart(detail)}"
            try:
                names = os.listdir(maildir)
            except FileNotFoundError:
                names = []
            for name in sorted(names):
                if name.casefold() == wanted and os.path.isdir(os.path.join(maildir, name, "cur")):
                    return os.path.join(maildir, name)
        return maildir

    def destination(self, recipient: Recipient) -> str:
        return "maildir"

    # Before the data.

    def refusal(self, envelope: Envelope, recipient: Recipient) -> Reply | None:
        folder = os.path.join(self.mailbox(recipient.address), ".Junk", "tmp")
        return cannotBe(os.path.join(folder, self._fileName(envelope, 0)))

    def _fileName(self, envelope: Envelope, seq: int) -> str:
        return f"{int(envelope.received)}.{envelope.id}_{seq}.{self._host}"

    def judgeRecipient(self, envelope: Envelope, recipient: Recipient) -> Deferred[Refuse | None]:
        """
        Whether there is a mailbox, and room in it; asked where it may not be
        so (L{IEnvelopeStage.judgeRecipient}).
        """
        return self._services.inThread(self._judge, envelope, recipient)

    def _judge(self, envelope: Envelope, recipient: Recipient) -> Refuse | None:
        """
        Whether there is a mailbox, and room in it (in a thread).
        """
        maildir = self.mailbox(recipient.address)
        if not self._settings.create and not _isMaildir(maildir):
            # Without the directory around it this is no statement about a user.
            known = os.path.isdir(os.path.dirname(maildir))
            return Refuse(R550_UNKNOWN_RECIPIENT if known else R451_NO_MAILBOX)
        reply = self._noRoom(maildir, envelope.parameters.size or 0)
        return None if reply is None else Refuse(reply)

    def _noRoom(self, maildir: str, octets: int) -> Reply | None:
        quota = self._settings.quota
        if quota is None:
            return None
        if octets > quota:
            return R552_NEVER_FITS
        used = self._usage.octets(maildir, self._services.reactor.seconds())
        return R452_FULL if used + max(octets, 1) > quota else None

    # After the final reply.

    def deliver(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Addressee]
    ) -> Deferred[dict[Addressee, Outcome]]:
        write = functools.partial(self._write, message, envelope)
        return writeEach(self._services.inThread, write, recipients)

    def _write(self, message: IMessage, envelope: Envelope, addressee: Addressee) -> Outcome:
        """
        One copy (in a thread).
        """
        copy = final(message, envelope, self._services.hostname, addressee)
        maildir = self.mailbox(addressee.recipient.address)
        if not self._settings.create and not _isMaildir(maildir):
            return Retry(R451_NO_MAILBOX)
        reply = self._noRoom(maildir, copy.size)
        if reply is not None:
            return Failed(reply) if reply.isPermanent else Retry(reply)
        name = self._fileName(envelope, addressee.seq)
        chunks: Iterable[bytes] = copy.chunks()
        if self._settings.line_ends == "lf":
            chunks = withLF(chunks)
        elif self._settings.quota is not None:
            name = f"{name},S={copy.size}"
        try:
            writeMaildir(self._folder(addressee), name, chunks)
        except OSError as error:
            return cannotWrite(error)
        return Delivered()


def _isMaildir(path: str) -> bool:
    return os.path.isdir(os.path.join(path, "cur"))


def writeMaildir(path: str, name: str, chunks: Iterable[bytes]) -> None:
    """
    Put a message into a Maildir, which is made if it is not there.  Blocks.

    @raise OSError: it is not in C{new}.
    """
    if not _isMaildir(path):
        # cur is the last one that is made: where it is, the others are, too.
        makeDirectories(path, ("tmp", "new", "cur"))
    writeWhole(os.path.join(path, "tmp", name), os.path.join(path, "new", name), chunks)
