"""
Claims whose answer was not heard: what they leased is this process's, which does not
know of it.  So it is with what was to be delivered later, and could not be written as
such; with what has ended, and whose sender could not be told; with a notice of which it was
not heard that it is written; and with what was not delivered since its content could not be
had.  It is freed with the next claim, before the lease would end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from twisted.python.failure import Failure

from deferrals.spool import claims
from deferrals.spool.batch import AGAIN_SECONDS
from deferrals.spool.postgresql.held import Held
from deferrals.spool.postgresql.ledger import PostgresqlLedger

#: So many recipients are freed at once; what more there is waits for its lease's end.
_FREED = 1000


class LostClaims:
    """
    Whether there may be any.
    """

    def __init__(self) -> None:
        self._isAny = self._isLater = False
        self._laterAt = math.inf

    def failed(self, failure: Failure) -> Failure:
        """
        A claim has failed; if it was to free some, that has not come about, either.
        """
        self.suspect()
        return failure

    def suspect(self) -> None:
        """
        There may be some.
        """
        self._isAny = True

    def suspectLater(self) -> None:
        """
        There may be some, which are not to be tried again at once.
        """
        self._isLater = True

    def free(
        self, ledger: PostgresqlLedger, held: Held, others: Callable[[], Collection[int]]
    ) -> None:
        """
        In the claims' thread, in the next one's transaction: before that has leased
        anything, and so that the one behind it does not free that.

        @param held: what this process has in hand.
        @param others: which messages are coming, or leave.
        """
        if self._isLater:
            self._isLater = False
            self._laterAt = min(self._laterAt, ledger.now + AGAIN_SECONDS)
        if self._isAny or self._laterAt <= ledger.now:
            self._isAny, self._laterAt = False, math.inf
            # What comes is in hand next, and what is in hand leaves: meanwhile, too.
            coming = {*others()}
            pairs = held.pairs()
            claims.free(ledger, ledger.unknown(pairs, coming.union(others()), _FREED))
