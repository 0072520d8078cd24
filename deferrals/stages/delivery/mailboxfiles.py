"""
Files of mailboxes: their names, which addresses say, and how they come to be
there as a whole or not at all.  Everything that writes blocks: call it in a
thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import urllib.parse
from collections.abc import Iterable

from deferrals import durable
from deferrals.model.address import Mailbox, comparable
from deferrals.model.reply import Reply
from deferrals.model.verdict import Failed, Outcome, Retry

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
    quoted = urllib.parse.quote(comparable(text), safe=_SAFE)
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


def mailboxPath(baseDir: str, path: str, address: Mailbox) -> str:
    """
    @param path: a L{template}.
    @return: the absolute path for an address.
    """
    named = path.format(
        domain=pathPart(address.domain) if address.domain else "", local=pathPart(address.local)
    )
    return os.path.join(baseDir, named)


def writeWhole(temporary: str, path: str, chunks: Iterable[bytes]) -> None:
    """
    Write a file that is durable, and whole from the moment it has its name.

    @param temporary: in a directory of the same file system; a file of that
        name is what a crash has left of an earlier try.
    @raise OSError: there is no such file.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    durable.write(temporary, path, chunks)


def makeDirectories(path: str, names: Iterable[str] = ()) -> None:
    """
    Make a directory, and those called C{names} in it, and what they are in, for
    the server's own user alone, and all of it durable.
    """
    made = durable.makeDirectory(path)
    for name in names:
        made += durable.makeDirectory(os.path.join(path, name))
    changed = [path] if names else []
    for directory in dict.fromkeys([*changed, *map(os.path.dirname, reversed(made))]):
        durable.sync(directory)


def cannotWrite(error: OSError) -> Outcome:
    """
    What it means that a file could not be written.
    """
    if error.errno == errno.ENAMETOOLONG:
        return Failed(R550_LONG_NAME)
    if error.errno in _FULL:
        return Retry(R452_NO_ROOM)
    return Retry(Reply(451, "4.2.0", f"cannot write to the mailbox: {error.strerror}"))
