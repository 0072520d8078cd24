"""
How much has happened within a while.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.status import Status
from deferrals.web.looks import COARSE, FINE, FINE_SECONDS, Looks, countsOf, within


class LooksTests(SynchronousTestCase):
    """
    L{Looks}.
    """

    def setUp(self) -> None:
        self.clock, self.status = Clock(), Status()
        self.looks = Looks(lambda: self.status, self.clock)
        self.addCleanup(self.looks.stop)

    def pass_(self, seconds: float) -> None:
        for _ in range(int(seconds / FINE_SECONDS)):
            self.clock.advance(FINE_SECONDS)

    def test_periods(self) -> None:
        """What happened within a minute, an hour, a day: by subtraction."""
        self.looks.start()
        self.status.count("verdicts", ("content", "strict", "550"), 7)
        self.pass_(7200)
        self.status.count("verdicts", ("content", "strict", "550"), 2)
        self.pass_(1800)
        self.status.count("verdicts", ("envelope", "", "550"), 1)
        self.status.count("verdicts", ("envelope", "open", "250"), 4)
        self.status.count("deliveries", ("mx", "delivered"), 3)
        self.status.count("transactions", "prdr", 5)
        minute, hour, day = (self.looks.period(one) for one in (60, 3600, 86400))
        self.assertEqual(minute.of("verdict", "content", "refused"), 0)
        self.assertEqual(hour.of("verdict", "content", "refused"), 2)
        self.assertEqual(day.of("verdict", "content", "refused"), 9)
        self.assertEqual(minute.of("verdict", "envelope", "accepted"), 4)
        self.assertEqual(minute.of("delivery", "delivered"), 3)
        self.assertEqual(minute.rungs(), [("prdr", 5)])
        self.assertEqual((minute.seconds, hour.seconds, day.seconds), (60, 3600, 9000))

    def test_bound(self) -> None:
        """However long it runs and whatever is counted: so much is kept."""
        self.looks.start()
        self.pass_(86400 + 3600)
        for number in range(3000):
            self.status.count("verdicts", ("content", f"p{number}", "550"))
        self.assertEqual(self.looks.period(86400).seconds, 86400)
        self.assertLessEqual(len(self.looks._fine), FINE)
        self.assertLessEqual(len(self.looks._coarse), COARSE)
        self.assertLess(len(countsOf(self.status)), 10)

    def test_none(self) -> None:
        """Before the first look there is nothing to subtract."""
        self.status.count("transactions", "prdr")
        self.assertEqual(self.looks.period(60).rungs(), [("prdr", 1)])
        self.assertEqual(self.looks.period(60).waited("rcpt"), [0] * 9)

    def test_stop(self) -> None:
        """It can begin again, and knows nothing from before."""
        self.looks.start()
        self.looks.start()
        self.pass_(60)
        self.looks.stop()
        self.looks.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.looks.start()
        self.assertEqual(self.looks.period(60).seconds, 0)

    def test_within(self) -> None:
        """The bound that a share has kept."""
        for seconds in (0.0005, 0.003, 0.003, 0.003, 1, 1, 1, 1, 1, 99):
            self.status.measure("replies", "rcpt", seconds)
        counts = self.looks.period(60).waited("rcpt")
        found = [within(counts, share) for share in (0.1, 0.4, 0.5, 0.9, 0.99)]
        self.assertEqual(found, [0.001, 0.005, 2, 2, float("inf")])
        self.assertIsNone(within([0] * 9, 0.5))

    def test_others(self) -> None:
        """What was too many kinds to be counted apart is counted all the same."""
        self.status.count("verdicts", ("other", "other", "other"), 2)
        self.assertEqual(countsOf(self.status)["verdict", "other", "other"], 2)
