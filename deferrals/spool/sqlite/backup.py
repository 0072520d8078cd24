"""
A copy of a spool, made while a server uses it: whole, and as it was at one moment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3

from deferrals import durable
from deferrals.errors import SpoolError
from deferrals.model.ids import parseId
from deferrals.spool.message import PART
from deferrals.spool.sqlite.files import SpoolFiles, createPrivate
from deferrals.spool.sqlite.leaving import leave
from deferrals.spool.sqlite.marker import Mark, Marker, generationOf
from deferrals.spool.sqlite.queries import readOnly
from deferrals.spool.sqlite.schema import identity


def backUp(files: SpoolFiles, directory: str) -> int:
    """
    Copy a spool.  Blocks.

    The contents are copied before the database and after it: what is in the copy
    of the database had its content before, or has it still, unless it has left
    the queue meanwhile; then it leaves the copy, too.

    @param directory: where to; it must not be there.
    @return: how many messages are in it.
    @raise SpoolError: it cannot be made.
    """
    copy = SpoolFiles(os.path.abspath(directory))
    try:
        os.mkdir(copy.directory, 0o700)
        copy.make()
        _contents(files, copy)
        createPrivate(copy.database)
        with contextlib.closing(readOnly(files.database)) as db:
            db.execute("VACUUM INTO ?", (copy.database,))
        _contents(files, copy, withUnnamed=True)
        count = _agree(copy)
        durable.sync(copy.database)
        durable.sync(copy.bodies)
        durable.sync(copy.directory)
    except (OSError, sqlite3.Error) as error:
        raise SpoolError(f"cannot back up {files.directory}: {error}") from None
    return count


def _contents(files: SpoolFiles, copy: SpoolFiles, withUnnamed: bool = False) -> None:
    """
    @param withUnnamed: also those whose messages' rows may just have become durable.
    """
    for name in sorted(os.listdir(files.bodies), reverse=True):  # named while it is read
        path = os.path.join(copy.bodies, name.removesuffix(PART))
        if (name.endswith(PART) and not withUnnamed) or os.path.exists(path):
            continue
        with contextlib.suppress(FileNotFoundError):  # it left the queue meanwhile
            _content(os.path.join(files.bodies, name), path)


def _content(source: str, path: str) -> None:
    """
    A content never changes: on the same disk a second name for it will do.
    """
    try:
        os.link(source, path)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, path)
        os.chmod(path, 0o600)
        durable.sync(path)


def _agree(copy: SpoolFiles) -> int:
    """
    @return: how many messages are in the copy.
    """
    with contextlib.closing(sqlite3.connect(copy.database, isolation_level=None)) as db:
        db.execute("BEGIN")
        inFiles = db.execute(
            "SELECT id FROM messages WHERE NOT EXISTS (SELECT 1 FROM bodies WHERE"
            " bodies.id = messages.id)"
        ).fetchall()
        known = {number for (number,) in inFiles}
        for number in known - set(copy.bodyNumbers()):
            db.execute("DELETE FROM recipients WHERE message = ?", (number,))
            leave(db, number)
        db.execute("DELETE FROM leaving")
        db.execute("COMMIT")
        for name in os.listdir(copy.bodies):
            with contextlib.suppress(ValueError):
                if parseId(name) not in known:
                    os.unlink(os.path.join(copy.bodies, name))  # the copy, not the content
        (count,) = db.execute("SELECT COUNT(*) FROM messages").fetchone()
        mark = Mark(identity(db), generationOf(db), closed=True)
    Marker(copy.mark, copy.database).write(mark)
    return int(count)
