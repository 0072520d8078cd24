"""
Asking somebody else: deadlines, slots, and the circuit breaker.
"""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, fail, succeed
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseNeverReceived

from deferrals.stages.remote import (
    FAILURES,
    MAX_PAUSE_SECONDS,
    PAUSE_SECONDS,
    TOGETHER_SECONDS,
    CircuitOpen,
    RemoteService,
    TooLarge,
    wasCancelled,
)
from deferrals.testing import FakeServices


class RemoteTests(SynchronousTestCase):
    """
    L{RemoteService}.
    """

    def setUp(self) -> None:
        self.services = FakeServices()
        self.clock = self.services.reactor
        self.remote = RemoteService("thing", self.services, 2)
        self.events: list[str] = []
        observer = lambda event: self.events.append(event.get("log_format") or "")  # noqa: E731
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def part(self) -> Any:
        return self.services.status.snapshot()["parts"]["thing"]

    def fails(self, times: int = FAILURES) -> None:
        for _ in range(times):
            self.failureResultOf(self.remote.ask(10, lambda: fail(ValueError("no"))), ValueError)

    def works(self) -> None:
        self.assertEqual(self.successResultOf(self.remote.ask(10, lambda: succeed(1))), 1)

    def test_works(self) -> None:
        """What is asked is answered."""
        self.assertEqual(self.successResultOf(self.remote.ask(10, lambda x: succeed(x), 5)), 5)
        self.assertEqual(self.part()["state"], "working")
        self.assertEqual(self.services.status.counted("thing", "asked"), 1)

    def test_counted(self) -> None:
        """Each request is counted once; an answer that is about the message is one, too."""
        self.works()
        self.fails(1)
        self.failureResultOf(self.remote.ask(10, lambda: fail(TooLarge("413"))), TooLarge)
        counters = self.services.status.snapshot()["counters"]["thing"]
        self.assertEqual(counters, {"asked": 3, "answered": 2, "failed": 1})

    def test_opens(self) -> None:
        """After so many failures in a row it is left alone, which is logged once and shown."""
        self.fails(FAILURES - 1)
        self.works()
        self.fails(FAILURES - 1)
        self.assertEqual(self.part()["state"], "working")
        self.fails(1)
        self.assertEqual(self.part()["state"], "resting")
        self.assertEqual(self.part()["last_error"], "ValueError: no")
        self.assertEqual(self.part()["next_probe_in"], PAUSE_SECONDS)
        asked: list[int] = []
        failure = self.failureResultOf(self.remote.ask(10, asked.append, 1), CircuitOpen)
        self.assertIn("ValueError: no", failure.getErrorMessage())
        self.assertEqual(asked, [])
        self.assertEqual(len([e for e in self.events if "left alone" in e]), 1)
        self.assertEqual(self.services.status.counted("thing", "left alone"), 1)

    def test_ours(self) -> None:
        """What this server lacks itself (a port, a descriptor) is not the service's failure."""
        error = ConnectError(errno.EADDRNOTAVAIL)
        for _ in range(2 * FAILURES):
            self.failureResultOf(self.remote.ask(10, lambda: fail(error)), ConnectError)
        self.assertEqual((self.part()["state"], self.part()["failures"]), ("working", 0))

    def test_probe(self) -> None:
        """After a pause one request goes through; when it succeeds, all do."""
        self.fails()
        self.clock.advance(PAUSE_SECONDS)
        probe: Deferred[Any] = Deferred()
        d = self.remote.ask(10, lambda: probe)
        self.assertEqual(self.part()["state"], "probing")
        self.failureResultOf(self.remote.ask(10, lambda: succeed(1)), CircuitOpen)
        probe.callback(7)
        self.assertEqual(self.successResultOf(d), 7)
        self.assertEqual(self.part()["state"], "working")
        self.works()
        self.assertEqual(len([e for e in self.events if "works again" in e]), 1)

    def test_probeFails(self) -> None:
        """A probe that fails doubles the pause, up to a limit."""
        self.fails()
        for wanted in (2 * PAUSE_SECONDS, 4 * PAUSE_SECONDS, MAX_PAUSE_SECONDS, MAX_PAUSE_SECONDS):
            self.clock.advance(self.part()["next_probe_in"])
            self.fails(1)
            self.assertEqual(self.part()["next_probe_in"], wanted)
            self.failureResultOf(self.remote.ask(10, lambda: succeed(1)), CircuitOpen)

    def test_cancelledProbe(self) -> None:
        """A probe whose sender leaves makes room for the next one."""
        self.fails()
        self.clock.advance(PAUSE_SECONDS)
        d = self.remote.ask(10, Deferred)
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.works()

    def test_timeout(self) -> None:
        """What takes too long is cancelled, fails, and counts."""
        cancelled: list[Any] = []
        for _ in range(FAILURES):
            d = self.remote.ask(10, lambda: Deferred(cancelled.append))
            self.clock.advance(10)
            self.failureResultOf(d, TimeoutError)
        self.assertEqual(len(cancelled), FAILURES)
        self.assertEqual(self.part()["state"], "resting")
        self.assertIn("no answer within 10.0 s", self.part()["last_error"])

    def test_cancel(self) -> None:
        """A caller that leaves early says nothing of the service; one that waited long does."""
        for _ in range(FAILURES):
            d = self.remote.ask(10, Deferred)
            self.clock.advance(4)
            d.cancel()
            self.failureResultOf(d, CancelledError)
        self.assertEqual(self.part()["failures"], 0)
        d = self.remote.ask(10, Deferred)
        self.clock.advance(6)
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertEqual(self.part()["failures"], 1)

    def test_slots(self) -> None:
        """Only so many at once; who waits in vain for a slot does not count as its failure."""
        first: Deferred[Any] = Deferred()
        one, two = self.remote.ask(10, lambda: first), self.remote.ask(10, Deferred)
        three = self.remote.ask(2, lambda: succeed(3))
        four = self.remote.ask(10, lambda: succeed(4))
        self.assertEqual((self.part()["under_way"], self.part()["waiting"]), (2, 2))
        self.clock.advance(2)
        self.failureResultOf(three, TimeoutError)
        self.assertEqual(self.part()["failures"], 0)
        first.callback(1)
        self.assertEqual((self.successResultOf(one), self.successResultOf(four)), (1, 4))
        two.cancel()
        self.failureResultOf(two, CancelledError)
        self.assertEqual((self.part()["under_way"], self.part()["waiting"]), (0, 0))

    def test_waitingWhenItOpens(self) -> None:
        """A caller that waits for a slot when the breaker opens does not ask the dead service."""
        remote = RemoteService("thing", FakeServices(), 1)
        for _ in range(FAILURES - 1):
            self.failureResultOf(remote.ask(10, lambda: fail(ValueError())), ValueError)
        last: Deferred[Any] = Deferred()
        asked: list[int] = []
        failing = remote.ask(10, lambda: last)
        waiting = [remote.ask(10, asked.append, n) for n in range(3)]
        last.errback(ValueError())
        self.failureResultOf(failing, ValueError)
        for d in waiting:
            self.failureResultOf(d, CircuitOpen)
        self.assertEqual(asked, [])

    def test_together(self) -> None:
        """What is under way when a service is restarted fails together: that is one failure."""
        remote = RemoteService("thing", self.services, 100)
        pending: list[Deferred[Any]] = [Deferred() for _ in range(3 * FAILURES)]
        ds = [remote.ask(100, lambda d=d: d) for d in pending]
        for d in pending[:-1]:
            self.clock.advance(0.2)
            d.errback(ValueError())
        self.assertEqual((self.part()["failures"], self.part()["state"]), (1, "working"))
        self.clock.advance(TOGETHER_SECONDS)
        pending[-1].errback(ValueError())
        for d in ds:
            self.failureResultOf(d, ValueError)
        self.assertEqual(self.part()["failures"], 2)
        self.assertEqual(self.services.status.counted("thing", "failed"), 3 * FAILURES)

    def test_silence(self) -> None:
        """Each request that has waited in vain counts: a service that hangs is left alone."""
        remote = RemoteService("thing", self.services, FAILURES)
        ds = [remote.ask(10, Deferred) for _ in range(FAILURES)]
        self.clock.advance(10)
        for d in ds:
            self.failureResultOf(d, TimeoutError)
        self.assertEqual(self.part()["state"], "resting")

    def test_aboutMessage(self) -> None:
        """An answer about one message is no failure: what answers works."""
        self.fails(FAILURES - 1)
        for _ in range(2 * FAILURES):
            d = self.remote.ask(10, lambda: fail(TooLarge("it is")))
            self.failureResultOf(d, TooLarge)
        self.assertEqual((self.part()["failures"], self.part()["state"]), (0, "working"))
        self.fails()
        self.clock.advance(PAUSE_SECONDS)
        self.failureResultOf(self.remote.ask(10, lambda: fail(TooLarge("it is"))), TooLarge)
        self.assertEqual(self.part()["state"], "working")

    def test_lateFailures(self) -> None:
        """Failures of requests made before the breaker opened do not lengthen the pause."""
        remote = RemoteService("thing", self.services, 100)
        pending: list[Deferred[Any]] = [Deferred() for _ in range(FAILURES)]
        ds = [remote.ask(100, lambda d=d: d) for d in pending]
        for _ in range(FAILURES):
            self.failureResultOf(remote.ask(10, lambda: fail(ValueError())), ValueError)
        for d in pending:
            self.clock.advance(TOGETHER_SECONDS / FAILURES)
            d.errback(ValueError())
        for d in ds:
            self.failureResultOf(d, ValueError)
        self.clock.advance(PAUSE_SECONDS - TOGETHER_SECONDS)
        self.assertEqual(self.part()["next_probe_in"], 0)

    def test_wasCancelled(self) -> None:
        """A cancellation is known in each layer's words."""
        for error, wanted in (
            (CancelledError(), True),
            (ConnectingCancelledError("there"), True),
            (ResponseNeverReceived([Failure(CancelledError())]), True),
            (ResponseNeverReceived([Failure(ValueError())]), False),
            (ValueError(), False),
        ):
            self.assertEqual(wasCancelled(Failure(error)), wanted, repr(error))
