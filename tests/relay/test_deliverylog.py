"""
What the log says of deliveries; the words of an outcome are in test_scheduler.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.deferreds import TimeoutError
from deferrals.interfaces import Work
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import Remove, Reschedule
from deferrals.model.reply import Reply
from deferrals.model.schedule import Schedule
from deferrals.model.status import Status
from deferrals.model.verdict import Delivered, Failed, Outcome, Retry
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
        (event, *_) = logged
        return event

    def test_outcome(self) -> None:
        """A recipient that is tried no longer has expired."""
        (addressee,) = self.attempt.work.addressees
        retry = Retry(Reply(451, "4.2.0", "later"))
        for outcome, found, word in (
            (Delivered(), Remove(), "delivered"),
            (retry, Reschedule("maildir", 1.0, 2.0, 0.0), "retry"),
            (retry, Remove("expired"), "expired"),
        ):
            ours = {addressee: outcome}, {addressee: found}
            event = self.said(self.logs.outcomes, self.attempt, *ours)
            self.assertEqual((event["event"], event["outcome"]), ("delivery", word))

    def outcome(self, addressee: Addressee) -> Any:
        ours = {addressee: Delivered()}, {addressee: Remove()}
        return self.said(self.logs.outcomes, self.attempt, *ours)

    def test_member(self) -> None:
        """A member's line has the alias that its sender named."""
        (addressee,) = self.attempt.work.addressees
        event = self.outcome(addressee)
        self.assertEqual(event["alias"], "")
        aliases = (Mailbox.parse("all@x.example"), Mailbox.parse("some@x.example"))
        member = attrs.evolve(
            addressee, recipient=attrs.evolve(addressee.recipient, aliases=aliases)
        )
        event = self.outcome(member)
        self.assertEqual(event["alias"], "all@x.example")
        self.assertIn("to=<a@x.example> alias=<all@x.example> delivered", formatEvent(event))

    def test_several(self) -> None:
        """Each recipient has its line, in their order, whatever they have in common."""
        names = [f"{name}@x.example" for name in "abcde"]
        addressees = makeAddressees(*names)
        refused = Failed(Reply(550, "5.1.1", "no such user"))
        outcomes: dict[Addressee, Outcome] = dict.fromkeys(addressees, Delivered())
        outcomes[addressees[2]] = refused
        made = {
            one: Remove(event="failed" if found is refused else "delivered")
            for one, found in outcomes.items()
        }
        with capturedLogs() as logged:
            self.logs.outcomes(self.attempt, outcomes, made)
        self.assertEqual([event["recipient"] for event in logged], names)
        self.assertEqual([event["outcome"] for event in logged].index("failed"), 2)
        self.assertEqual([event["reply"] for event in logged].count("550 5.1.1 no such user"), 1)

    def test_others(self) -> None:
        """A sender that is not told, and a stage's nonsense, are errors."""
        (addressee,) = self.attempt.work.addressees
        expired = {addressee: Retry(Reply(451, "4.2.0", "later"))}, {addressee: Remove("expired")}
        with capturedLogs() as logged:
            self.logs.outcomes(self.attempt, *expired)
        _, event = logged
        self.assertEqual((event["event"], event["log_level"]), ("untold", LogLevel.error))
        event = self.said(self.logs.problem, self.attempt, "answered 7")
        self.assertIn("<a@x.example> answered 7", formatEvent(event))

    def test_failed(self) -> None:
        """What a delivery raises has a traceback once, and then the number of times."""
        events = []
        for _ in range(2):
            try:
                raise ValueError("on purpose")
            except ValueError:
                events.append(self.said(self.logs.failed, self.attempt, Failure()))
        first, second = events
        self.assertIn("in test_failed", "".join(first["traceback"]))
        self.assertNotIn("traceback", second)
        about = "delivery box (none) of <a@x.example> failed: ValueError: on purpose"
        self.assertTrue(formatEvent(first).endswith(f": {about}"), formatEvent(first))
        self.assertIn(f"{about} (2 times; the first had a traceback)", formatEvent(second))

    def test_late(self) -> None:
        """A delivery that takes too long has no traceback: it has raised nothing."""
        event = self.said(self.logs.failed, self.attempt, Failure(TimeoutError(7, "Deferred")))
        self.assertNotIn("traceback", event)

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
