"""
The contracts find stages that break their promises, and let good ones pass.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.interfaces import IContentStage, IDeliveryStage, IEnvelopeStage, IReportingDelivery
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Accept, Defer, Delivered, Failed, Refuse, Retry
from deferrals.testing import (
    LATER,
    ContentStageContract,
    DeliveryStageContract,
    EnvelopeStageContract,
    ReportingDeliveryContract,
)

NO = Refuse(Reply(550, "5.7.1", "no"))


async def _coroutine(value: Any) -> Any:
    return value


def _deaf() -> Deferred[Any]:
    """
    Goes on after it was cancelled.
    """
    d: Deferred[Any] = Deferred(lambda d: None)
    d.addBoth(lambda _: Deferred())
    return d


@implementer(IEnvelopeStage)
class Envelope:
    """
    Says one thing.
    """

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def judgeRecipient(self, envelope: Any, recipient: Any) -> Any:
        return self.answer() if callable(self.answer) else self.answer


@implementer(IContentStage)
class Content(Envelope):
    """
    The same, of content.
    """

    def __init__(self, answer: Any, key: Any = "all") -> None:
        super().__init__(answer)
        self.key = key

    def cohort(self, recipient: Any) -> Any:
        return self.key() if callable(self.key) else self.key

    def judge(self, message: Any, envelope: Any, recipients: Any) -> Any:
        return self.judgeRecipient(envelope, recipients)


@implementer(IDeliveryStage)
class Delivery:
    """
    The same, of deliveries.
    """

    def __init__(self, outcome: Any, place: Any = "here") -> None:
        self.outcome = outcome
        self.place = place

    def destination(self, recipient: Any) -> Any:
        return self.place

    def deliver(self, message: Any, envelope: Any, recipients: Any) -> Any:
        if callable(self.outcome):
            return self.outcome()
        return dict.fromkeys(recipients, self.outcome)


@implementer(IReportingDelivery)
class ReportingDelivery(Delivery):
    """
    Reports some things, and answers.

    @param reported: so many recipients.
    """

    def __init__(self, reported: int, outcome: Any, said: Any, halts: bool = False) -> None:
        super().__init__(outcome)
        self.reported, self.said, self.halts = reported, said, halts

    def deliverReporting(self, message: Any, envelope: Any, recipients: Any, report: Any) -> Any:
        for one in recipients[: self.reported]:
            report(one, self.said)
        return Deferred() if self.halts else self.deliver(message, envelope, recipients)


class Unhashable(Envelope):
    """
    Has an equality of its own.
    """

    def __eq__(self, other: object) -> bool:
        return True


class ContractTests(SynchronousTestCase):
    """
    Which tests of a contract fail.
    """

    def failing(self, contract: type, make: Any) -> set[str]:
        class Tests(contract, SynchronousTestCase):  # type: ignore[misc, valid-type]
            def makeStage(self) -> Any:
                return make()

        found = set()
        for name in dir(Tests):
            if name.startswith("test_"):
                try:
                    getattr(Tests(name), name)()
                except Exception:
                    found.add(name)
        return found

    def test_envelope(self) -> None:
        """Values, Deferreds and coroutines; no verdicts, or replies that refuse nothing."""
        for answer in (None, Accept(), Defer(), NO):
            for stage in (answer, lambda a=answer: succeed(a), lambda a=answer: _coroutine(a)):
                found = self.failing(EnvelopeStageContract, lambda s=stage: Envelope(s))
                self.assertEqual(found, set(), answer)
        for answer in ("yes", True, lambda: succeed("yes"), lambda: 1 / 0):
            found = self.failing(EnvelopeStageContract, lambda a=answer: Envelope(a))
            self.assertIn("test_verdict", found, answer)

    def test_letsGo(self) -> None:
        """A stage that goes on after it was cancelled."""
        for contract, kind in (
            (EnvelopeStageContract, Envelope),
            (ContentStageContract, Content),
            (DeliveryStageContract, Delivery),
        ):
            self.assertIn("test_letsGo", self.failing(contract, lambda k=kind: k(_deaf)))

    def test_hashable(self) -> None:
        """A stage that cannot be the key of a dictionary."""
        found = self.failing(EnvelopeStageContract, lambda: Unhashable(None))
        self.assertEqual(found, {"test_hashable"})

    def test_content(self) -> None:
        """No verdict, a verdict of the envelope's, a key that cannot be one, or that waits."""
        self.assertEqual(self.failing(ContentStageContract, lambda: Content(ACCEPT)), set())
        self.assertEqual(self.failing(ContentStageContract, lambda: Content(NO)), set())
        for answer in (None, Defer(), "no"):
            found = self.failing(ContentStageContract, lambda a=answer: Content(a))
            self.assertIn("test_oneVerdict", found, answer)
        for key in ([], object, lambda: succeed(1)):
            found = self.failing(ContentStageContract, lambda k=key: Content(ACCEPT, k))
            self.assertIn("test_cohortIsHashable", found, key)

    def test_delivery(self) -> None:
        """Outcomes that are none, or missing; a destination that is none."""
        for outcome in (Delivered(), Failed(NO.reply), Retry(LATER), Retry(LATER, after=5.0)):
            found = self.failing(DeliveryStageContract, lambda o=outcome: Delivery(o))
            self.assertEqual(found, set(), outcome)
        for outcome in (None, True, ACCEPT, dict, lambda: succeed({})):
            found = self.failing(DeliveryStageContract, lambda o=outcome: Delivery(o))
            self.assertIn("test_outcomeForEach", found, outcome)
        for place in ("", None, 5):
            found = self.failing(DeliveryStageContract, lambda p=place: Delivery(Delivered(), p))
            self.assertEqual(found, {"test_destination"}, place)

    def test_reporting(self) -> None:
        """Reports that differ from the answer, or that come only with the answer."""
        yes, no = Delivered(), Failed(NO.reply)

        def failing(reported: int, said: Any, halting: int) -> set[str]:
            class Contract(ReportingDeliveryContract):
                def makeHalting(self) -> Any:
                    return ReportingDelivery(halting, yes, yes, True)

            return self.failing(Contract, lambda: ReportingDelivery(reported, yes, said))

        self.assertEqual(failing(2, yes, 1), set())
        self.assertEqual(failing(0, yes, 1), set())
        self.assertEqual(failing(1, no, 1), {"test_reports"})
        self.assertEqual(failing(1, yes, 0), {"test_keepsWhatIsKnown"})
        self.assertEqual(failing(1, yes, 2), {"test_keepsWhatIsKnown"})


class ClockTests(ContentStageContract, SynchronousTestCase):
    """
    A stage that waits for a clock: the test moves it.
    """

    def makeStage(self) -> Content:
        self.clock = Clock()
        return Content(lambda: deferLater(self.clock, 5.0, lambda: ACCEPT))

    def resultOf(self, d: Deferred[Any]) -> Any:
        self.clock.advance(5.0)
        return super().resultOf(d)
