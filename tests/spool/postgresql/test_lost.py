"""
L{deferrals.spool.postgresql.lost}.
"""

from __future__ import annotations

from typing import Any

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.spool.batch import AGAIN_SECONDS
from deferrals.spool.postgresql.held import Held
from deferrals.spool.postgresql.lost import LostClaims


class _Ledger:
    """
    It is asked what is unknown; there is nothing.
    """

    now = 0.0

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def unknown(self, known: Any, others: Any, limit: int) -> list[Any]:
        self.asked.append((known, others))
        return []

    def save(self, rows: Any) -> None:
        assert not rows

    waitFor = save


class LostClaimsTests(SynchronousTestCase):
    """
    L{LostClaims}.
    """

    def test_once(self) -> None:
        """It looks once behind each claim that has failed."""
        lost, ledger, held = LostClaims(), _Ledger(), Held()
        held.take(7, (0, 2), 1)
        for error, looks in ((SpoolError("a"), 1), (OutcomeUnknown("b"), 2), (StoreAway("c"), 3)):
            failure = Failure(error)
            self.assertIs(lost.failed(failure), failure)
            for _ in range(2):
                lost.free(ledger, held, lambda: {8})  # type: ignore[arg-type]
            self.assertEqual(ledger.asked, [([(7, 0), (7, 2)], {8})] * looks)

    def test_moves(self) -> None:
        """What comes, or leaves, while it is looked at what is in hand is not unknown."""
        lost, held = LostClaims(), Held()
        ledger: Any = _Ledger()
        lost.suspect()
        seen = iter([{8}, {9}])
        lost.free(ledger, held, lambda: next(seen))
        self.assertEqual(ledger.asked, [([], {8, 9})])

    def test_later(self) -> None:
        """What is not to be tried again at once is looked for once, after a while."""
        lost, held = LostClaims(), Held()
        ledger: Any = _Ledger()
        lost.suspectLater()
        for now, looks in ((0.0, 0), (AGAIN_SECONDS - 1, 0), (AGAIN_SECONDS, 1), (99.0, 1)):
            ledger.now = now
            lost.free(ledger, held, set)
            self.assertEqual(len(ledger.asked), looks)
