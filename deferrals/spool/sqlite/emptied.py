"""
The removal of a spool that is of no more use.  What is not known to be useless stays.

Everything here blocks.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

from deferrals.errors import SpoolError
from deferrals.spool.sqlite.files import SpoolFiles, SpoolLock, removeFile
from deferrals.spool.sqlite.queries import readOnly


def removeEmpty(directory: str) -> bool:
    """
    Remove a spool that no process has and that has nothing: no message, no content,
    whether a row knows it or not, nothing set aside, no file of others.  It is locked
    until it is gone, so that no process takes mail into what is being removed.

    @return: whether it is gone; otherwise all of it that anybody could miss is there.
    """
    files = SpoolFiles(directory)
    lock = SpoolLock(files)
    try:
        lock.take()
        if not _hasMail(files):
            _remove(files)
            return True
    except (OSError, SpoolError, sqlite3.Error):
        pass  # another process has it, or there is something in it
    finally:
        lock.release()
    return False


def _hasMail(files: SpoolFiles) -> bool:
    """
    As the database says; another process may have had it a moment ago.

    @raise sqlite3.Error: it cannot be read.
    """
    with contextlib.closing(readOnly(files.database)) as db:
        return db.execute("SELECT 1 FROM messages LIMIT 1").fetchone() is not None


def _remove(files: SpoolFiles) -> None:
    """
    @raise OSError: it has something that is not the spool's own.
    """
    own = [files.database, files.log, f"{files.database}-shm", files.mark, files.reserve]
    known = {os.path.basename(path) for path in (*own, files.lock, files.bodies, files.damaged)}
    inside = [path for path in (files.bodies, files.damaged) if os.path.isdir(path)]
    strange = set(os.listdir(files.directory)) - known
    if strange or any(map(os.listdir, inside)):
        raise OSError(f"there is something in {files.directory}")
    for path in inside:
        os.rmdir(path)
    for path in (*own, files.lock):
        removeFile(path)
    os.rmdir(files.directory)
