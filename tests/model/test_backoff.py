"""
So many failures in a row, and something is left alone for a while.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.backoff import Backoff


def backoff(tolerated: int = 3) -> Backoff:
    return Backoff(tolerated=tolerated, firstSeconds=60.0, longestSeconds=300.0)


class BackoffTests(SynchronousTestCase):
    """
    L{Backoff}.
    """

    def test_table(self) -> None:
        """
        What each event leads to: a failure says for how long the thing is left
        alone, a success whether it had been in trouble.
        """
        one = backoff()
        for now, event, answer, isTroubled, remaining in (
            (0.0, "failed", None, False, 0.0),
            (1.0, "failed", None, False, 0.0),
            (1.0, "succeeded", False, False, 0.0),
            (2.0, "failed", None, False, 0.0),
            (2.0, "failed", None, False, 0.0),
            (2.0, "failed", 60.0, True, 60.0),
            # These had begun before.
            (3.0, "failed", None, True, 59.0),
            (61.9, "failed", None, True, 0.1),
            # The probes.
            (62.0, "failed", 120.0, True, 120.0),
            (182.0, "failed", 240.0, True, 240.0),
            (500.0, "failed", 300.0, True, 300.0),
            (900.0, "failed", 300.0, True, 300.0),
            (1000.0, "succeeded", True, False, 0.0),
            (1000.0, "succeeded", False, False, 0.0),
            # Everything begins anew.
            (1001.0, "failed", None, False, 0.0),
            (1001.0, "failed", None, False, 0.0),
            (1001.0, "failed", 60.0, True, 60.0),
        ):
            found = one.failed(now) if event == "failed" else one.succeeded()
            self.assertEqual(found, answer, (now, event))
            self.assertEqual(one.isTroubled, isTroubled, (now, event))
            self.assertAlmostEqual(one.remaining(now), remaining, msg=(now, event))

    def test_jitter(self) -> None:
        """The time may be shorter or longer; the next one is twice the time without that."""
        one = backoff(tolerated=1)
        self.assertEqual(one.failed(0.0, jitter=0.5), 30.0)
        self.assertEqual(one.remaining(10.0), 20.0)
        self.assertEqual(one.failed(30.0, jitter=2.0), 240.0)

    def test_atOnce(self) -> None:
        """Where no failure is tolerated, the first one counts."""
        self.assertEqual(backoff(tolerated=1).failed(0.0), 60.0)

    def test_together(self) -> None:
        """What had begun before a failure that counts is part of that failure."""
        backoff = Backoff(tolerated=3, firstSeconds=60, longestSeconds=100)
        for _ in range(4):
            self.assertIsNone(backoff.failed(10.0, began=5.0))
        self.assertEqual(backoff.failures, 1)
        self.assertIsNone(backoff.failed(20.0, began=10.0))
        self.assertEqual(backoff.failed(30.0, began=20.0), 60)
