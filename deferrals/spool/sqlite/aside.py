"""
What does not fit, or cannot be read, in a directory of its own in the spool: no
name there is used twice, and nothing there is removed but by an operator.

Everything here blocks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time

from deferrals import durable
from deferrals.spool.sqlite.files import SpoolFiles

#: The file that says why a database is there.
WHY = "why"


def newDirectory(files: SpoolFiles, kind: str, why: str) -> str:
    """
    Make a directory for what is moved aside.

    @param kind: the first word of its name.
    @param why: a sentence for the operator.
    """
    name = os.path.join(files.damaged, time.strftime(f"{kind}-%Y%m%dT%H%M%S"))
    path, count = name, 1
    while os.path.exists(path):
        path, count = f"{name}-{count}", count + 1
    durable.makeDirectory(path)
    with contextlib.suppress(OSError):  # a full disk keeps nothing from being set aside
        durable.write(
            os.path.join(path, f"{WHY}.new"), os.path.join(path, WHY), [why.encode() + b"\n"]
        )
    return path


def moveDatabase(
    files: SpoolFiles, kind: str, why: str, *, log: bool = False, mark: bool = True
) -> str:
    """
    Move the database with all that belongs to it.

    @param log: only its log.
    @param mark: also the mark of the directory.

    @return: the directory where it is now.
    """
    path = newDirectory(files, kind, why)
    # The log before the database: without it, that is older, which is noticed.
    names = [files.log, f"{files.database}-shm"]
    names += [] if log else [files.database]
    names += [files.mark] if mark and not log else []
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.rename(name, os.path.join(path, os.path.basename(name)))
    durable.sync(path)
    durable.sync(files.directory)
    return path


def copyLog(files: SpoolFiles, why: str) -> str:
    """
    Keep the write-ahead log as it is now.

    @return: the directory where it is.
    """
    path = newDirectory(files, "log", why)
    copy = os.path.join(path, os.path.basename(files.log))
    shutil.copyfile(files.log, copy)
    os.chmod(copy, 0o600)
    durable.syncWithName(copy)
    return path
