"""
A reactor whose clock stands still, and whose threads are real.
"""

from __future__ import annotations

import queue
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock


class PumpedReactor(Clock):
    """
    A clock whose C{callFromThread} is done when somebody waits for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fromThread: queue.Queue[Any] = queue.Queue()

    def callFromThread(self, function: Any, *args: Any) -> None:
        self.fromThread.put((function, args))

    def wait(self, d: Deferred[Any]) -> Any:
        results: list[Any] = []
        d.addBoth(results.append)
        while not results:
            self.advance(0)
            if results:
                break
            function, args = self.fromThread.get(timeout=30)
            function(*args)
        return results[0]


class TurningClock(Clock):
    """
    A clock with a turn for each that wants to be called in the next one: it is called at once.
    """

    def callLater(self, delay: float, callable: Any, *args: Any, **kw: Any) -> Any:
        if delay > 0:
            return super().callLater(delay, callable, *args, **kw)
        return callable(*args, **kw)
