"""
Delivery into Maildirs: C{tmp}, sync, rename into C{new}, sync.

A copy begins with Return-Path, Delivered-To and one Received field, none of
which names another recipient.  Its file name follows from the transaction, the
spool and the recipient: a delivery that is repeated after a crash finds the first
one, as long as that has not been opened, and no other server has such a name.  A
file is never replaced.

Where mailboxes are limited, or are not made by mail, the stage says so at
RCPT TO already.  On an error the recipient is retried; nothing half-written is
ever in C{new}.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import attrs
from twisted.internet.defer import Deferred
from zope.interface import alsoProvides, implementer

from deferrals.interfaces import (
    IBinaryDelivery,
    IEnvelopeStage,
    IForeseeingDelivery,
    IMessage,
    IReportingDelivery,
    IServices,
    ISharingDelivery,
)
from deferrals.model.address import comparable, separator
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.pathpart import pathPart
from deferrals.model.reply import R550_UNKNOWN_RECIPIENT, Reply
from deferrals.model.settings import Octets, checked, positive
from deferrals.model.verdict import Failed, Outcome, Refuse, Retry
from deferrals.stages.delivery.copies import Report, ReportingDelivery
from deferrals.stages.delivery.copy import final, withLF
from deferrals.stages.delivery.mailboxfiles import (
    cannotBe,
    mailboxPath,
    makeDirectories,
    newFile,
    template,
)
from deferrals.stages.delivery.quota import Usage
from deferrals.stages.delivery.together import CopyWriter, NewCopy

#: The directory of the folder for junk.
JUNK = ".Junk"

#: A part of a folder's name that is encoded.
_ENCODED = re.compile(r"&([A-Za-z0-9+,]*)-")

R452_FULL = Reply(452, "4.2.2", "the mailbox is full")
R552_NEVER_FITS = Reply(552, "5.2.3", "the message is larger than the mailbox may be")
R451_NO_MAILBOX = Reply(451, "4.2.1", "the mailbox is not there now")


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
        folder C{list} if that is there; by default the rule's.
    @ivar line_ends: C{"crlf"} keeps the message's octets; C{"lf"} writes them
        the way older programs expect.
    """

    path: str = attrs.field(validator=checked(template))
    create: bool = True
    quota: Octets | None = attrs.field(default=None, validator=checked(positive))
    subaddress: str | None = attrs.field(default=None, validator=checked(separator))
    line_ends: Literal["crlf", "lf"] = "crlf"


@implementer(IForeseeingDelivery, IReportingDelivery, ISharingDelivery)
class MaildirDelivery(ReportingDelivery):
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: MaildirSettings, services: IServices) -> None:
        self._settings = settings
        self._services = services
        self._writer = CopyWriter(services.inThread, services.reactor)
        if settings.line_ends == "crlf":
            alsoProvides(self, IBinaryDelivery)
        self._host = services.hostname.replace("/", "\\057").replace(":", "\\072")
        self._usage = Usage()
        if settings.quota is not None or not settings.create:
            alsoProvides(self, IEnvelopeStage)

    def mailbox(self, recipient: Recipient) -> str:
        """
        The absolute path of a recipient's Maildir.
        """
        owner, _ = recipient.parted(self._settings.subaddress)
        return mailboxPath(self._services.baseDir, self._settings.path, owner)

    def _folder(self, maildir: str, addressee: Addressee) -> str:
        """
        The folder that a copy goes into, as the name of its directory; empty for the
        inbox.  Only a folder that is there counts: senders make none.
        """
        if addressee.marks.junk:
            return JUNK
        _, detail = addressee.recipient.parted(self._settings.subaddress)
        return _folderFor(maildir, detail) if detail else ""

    def destination(self, recipient: Recipient) -> str:
        return "maildir"

    # Before the data.

    def refusal(self, envelope: Envelope, recipient: Recipient) -> Reply | None:
        folder = os.path.join(self.mailbox(recipient), ".Junk", "tmp")
        return cannotBe(os.path.join(folder, f"{self._firstName(envelope, 0)}.{self._host}"))

    def _firstName(self, envelope: Envelope, seq: int) -> str:
        """The parts of a file's name that are no other message's."""
        return f"{int(envelope.received)}.{envelope.uniqueId}_{seq}"

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
        maildir = self.mailbox(recipient)
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

    def deliverReporting(
        self,
        message: IMessage,
        envelope: Envelope,
        recipients: Sequence[Addressee],
        report: Report,
    ) -> Deferred[dict[Addressee, Outcome]]:
        prepare = functools.partial(self._prepare, message, envelope)
        return self._writer.deliver(envelope, message.size, recipients, prepare, report)

    def _prepare(
        self, message: IMessage, envelope: Envelope, addressee: Addressee
    ) -> NewCopy | Outcome:
        """
        One copy (in a thread).
        """
        copy = final(message, envelope, self._services.hostname, addressee)
        maildir = self.mailbox(addressee.recipient)
        if not self._settings.create and not _isMaildir(maildir):
            return Retry(R451_NO_MAILBOX)
        reply = self._noRoom(maildir, copy.size)
        if reply is not None:
            return Failed(reply) if reply.isPermanent else Retry(reply)
        name, end = self._firstName(envelope, addressee.seq), self._host
        chunks: Iterable[bytes] = copy.chunks()
        if self._settings.line_ends == "lf":
            chunks = withLF(chunks)
        elif self._settings.quota is not None:
            end = f"{end},S={copy.size}"
        folder = self._folder(maildir, addressee)
        return maildirCopy(maildir, folder, lambda more: f"{name}{more}.{end}", chunks)


