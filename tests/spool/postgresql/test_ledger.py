"""
Where a claim begins.  What is found, loaded and saved is tried with a real database
(L{tests.integration.test_store}).
"""

from __future__ import annotations

import math

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.postgresql.ledger import ALL_SECONDS, COMMIT_SECONDS, Floor


class FloorTests(SynchronousTestCase):
    """
    L{Floor}.
    """

    def test_begin(self) -> None:
        """
        All are looked at first, and each ten seconds; between these what is ready no earlier
        than what was found last, as the database has rounded it.
        """
        floor = Floor()
        self.assertEqual(floor.begin(1000.0), -math.inf)
        floor.found(990.0, 1000.0)
        begin = floor.begin(1000.0 + ALL_SECONDS / 2)
        self.assertTrue(989.9 < begin < 990.0)
        floor.found(1005.0, 1007.0)
        self.assertEqual(floor.begin(1000.0 + ALL_SECONDS), -math.inf)

    def test_late(self) -> None:
        """What is committed only now was begun so long ago at most: it is above the floor."""
        floor = Floor()
        floor.begin(1000.0)
        for first in (None, 1000.0, 2000.0):
            floor.found(first, 1000.0)
            self.assertEqual(floor.begin(1000.0), 1000.0 - COMMIT_SECONDS)

    def test_clock(self) -> None:
        """A clock that goes back hides nothing."""
        floor = Floor()
        floor.begin(5000.0)
        floor.found(None, 5000.0)
        self.assertEqual(floor.begin(1400.0), -math.inf)
