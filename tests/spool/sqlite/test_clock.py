"""
The spool's time, from process to process.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.sqlite.clock import BREAK_SECONDS, SpoolClock


class SpoolClockTests(SynchronousTestCase):
    """
    L{SpoolClock}.
    """

    def setUp(self) -> None:
        self.seconds, self.wall = 50.0, 2e9
        self.clock = SpoolClock(lambda: self.seconds, lambda: self.wall)

    def test_timers(self) -> None:
        """It goes on with the timers, whatever the time of day does."""
        before = self.clock.now()
        self.seconds += 10.0
        self.wall -= 7200.0
        self.assertEqual(self.clock.now() - before, 10.0)

    def test_resume(self) -> None:
        """Of a break between two processes counts what can be believed."""
        for away, counted in (
            (0.0, 0.0),
            (60.0, 60.0),
            (BREAK_SECONDS, BREAK_SECONDS),
            (BREAK_SECONDS + 1.0, 0.0),
            (-1.0, 0.0),
            (1e9, 0.0),
        ):
            self.clock.resume(self.wall - away, 1000.0)
            self.assertEqual(self.clock.now(), 1000.0 + counted, away)

    def test_saved(self) -> None:
        """What one process has saved, the next one goes on from."""
        self.clock.resume(self.wall, 1000.0)
        self.seconds += 5.0
        self.wall += 5.0
        following = SpoolClock(lambda: 0.0, lambda: self.wall + 30.0)
        following.resume(*self.clock.saved())
        self.assertEqual(following.now(), 1035.0)