def _isMaildir(path: str) -> bool:
    return os.path.isdir(os.path.join(path, "cur"))


def _folderFor(maildir: str, detail: str) -> str:
    """
    The directory of the folder that a subaddress names; empty where there is none.
    """
    try:
        names = sorted(os.listdir(maildir))
    except FileNotFoundError:
        return ""
    wanted = {comparable(detail), comparable(pathPart(detail))}
    folders = (name for name in names if name.startswith("."))
    for name in folders:
        isWanted = comparable(folderName(name[1:])) in wanted
        if isWanted and _isMaildir(os.path.join(maildir, name)):
            return name
    return ""


def folderName(text: str) -> str:
    """
    The name of a folder of its directory's, which is in modified UTF-7 (RFC 3501
    §5.1.3); what is none stays what it is.
    """
    try:
        return _ENCODED.sub(_decoded, text)
    except ValueError:
        return text


def _decoded(match: re.Match[str]) -> str:
    letters = match[1]
    if not letters:
        return "&"
    padded = letters.replace(",", "/") + "=" * (-len(letters) % 4)
    return base64.b64decode(padded, validate=True).decode("utf-16-be")


def maildirCopy(
    maildir: str, folder: str, name: Callable[[str], str], chunks: Iterable[bytes]
) -> NewCopy:
    """
    A message for a Maildir, or for a folder of it, which are made if they are not
    there.  Blocks.

    @param folder: the name of its directory; empty for the inbox.
    @param name: makes the name of the file, with this text in it.
    @raise OSError: there is no such Maildir.
    """
    _makeMaildir(maildir, maildir)
    box = maildir
    if folder:
        box = os.path.join(maildir, folder)
        _makeMaildir(box, maildir)
    file = newFile(os.path.join(box, "tmp", name("")), os.path.join(box, "new"), name)
    return NewCopy(file, chunks, functools.partial(_count, maildir))


def _makeMaildir(path: str, top: str) -> None:
    """
    Make a Maildir, if it is not there.

    @param top: the Maildir that it is a folder of, or the same; the group that may use
        that may use what is made, too.
    """
    if _isMaildir(path):
        return
    mode = 0o700
    with contextlib.suppress(FileNotFoundError):
        mode |= stat.S_IMODE(os.stat(top).st_mode) & 0o2070
    # cur is the last one that is made: where it is, the others are, too.
    makeDirectories(path, ("tmp", "new"), mode)
    if path != top:
        _markFolder(os.path.join(path, "maildirfolder"), mode & 0o060 | 0o600)
    makeDirectories(path, ("cur",), mode)


def _markFolder(path: str, mode: int) -> None:
    """
    Say that a Maildir is a folder of another one (Maildir++).
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)


def _count(maildir: str, octets: int) -> None:
    """
    Tell the programs that keep the size of a Maildir in it (Maildir++): where their
    file is.  Where it cannot be told, they count anew some time.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with contextlib.suppress(OSError):
        fd = os.open(os.path.join(maildir, "maildirsize"), flags)
        try:
            os.write(fd, b"%d 1\n" % octets)
        finally:
            os.close(fd)
