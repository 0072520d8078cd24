"""
What an operator's command does with a queue, in whatever store it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence

from twisted.internet.defer import Deferred

from deferrals.logger import Logger
from deferrals.model.ids import parseId
from deferrals.model.json import JSON
from deferrals.model.selection import Selection
from deferrals.spool.changes import CHANGED, COMMANDS, LEAVING

_log = Logger(namespace="deferrals.operator")


class CommandedQueue(ABC):
    """
    @param changed: called when recipients may be due now that were not before.
    @param leaving: called with the numbers of messages that are about to be held or
        removed: what of them only waits for its turn is put back into the queue.
    """

    def __init__(
        self,
        changed: Callable[[], object],
        leaving: Callable[[Collection[int]], object],
    ) -> None:
        self._changed = changed
        self._leaving = leaving

    @abstractmethod
    def recipients(
        self, selection: Selection, limit: int, after: Sequence[int] | None
    ) -> Deferred[tuple[list[dict[str, JSON]], Sequence[int] | None]]:
        """
        See L{IQueue<deferrals.interfaces.IQueue>}.
        """

    @abstractmethod
    async def made(self, command: str, keys: list[tuple[int, int]]) -> tuple[int, int]:
        """
        @param keys: the recipients: number and C{seq}.
        @return: how many were changed, and how many are active.
        """

    def change(
        self, command: str, selection: Selection, after: Sequence[int] | None
    ) -> Deferred[tuple[int, int, Sequence[int] | None]]:
        """
        See L{IQueue<deferrals.interfaces.IQueue>}.
        """
        return Deferred.fromCoroutine(self._change(command, selection, after))

    async def _change(
        self, command: str, selection: Selection, after: Sequence[int] | None
    ) -> tuple[int, int, Sequence[int] | None]:
        if command not in COMMANDS:
            raise ValueError(f"no such command: {command}")
        found, after = await self.recipients(selection, CHANGED, after)
        keys = [(parseId(str(one["id"])), int(str(one["seq"]))) for one in found]
        if command in LEAVING:
            self._leaving({number for number, _ in keys})
        count, active = await self.made(command, keys)
        if count:
            _log.info("{command}: {count} recipients", command=command, count=count)
            self._changed()
        return count, active, after
