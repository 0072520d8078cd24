"""
Tests for L{deferrals.model.portion}.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.portion import WHOLE, Portion

NUMBERS = st.integers(1, 10_000)


class PortionTests(SynchronousTestCase):
    """
    L{Portion}.
    """

    @given(NUMBERS, st.lists(st.integers(1, 64), min_size=1, max_size=8))
    def test_together(self, number: int, machines: list[int]) -> None:
        """All together have no more than the whole, or one each."""
        owners = sum(machines)
        parts = [
            Portion(workers, owners).of(max(1, number // workers))
            for workers in machines
            for _ in range(workers)
        ]
        self.assertEqual(min(parts) >= 1, True)
        if number >= owners:
            self.assertLessEqual(sum(parts), number)
        else:
            self.assertEqual(set(parts), {1})

    def test_whole(self) -> None:
        """Who is alone has all; so has who has not heard of its own others yet."""
        self.assertEqual([WHOLE.of(7), Portion(4, 1).of(7), Portion(1, 3).of(7)], [7, 7, 2])
