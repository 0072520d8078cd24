"""
Where a claim begins.  What is found, loaded and saved is tried with a real database
(L{tests.integration.test_store}).
"""

from __future__ import annotations

import math

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.postgresql.ledger import ALL_SECONDS, Floor


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
        floor.found(990.0)
        begin = floor.begin(1000.0 + ALL_SECONDS / 2)
        self.assertTrue(989.9 < begin < 990.0)
        floor.found(1005.0)
        self.assertEqual(floor.begin(1000.0 + ALL_SECONDS), -math.inf)
        floor.found(995.0)
        self.assertTrue(994.9 < floor.begin(1000.0 + ALL_SECONDS) < 995.0)
