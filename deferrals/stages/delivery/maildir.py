"""
Delivery into Maildirs: C{tmp}, sync, rename into C{new}, sync.

A copy begins with Return-Path, Delivered-To and one Received field, none of
which names another recipient.  Its file name follows from the transaction and
the recipient, so that a delivery that is repeated after a crash replaces the
first one as long as nobody has opened it.

On an error the recipient is retried; nothing half-written is ever in C{new}.
"""

from __future__ import annotations

import contextlib
import errno
import os
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import attrs
from twisted.internet.defer import Deferred, inlineCallbacks
from zope.interface import implementer

from deferrals.interfaces import IDeliveryStage
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.settings import checked
from deferrals.model.trace import deliveredTo, received, returnPath
from deferrals.model.verdict import Delivered, Outcome, Retry
from deferrals.stages.delivery.copy import Copy

_FULL = {errno.ENOSPC, errno.EDQUOT}
_SAFE = "+=@!#$&^`{|}~"


def _path(value: str) -> None:
    try:
        value.format(domain="", local="")
    except (KeyError, IndexError, ValueError):
        raise ValueError("a path in which {domain} and {local} may stand") from None


@attrs.frozen
class MaildirSettings:
    """
    @ivar path: where a recipient's Maildir is; C{{domain}} and C{{local}}
        stand for the parts of the address, in lower case, with what could
        leave the directory written as %XX.
    @ivar line_ends: C{"crlf"} keeps the message's octets; C{"lf"} writes them
        the way older programs expect.
    """

    path: str = attrs.field(validator=checked(_path))
    line_ends: Literal["crlf", "lf"] = "crlf"


def pathPart(text: str) -> str:
    """
    One component of a path, that can be nothing else.
    """
    quoted = urllib.parse.quote(text.casefold(), safe=_SAFE)
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


@implementer(IDeliveryStage)
class MaildirDelivery:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: MaildirSettings, services: Any) -> None:
        self._settings = settings
        self._services = services
        self._host = services.hostname.replace("/", "\\057").replace(":", "\\072")

    @property
    def takesBinary(self) -> bool:
        """
        See L{IDeliveryStage}.
        """
        return self._settings.line_ends == "crlf"

    def mailbox(self, address: Mailbox, junk: bool = False) -> str:
        """
        The absolute path of somebody's Maildir, or of the Junk folder in it.
        """
        path = self._settings.path.format(
            domain=pathPart(address.domain), local=pathPart(address.local)
        )
        path = os.path.join(self._services.baseDir, path)
        return os.path.join(path, ".Junk") if junk else path

    def destination(self, recipient: Recipient) -> str:
        """
        See L{IDeliveryStage.destination}.
        """
        return "maildir"

    @inlineCallbacks
    def deliver(self, message: Any, envelope: Envelope, recipients: Sequence[Addressee]) -> Any:
        """
        See L{IDeliveryStage.deliver}.
        """
        writing: list[tuple[Addressee, Deferred[Outcome]]] = []
        for addressee in recipients:
            d = self._services.inThread(self._write, message, envelope, addressee)
            writing.append((addressee, d))
        outcomes = {}
        for addressee, d in writing:
            outcomes[addressee] = yield d
        return outcomes

    def _write(self, message: Any, envelope: Envelope, addressee: Addressee) -> Outcome:
        """
        One copy (in a thread).
        """
        address = addressee.recipient.address
        trace = returnPath(envelope) + deliveredTo(str(address))
        trace += received(envelope, self._services.hostname, str(address))
        copy = Copy(message, trace, addressee.marks)
        path = self.mailbox(address, addressee.marks.junk)
        name = f"{int(envelope.received)}.{envelope.id}_{addressee.seq}.{self._host}"
        chunks: Iterable[bytes] = copy.chunks()
        if self._settings.line_ends == "lf":
            chunks = _withLF(chunks)
        try:
            writeMaildir(path, name, chunks)
        except OSError as error:
            if error.errno in _FULL:
                return Retry(Reply(452, "4.2.2", "no room in the mailbox"))
            return Retry(Reply(451, "4.2.0", f"cannot write to the mailbox: {error.strerror}"))
        return Delivered()


def writeMaildir(path: str, name: str, chunks: Iterable[bytes]) -> None:
    """
    Put a message into a Maildir, which is made if it is not there.  Blocks.

    @raise OSError: it is not in C{new}.
    """
    _makeMaildir(path)
    tmp, new = os.path.join(path, "tmp", name), os.path.join(path, "new", name)
    try:
        with open(tmp, "wb", opener=_private) as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.rename(tmp, new)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(tmp)
        raise
    _syncDirectory(os.path.dirname(new))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _makeMaildir(path: str) -> None:
    """
    C{tmp}, C{new} and C{cur}, in this order: who finds C{cur} finds all.
    """
    if os.path.isdir(os.path.join(path, "cur")):
        return
    missing = path
    made = []
    while not os.path.isdir(missing):
        made.append(missing)
        missing = os.path.dirname(missing)
    for name in ("tmp", "new", "cur"):
        os.makedirs(os.path.join(path, name), mode=0o700, exist_ok=True)
    for directory in [path, *map(os.path.dirname, made)]:
        _syncDirectory(directory)


def _syncDirectory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _withLF(chunks: Iterable[bytes]) -> Iterable[bytes]:
    held = b""
    for chunk in chunks:
        chunk = held + chunk
        held = b"\r" if chunk.endswith(b"\r") else b""
        yield chunk[: len(chunk) - len(held)].replace(b"\r\n", b"\n")
    yield held
