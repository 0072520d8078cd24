"""
The processes that share a database with this one: how many there are, as far as they are
heard.  While the database is away that stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable

from deferrals.model.portion import Portion
from deferrals.spool.postgresql.owners import Living, Owner


class Company:
    """
    @param sharers: how many processes this machine has.
    @ivar me: this process's number among the owners; C{None} before it has one.
    @ivar machines: on how many machines they are.
    @ivar portion: what this process has of what all have together.
    @ivar watchers: are told when any of this has changed.
    """

    def __init__(self, sharers: int = 1) -> None:
        self._sharers = sharers
        self.me: int | None = None
        self.machines = 1
        self.portion = Portion(sharers, sharers)
        self.watchers: list[Callable[[], object]] = []

    def follow(self, owner: Owner) -> None:
        """
        Go by what this process's heart hears.
        """
        owner.known = self.heard

    def heard(self, me: int, living: Living) -> None:
        """
        @param me: who this process is.
        @param living: who lives.
        """
        before = self.me, self.machines, self.portion
        self.me, self.machines = me, max(1, living.machines)
        if self.machines == 1:
            self.portion = Portion(self._sharers, self._sharers)
        else:
            self.portion = Portion(self._sharers, living.owners)
        if before != (self.me, self.machines, self.portion):
            for watcher in self.watchers:
                watcher()
