"""
What is looked up, and where.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import Interface

from deferrals.model.tablekeys import TableKeys, TableRow


class ITable(Interface):
    """
    Where rows are found by addresses: what recipients have set, what an alias stands
    for, what a login may send.

    What a plugin builds only asks its source.  The server remembers its answers, asks
    once for all who ask for the same at the same time, waits no longer than
    C{timeout}, leaves alone what has failed too often, and lets what was known serve
    meanwhile: stages get a table that does all of this.
    """

    def lookUp(keys: TableKeys) -> Deferred[TableRow | None]:
        """
        Find the first row of those that L{TableKeys.inTurn
        <deferrals.model.tablekeys.TableKeys.inTurn>} names.

        @return: a Deferred of a dict with text as keys, which the caller does not
            change: many may have it.  A source that has only text gives it as
            C{value}.  C{None}, where there is no row.  It fails with
            L{TableError<deferrals.errors.TableError>} where that cannot be known
            now.  May be cancelled.
        """
