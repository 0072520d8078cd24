"""
Places in the file system that addresses name, and files that are there as a
whole or not at all.  Everything that writes blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import urllib.parse
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.reply import R451_LOCAL_ERROR, Reply
from deferrals.model.verdict import Failed, Outcome, Retry

_log = Logger(namespace="deferrals.delivery")

_FULL = {errno.ENOSPC, errno.EDQUOT}
_SAFE = "+=@!#$&^`{|}~"

R452_NO_ROOM = Reply(452, "4.2.2", "no room in the mailbox")
R550_LONG_NAME = Reply(550, "5.1.1", "no mailbox can have so long a name")


def template(value: str) -> None:
    """
    For L{checked<deferrals.model.settings.checked>}.
    """
    try:
        value.format(domain="", local="")
    except (KeyError, IndexError, ValueError, AttributeError):
        raise ValueError("a path in which {domain} and {local} may stand") from None


def pathPart(text: str) -> str:
    """
    One component of a path, that can be nothing else.
    """
    if not text:
        return "%"  # the local part "": not the directory of all the others
    quoted = urllib.parse.quote(text.casefold(), safe=_SAFE)
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


def place(baseDir: str, path: str, address: Mailbox) -> str:
    """
    @param path: a L{template}.
    @return: the absolute path for an address.
    """
    named = path.format(
        domain=pathPart(address.domain) if address.domain else "", local=pathPart(address.local)
    )
    return os.path.join(baseDir, named)


def writeDurably(tmp: str, path: str, chunks: Iterable[bytes]) -> None:
    """
    Write a file under another name, sync it, rename it, sync its directory.

    @raise OSError: there is no such file.
    """
    try:
        with open(tmp, "wb", opener=_private) as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.rename(tmp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(tmp)
        raise
    syncDirectory(os.path.dirname(path))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def makeDirectories(path: str, names: Iterable[str] = ()) -> None:
    """
    Make a directory, and those called C{names} in it, and what they are in.
    """
    missing, changed = path, [path] if names else []
    while not os.path.isdir(missing):
        missing = os.path.dirname(missing)
        changed.append(missing)
    os.makedirs(path, mode=0o700, exist_ok=True)
    for name in names:
        os.makedirs(os.path.join(path, name), mode=0o700, exist_ok=True)
    for directory in changed:
        syncDirectory(directory)


def syncDirectory(path: str) -> None:
    """
    Make the names in a directory durable.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def inThreads(
    services: Any, write: Callable[..., Outcome], recipients: Sequence[Addressee], *args: Any
) -> Deferred[dict[Addressee, Outcome]]:
    """
    Write one copy for each recipient.

    @param write: called in a thread, with C{args} and an addressee.
    @return: a Deferred of all outcomes; what fails for one recipient is to be
        tried again for this one.
    """

    def failed(failure: Failure, addressee: Addressee) -> Outcome:
        _log.failure("writing for {recipient}", failure, recipient=str(addressee))
        return Retry(R451_LOCAL_ERROR)

    writing = [
        services.inThread(write, *args, addressee).addErrback(failed, addressee)
        for addressee in recipients
    ]
    done = gatherResults(writing)
    return done.addCallback(lambda outcomes: dict(zip(recipients, outcomes, strict=True)))


def withLF(chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
    """
    Lines that end with LF only.
    """
    held = b""
    for chunk in chunks:
        chunk = held + chunk
        held = b"\r" if chunk.endswith(b"\r") else b""
        yield chunk[: len(chunk) - len(held)].replace(b"\r\n", b"\n")
    yield held


def cannotWrite(error: OSError) -> Outcome:
    """
    What it means that a file could not be written.
    """
    if error.errno == errno.ENAMETOOLONG:
        return Failed(R550_LONG_NAME)
    if error.errno in _FULL:
        return Retry(R452_NO_ROOM)
    return Retry(Reply(451, "4.2.0", f"cannot write to the mailbox: {error.strerror}"))
