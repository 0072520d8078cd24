"""
kill -9, at least a hundred times (the longer run: C{python -m tests.crash.rig}).
"""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.rig import isGood, run
from tests.requirements import requirement
from tests.rigs import rig

KILLS = rig(15, 100)


class KillTests(SynchronousTestCase):
    """
    The process dies at random instants.
    """

    @requirement("D-20")
    @requirement("D-23")
    def test_kill(self) -> None:
        """What a sender was told stays true, whatever dies, at any instant."""
        counts = run(KILLS, seed=20261123)
        print(json.dumps(counts))
        self.assertTrue(isGood(counts), counts)
