"""
Mail that comes while a spool is still being opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_T = TypeVar("_T")


class SpoolOpening:
    """
    What has come before a spool was open waits for it: it must not be taken for what
    another process has left.

    @ivar isOver: whether it is open, or could not be.
    """

    def __init__(self) -> None:
        self.isOver = False
        self._waiting: list[Deferred[None]] = []

    def wait(self, stage: Callable[[], Deferred[_T]]) -> Deferred[_T]:
        """
        @param stage: is called when it is open.
        @return: a Deferred of its result; it fails where the spool cannot be opened.
        """
        opened: Deferred[None] = Deferred()
        self._waiting.append(opened)
        return opened.addCallback(lambda _: stage())

    def end(self, failure: Failure | None = None) -> None:
        """
        @param failure: why it could not be opened.
        """
        self.isOver = True
        self.tell(failure)

    def tell(self, failure: Failure | None) -> None:
        """
        What has waited goes on, or fails.

        @param failure: why it cannot be waited for any longer.
        """
        waiting, self._waiting = self._waiting, []
        for opened in waiting:
            if failure is None:
                opened.callback(None)
            else:
                opened.errback(failure)
