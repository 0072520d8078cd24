"""
The connection before: what its server is still at ends before the next one begins.

A watchdog cuts the wire, and the server may commit all the same, later: when its disk
answers again, or a lock is free.  What takes back an unknown outcome has to come after
that.

Everything here runs in a thread that has a connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deferrals.errors import StoreAway

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

#: How often it is looked whether that is over, and how long between, in seconds.
_LOOKS, _PAUSE = 40, 0.05

_ME = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"

#: Another server, or one that has started again, has none that began at that instant.
_END = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid = %s AND backend_start = %s::timestamptz"
)


class CutOff:
    """
    What knows the connection before.
    """

    def __init__(self) -> None:
        self._before: tuple[int, str] | None = None

    def begin(self, db: Connection) -> None:
        """
        For L{StoreConnection.begin
        <deferrals.spool.postgresql.connection.StoreConnection>}.

        @raise StoreAway: the server is at it still: it is to be tried again.
        """
        if self._before is not None:
            _end(db, self._before)
        found = db.execute(_ME).fetchone()
        self._before = None if found is None else (found[0], found[1])


def _end(db: Connection, before: tuple[int, str]) -> None:
    for _ in range(_LOOKS):
        if db.execute(_END, before).fetchone() is None:
            return
        db.execute("SELECT pg_sleep(%s)", (_PAUSE,))
    raise StoreAway("the server is still at what the connection before has asked for")
