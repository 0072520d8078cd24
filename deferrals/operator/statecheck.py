"""
What the first octets of a queue's database say, for C{deferrals check-config}: whether
a server would open it.  They are read in a process of their own: one that has the
database open would lose SQLite's locks on it.
"""

from __future__ import annotations

import contextlib
import os

from deferrals.config.tables import Config
from deferrals.errors import ConfigError
from deferrals.spool.sqlite.files import SpoolFiles
from deferrals.spool.sqlite.pages import MAGIC
from deferrals.spool.sqlite.schema import VERSION

#: SQLite's header has its format's number, C{user_version}, in four octets from there.
_VERSION_AT = 60


def lookAtQueue(config: Config) -> str:
    """
    @return: what the next start would do about the database; empty for nothing.
    @raise ConfigError: another version of the program has made it.
    """
    path = SpoolFiles(config.spoolDirectory).database
    header = b""
    # Others say why it cannot be read.
    with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
        header = file.read(_VERSION_AT + 4)
        size = os.fstat(file.fileno()).st_size
    if not header:
        return ""
    if not header.startswith(MAGIC):
        return (
            f"{path} is no database ({size} octets): the next start sets it aside, and begins"
            " with an empty queue"
        )
    version = int.from_bytes(header[_VERSION_AT:], "big")
    if version > VERSION:
        why = f"a queue of format {VERSION} at most: {path} has {version}, of a newer version"
        raise ConfigError(config.path, [("state_dir", f"expected {why}")])
    return ""
