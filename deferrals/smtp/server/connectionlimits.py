"""
What is counted over all connections: how many there are, in total and from one
neighbourhood (an IPv4 address, an IPv6 /64), and whose passwords were wrong.

Nothing here grows without bound: connections are counted while they last, and
failures are forgotten, at the latest when there are too many to remember.
"""

from __future__ import annotations

from deferrals.model.networks import neighbourhood
from deferrals.model.reply import R421_TOO_MANY_CONNECTIONS, R421_TOO_MANY_FROM_YOU, Reply

#: How long a failed password counts, in seconds.
MEMORY_SECONDS = 3600.0

#: How many neighbourhoods with failed passwords are remembered.
REMEMBERED = 10000

#: The longest that anybody waits after a failed password, in seconds.
MAX_DELAY_SECONDS = 30.0


class ConnectionLimits:
    """
    One for all listeners.

    @ivar total: connections that are open.
    @ivar connections: how many there may be.
    @ivar perNeighbourhood: how many of them from one neighbourhood.
    @ivar delaySeconds: how long the answer to a failed password is held back;
        doubled with each further one from the same neighbourhood.
    """

    def __init__(
        self,
        connections: int = 5000,
        perNeighbourhood: int = 100,
        delaySeconds: float = 3.0,
    ) -> None:
        self.total = 0
        self.connections = connections
        self.perNeighbourhood = perNeighbourhood
        self.delaySeconds = delaySeconds
        self._open: dict[str, int] = {}
        self._failed: dict[str, tuple[int, float]] = {}

    def accept(self) -> Reply | None:
        """
        Somebody has connected, and is counted until L{depart}.

        @return: why they must go at once, or L{None}.
        """
        self.total += 1
        return R421_TOO_MANY_CONNECTIONS if self.total > self.connections else None

    def depart(self) -> None:
        """
        A connection has ended.
        """
        self.total -= 1

    def enter(self, address: str) -> Reply | None:
        """
        Somebody is known by this address, and counted until L{leave}.

        @return: why they must go at once, or L{None}.
        """
        who = neighbourhood(address)
        count = self._open[who] = self._open.get(who, 0) + 1
        return R421_TOO_MANY_FROM_YOU if count > self.perNeighbourhood else None

    def leave(self, address: str) -> None:
        """
        Somebody is gone, or was known by a wrong address.
        """
        who = neighbourhood(address)
        self._open[who] -= 1
        if not self._open[who]:
            del self._open[who]

    def failed(self, address: str, now: float) -> float:
        """
        Somebody's password was wrong.

        @return: how long to hold the answer back, in seconds.
        """
        who = neighbourhood(address)
        count, since = self._failed.pop(who, (0, now))
        if now - since > MEMORY_SECONDS:
            count, since = 0, now
        if len(self._failed) >= REMEMBERED:
            del self._failed[next(iter(self._failed))]
        self._failed[who] = count + 1, since
        return float(min(self.delaySeconds * 2 ** min(count, 16), MAX_DELAY_SECONDS))
