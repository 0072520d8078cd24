"""
What a configuration says of what several servers share in a database.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import attrs

from deferrals.model.settings import BadSetting, Seconds, checked, positive

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,30}")


def _schema(value: str) -> None:
    if not _SCHEMA.fullmatch(value) or value.startswith("pg_"):
        raise ValueError("a name of small letters, digits and _, 31 at most, without pg_ in front")


def _machine(value: str) -> None:
    if not value.isprintable() or not 0 < len(value) <= 255:
        raise ValueError("a name")


@attrs.frozen
class SpoolSettings:
    """
    The C{[spool]} table.

    @ivar use: where the queue is: C{"sqlite"} is C{state_dir/spool}; C{"postgresql"} is a
        database, whose queue all servers share that use it.
    @ivar notes: C{"postgresql"}: several machines with queues of their own share what a
        sender's next attempt has to find, in a database; C{"own"}: they do not.  By default
        as the queue.
    @ivar conninfo: how the database is reached: C{libpq}'s connection string, or URI.
    @ivar password_file: a file whose first line is the password; read again at each
        connection.
    @ivar schema: the PostgreSQL schema that has the tables.
    @ivar bodies: a directory that all machines share, for contents above 256 KiB; without
        it they are rows of 1 MiB.
    @ivar lease: an owner that is not heard of for so long is dead, and its work is others'; it
        is heard each quarter of it.
    @ivar timeout: the longest wait for one statement; then the connection is cut.
    @ivar machine: this machine's name in C{deferrals cluster}, the log and metrics, which
        no other machine may have; by default C{hostname}.
    @ivar upgrade: whether a start makes the tables, or brings them to this version;
        otherwise only C{deferrals spool upgrade} does.
    """

    use: Literal["sqlite", "postgresql"] = "sqlite"
    notes: Literal["own", "postgresql"] | None = None
    conninfo: str | None = attrs.field(default=None, repr=False)
    password_file: str | None = None
    schema: str = attrs.field(default="deferrals", validator=checked(_schema))
    bodies: str | None = None
    timeout: Seconds = attrs.field(default=5.0, validator=checked(positive))
    upgrade: bool = True
    lease: Seconds = attrs.field(default=20.0, validator=checked(positive))
    machine: str | None = attrs.field(default=None, validator=checked(_machine))

    def __attrs_post_init__(self) -> None:
        if self.use == "postgresql" and self.notes == "own":
            raise BadSetting("notes", '"postgresql", as the queue is there')
        if self.use == "sqlite":
            self._expectDefaults(("lease", "bodies"), 'only with use = "postgresql"')
        if self.isShared:
            if self.conninfo is None:
                raise BadSetting("conninfo", "a libpq connection string")
            return
        names = ("conninfo", "password_file", "schema", "timeout", "upgrade", "machine")
        self._expectDefaults(names, 'only with use = "postgresql" or notes = "postgresql"')

    def _expectDefaults(self, names: Sequence[str], expected: str) -> None:
        for name in names:
            if getattr(self, name) != getattr(attrs.fields(SpoolSettings), name).default:
                raise BadSetting(name, expected)

    @property
    def isShared(self) -> bool:
        """Whether there is a database."""
        return "postgresql" in (self.use, self.notes)
