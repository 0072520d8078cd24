"""
One copy for each recipient, each with an outcome of its own.
"""

from __future__ import annotations

from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.delivery import Addressee
from deferrals.model.verdict import Delivered, Outcome, Retry
from deferrals.stages.delivery.copies import deliverApart
from deferrals.stages.delivery.file import FileDelivery
from deferrals.stages.delivery.maildir import MaildirDelivery
from deferrals.testing import makeAddressees, makeEnvelope

_S = TypeVar("_S", FileDelivery, MaildirDelivery)


class ApartTests(SynchronousTestCase):
    """
    L{deliverApart}.
    """

    def setUp(self) -> None:
        self.reported: dict[Addressee, Outcome] = {}

    def deliver(self, *answers: Any) -> Deferred[dict[Addressee, Outcome]]:
        """
        One group for each answer: what is called with it, or raised.
        """
        self.groups = [
            makeAddressees(*(f"{x}{index}@x.example" for x in "ab"))
            for index, _ in enumerate(answers)
        ]
        found = dict(zip(map(id, self.groups), answers, strict=True))

        def deliver(group: Any, report: Any) -> Any:
            return found[id(group)](group, report)

        return deliverApart(makeEnvelope(), self.groups, deliver, self.reported.setdefault)

    def test_raises(self) -> None:
        """
        What one group's delivery raises, in whatever way, is that group's alone; what
        it has reported before stands.
        """

        def reports(group: Any, report: Any) -> Any:
            report(group[0], Delivered())
            raise ValueError("on purpose")

        def wrong(group: Any, report: Any) -> Any:
            return fail(CancelledError())

        def good(group: Any, report: Any) -> Any:
            return dict.fromkeys(group, Delivered())

        with capturedLogs() as logged:
            outcomes = self.successResultOf(self.deliver(good, reports, wrong, good))
        kinds = [[type(outcomes[one]) for one in group] for group in self.groups]
        self.assertEqual(kinds, [[Delivered] * 2, [Delivered, Retry], [Retry] * 2, [Delivered] * 2])
        self.assertEqual(outcomes, self.reported)
        errors = [one["error"].partition(":")[0] for one in logged]
        self.assertEqual(errors, ["ValueError", "CancelledError"])

    def test_cancelled(self) -> None:
        """When it is cancelled all of it is; what is said to that is still reported."""
        ended: list[Any] = []

        def waits(group: Any, report: Any) -> Any:
            def cancelled(d: Any) -> None:
                ended.append(group)
                report(group[0], Delivered())

            return Deferred(cancelled)

        d = self.deliver(waits, waits)
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertEqual(ended, self.groups)
        self.assertEqual(self.reported, {group[0]: Delivered() for group in self.groups})
