"""
How much happens in a minute.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.app.rates import LOOK_SECONDS, LOOKS, Rates
from deferrals.model.status import Status


class RatesTests(SynchronousTestCase):
    """
    L{Rates}.
    """

    def test_rates(self) -> None:
        """Of the last five minutes."""
        clock, status = Clock(), Status()
        rates = Rates(status, clock)
        none = {"transactions": 0.0, "accepted": 0.0, "refused": 0.0}
        self.assertEqual(rates.perMinute(), none)
        rates.start()
        self.addCleanup(rates.stop)
        status.count("transactions", "single", 6)
        status.count("verdicts", ("content", "strict", "250"), 4)
        status.count("verdicts", ("content", "strict", "550"), 2)
        clock.pump([LOOK_SECONDS] * 8)
        self.assertEqual(rates.perMinute(), {"transactions": 3.0, "accepted": 2.0, "refused": 1.0})
        clock.pump([LOOK_SECONDS] * LOOKS)
        self.assertEqual(rates.perMinute(), none)
