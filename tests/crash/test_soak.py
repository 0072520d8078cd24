"""
A while of everything at once (the longer run: C{python -m tests.crash.soak}).
"""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.soak import TOLERANCES, grown, isSound, run
from tests.rigs import rig

SECONDS = rig(12, 120)


class SoakTests(SynchronousTestCase):
    """
    A server that is not left alone.
    """

    def test_soak(self) -> None:
        """All that was taken is accounted for, and nothing is held any longer."""
        counts = run(SECONDS, seed=20261129)
        print(json.dumps(counts))
        self.assertTrue(isSound(counts), counts)

    def test_grown(self) -> None:
        """What is more than it was is named, each by itself."""
        before = dict.fromkeys(TOLERANCES, 10.0)
        empty = {**before, **dict.fromkeys(grown(before, before), 0.0)}
        self.assertEqual(grown(before, empty), {})
        for name in TOLERANCES:
            self.assertEqual(list(grown(before, {**empty, name: 1e6})), [name])
