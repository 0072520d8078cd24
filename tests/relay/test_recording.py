"""
Recording outcomes, also where the spool cannot be written at first.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.interfaces import Work
from deferrals.model.disposition import Remove
from deferrals.relay.recording import RECORD_LONGEST_SECONDS, Recorder
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage


class FullSpool:
    """
    Cannot be written so many times.
    """

    def __init__(self, times: float) -> None:
        self.times = times
        self.tried = 0

    def record(self, work: Work, dispositions: Any) -> Deferred[list[Work]]:
        self.tried += 1
        return succeed([]) if self.tried > self.times else fail(SpoolError("full"))


class RecorderTests(SynchronousTestCase):
    """
    L{Recorder}.
    """

    def begin(self, times: float) -> Deferred[None]:
        self.clock, self.spool = Clock(), FullSpool(times)
        self.recorder = Recorder(self.spool, self.clock)  # type: ignore[arg-type]
        (addressee,) = makeAddressees("a@x.example")
        work = Work(makeEnvelope(), makeMessage(), (addressee,))
        done: Deferred[None] = Deferred()
        self.recorder.record(work, {addressee: Remove()}, lambda: done.callback(None))
        return done

    def test_again(self) -> None:
        """It is tried again, less and less often, until it works."""
        done = self.begin(10)
        for _ in range(7):
            self.clock.pump([1.0] * int(RECORD_LONGEST_SECONDS))
        self.successResultOf(done)
        self.assertEqual((self.spool.tried, self.clock.getDelayedCalls()), (11, []))

    def test_stopping(self) -> None:
        """When the server stops it is not tried again: the delivery is repeated."""
        done = self.begin(float("inf"))
        self.assertNoResult(done)
        self.recorder.isStopping = True
        self.clock.advance(1)
        self.successResultOf(done)
        self.assertEqual((self.spool.tried, self.clock.getDelayedCalls()), (2, []))
