"""
What one process has of what all have together that share a database.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Portion:
    """
    @ivar mine: so many processes have divided a number already: those of this machine.
    @ivar all: so many are to have it.
    """

    mine: int = 1
    all: int = 1

    def of(self, number: int) -> int:
        """
        @param number: what one of this machine's processes has, if there are no others.
        @return: what it has of the whole, 1 at least.
        """
        return max(1, number * self.mine // max(self.mine, self.all))


#: There are no others.
WHOLE = Portion()
