"""
What the log says of deliveries; the words of an outcome are in test_scheduler.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import Work
from deferrals.model.reply import Reply
from deferrals.model.schedule import Schedule
from deferrals.model.status import Status
from deferrals.model.verdict import Delivered, Retry
from deferrals.relay.attempts import Attempt, Deliveries
from deferrals.relay.deliverylog import DeliveryLog
from deferrals.relay.destinations import HopReport
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage


class DeliveryLogTests(SynchronousTestCase):
    """
    L{DeliveryLog}.
    """

    def setUp(self) -> None:
        clock = Clock()
        deliveries = Deliveries(stage=lambda name: None, schedule=lambda name: Schedule())
        self.logs = DeliveryLog(Status(), clock, deliveries)
        work = Work(makeEnvelope(), makeMessage(), tuple(makeAddressees("a@x.example")))
        self.attempt = Attempt(work, "box", "maildir", Schedule(), clock.seconds())

    def said(self, function: Any, *args: Any) -> Any:
        with capturedLogs() as logged:
            function(*args)
        (event,) = logged
        return event

    def test_outcome(self) -> None:
        """A recipient that is tried no longer has expired."""
        (addressee,) = self.attempt.work.addressees
        retry = Retry(Reply(451, "4.2.0", "later"))
        for outcome, waits, word in (
            (Delivered(), False, "delivered"),
            (retry, True, "retry"),
            (retry, False, "expired"),
        ):
            event = self.said(self.logs.outcome, self.attempt, addressee, outcome, waits)
            self.assertEqual((event["event"], event["outcome"]), ("delivery", word))

    def test_others(self) -> None:
        """A sender that is not told, and a stage's nonsense, are errors."""
        (addressee,) = self.attempt.work.addressees
        event = self.said(self.logs.untold, self.attempt, addressee)
        self.assertEqual((event["event"], event["log_level"]), ("untold", LogLevel.error))
        event = self.said(self.logs.problem, self.attempt, "answered 7")
        self.assertIn("<a@x.example> answered 7", formatEvent(event))

    def test_leftAlone(self) -> None:
        """A destination is left alone, and works again."""
        report = HopReport(False, Reply(421, "4.3.0", "busy"), "mx.test")
        event = self.said(self.logs.leftAlone, "x.example", report, 60.2)
        self.assertEqual(
            (event["event"], event["seconds"], event["host"]), ("backoff", 60, "mx.test")
        )
        self.assertIn("421 4.3.0 busy", formatEvent(event))
        event = self.said(self.logs.leftAlone, "x.example", report, 0.0)
        self.assertEqual(event["event"], "works")
