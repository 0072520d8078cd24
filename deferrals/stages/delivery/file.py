"""
Delivery into a directory: each copy a file of its own, complete from the moment
it has its name.

The name follows from the transaction, the spool and the recipient: it is the same
when a delivery is repeated after a crash, and no other server's.  A file is never
replaced.
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
    IForeseeingDelivery,
    IMessage,
    IReportingDelivery,
    IServices,
    ISharingDelivery,
)
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.settings import checked
from deferrals.model.verdict import Outcome
from deferrals.stages.delivery.copies import Report, ReportingDelivery
from deferrals.stages.delivery.copy import final, withLF
from deferrals.stages.delivery.mailboxfiles import (
    cannotBe,
    mailboxPath,
    makeDirectories,
    newFile,
    template,
)
from deferrals.stages.delivery.together import CopyWriter, NewCopy


@attrs.frozen
class FileSettings:
    """
    @ivar path: the directory, which is made if it is not there; C{{domain}} and
        C{{local}} stand for the parts of the address, as in C{maildir}.
    @ivar line_ends: C{"crlf"} keeps the message's octets; C{"lf"} writes them
        the way older programs expect.
    """

    path: str = attrs.field(validator=checked(template))
    line_ends: Literal["crlf", "lf"] = "crlf"


@implementer(IForeseeingDelivery, IReportingDelivery, ISharingDelivery)
class FileDelivery(ReportingDelivery):
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: FileSettings, services: IServices) -> None:
        self._settings = settings
        self._services = services
        self._writer = CopyWriter(services.inThread, services.reactor)
        if settings.line_ends == "crlf":
            alsoProvides(self, IBinaryDelivery)

    def destination(self, recipient: Recipient) -> str:
        return "file"

    def refusal(self, envelope: Envelope, recipient: Recipient) -> Reply | None:
        directory, name = self._place(envelope, recipient, 0)
        return cannotBe(os.path.join(directory, f"{name}.eml"))

    def _place(self, envelope: Envelope, recipient: Recipient, seq: int) -> tuple[str, str]:
        """
        @return: the directory, and the name in it without its end.
        """
        directory = mailboxPath(self._services.baseDir, self._settings.path, recipient.address)
        return directory, f"{envelope.uniqueId}-{seq}"

    def deliverReporting(
        self,
        message: IMessage,
        envelope: Envelope,
        recipients: Sequence[Addressee],
        report: Report,
    ) -> Deferred[dict[Addressee, Outcome]]:
        prepare = functools.partial(self._prepare, message, envelope)
        return self._writer.deliver(envelope, message.size, recipients, prepare, report)

    def _prepare(self, message: IMessage, envelope: Envelope, addressee: Addressee) -> NewCopy:
        """
        One copy (in a thread).
        """
        directory, name = self._place(envelope, addressee.recipient, addressee.seq)
        copy = final(message, envelope, self._services.hostname, addressee)
        chunks: Iterable[bytes] = copy.chunks()
        if self._settings.line_ends == "lf":
            chunks = withLF(chunks)
        makeDirectories(directory)
        temporary = os.path.join(directory, f".{name}.eml.tmp")
        return NewCopy(newFile(temporary, directory, lambda more: f"{name}{more}.eml"), chunks)
