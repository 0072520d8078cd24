"""
Files of mailboxes: their names, which addresses say, and how they come to be
there as a whole or not at all.  Everything that writes blocks: call it in a
thread.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import PurePath

from deferrals import durable
from deferrals.model import settings
from deferrals.model.address import Mailbox
from deferrals.model.pathpart import pathPart
from deferrals.model.reply import Reply
from deferrals.model.verdict import Details, Failed, Outcome, Retry

_FULL = {errno.ENOSPC, errno.EDQUOT}

#: What makes further names of a file's, where other files have them.
_MORE = ("", *(f"_{number}" for number in range(2, 10)))

R452_NO_ROOM = Reply(452, "4.2.2", "no room in the mailbox")
R451_NOT_WRITTEN = Reply(451, "4.2.0", "the mailbox cannot be written to now")
R550_LONG_NAME = Reply(550, "5.1.3", "no mailbox can have so long a name")

#: No file system here has longer names, or takes longer paths.
_NAME_OCTETS = 255
_PATH_OCTETS = 4095


def template(value: str) -> None:
    """
    For L{checked<deferrals.model.settings.checked>}.
    """
    settings.template(value, "domain", "local")


def mailboxPath(baseDir: str, path: str, address: Mailbox) -> str:
    """
    @param path: a L{template}.
    @return: the absolute path for an address.
    """
    named = path.format(
        domain=pathPart(address.domain) if address.domain else "", local=pathPart(address.local)
    )
    return os.path.join(baseDir, named)


def cannotBe(path: str) -> Reply | None:
    """
    @return: the refusal of a file whose path no file system takes.
    """
    octets = len(os.fsencode(path))
    isTooLong = octets > _PATH_OCTETS or (
        octets > _NAME_OCTETS
        and any(len(os.fsencode(name)) > _NAME_OCTETS for name in PurePath(path).parts)
    )
    return R550_LONG_NAME if isTooLong else None


def newFile(temporary: str, directory: str, name: Callable[[str], str]) -> durable.NewFile:
    """
    A file that is durable, and whole from the moment it has its name.  It replaces none:
    where another file has its name, it has another one.

    @param temporary: in a directory of the same file system; a file of that
        name is what a crash has left of an earlier try.
    @param directory: where the file is to be; its group may do with the file what it
        may do with the directory.
    @param name: makes the name with this text in it.
    @raise OSError: there is no such directory.
    """
    mode = stat.S_IMODE(os.stat(directory).st_mode) & 0o060 | 0o600
    return durable.NewFile(temporary, (os.path.join(directory, name(more)) for more in _MORE), mode)


def makeDirectories(path: str, names: Iterable[str] = (), mode: int = 0o700) -> None:
    """
    Make a directory, and those called C{names} in it, and what they are in, for
    the server's own user alone, and all of it durable.

    @param mode: of those that are called C{names}, and of C{path}.
    """
    made = durable.makeDirectory(os.path.dirname(path)) + durable.makeDirectory(path, mode)
    for name in names:
        made += durable.makeDirectory(os.path.join(path, name), mode)
    changed = [path] if names else []
    for directory in dict.fromkeys([*changed, *map(os.path.dirname, reversed(made))]):
        durable.sync(directory)


def cannotWrite(error: OSError) -> Outcome:
    """
    What it means that a file could not be written.
    """
    details = Details.ofError(error)
    if error.errno == errno.ENAMETOOLONG:
        return Failed(R550_LONG_NAME, details=details)
    reply = R452_NO_ROOM if error.errno in _FULL else R451_NOT_WRITTEN
    return Retry(reply, details=details)
