"""
One copy for each recipient, each with an outcome of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.delivery import Addressee
from deferrals.model.reply import R451_LOCAL_ERROR
from deferrals.model.verdict import Delivered, Outcome, Retry
from deferrals.stages.delivery.copies import deliverApart, unreported, writeEach
from deferrals.stages.delivery.file import FileDelivery
from deferrals.stages.delivery.maildir import MaildirDelivery
from deferrals.testing import makeAddressees, makeEnvelope

_S = TypeVar("_S", FileDelivery, MaildirDelivery)


def halting(stage: _S) -> _S:
    """
    @return: a delivery that writes C{b@example.net} for ever.
    """

    def inThread(function: Any, addressee: Addressee) -> Deferred[Any]:
        return Deferred() if str(addressee) == "b@example.net" else succeed(function(addressee))

    stage._services.inThread = inThread  # type: ignore[method-assign, assignment]
    return stage


class CopiesTests(SynchronousTestCase):
    """
    L{writeEach}.
    """

    def test_each(self) -> None:
        """Where writing raises, that recipient is to be tried again, and no other."""
        good, bad = makeAddressees("good@x.example", "bad@x.example")

        def write(addressee: Addressee) -> Outcome:
            if addressee is bad:
                raise OSError("the disk")
            return Delivered()

        outcomes = self.successResultOf(
            writeEach(maybeDeferred, write, makeEnvelope(), [good, bad], unreported)
        )
        self.assertEqual(outcomes, {good: Delivered(), bad: Retry(R451_LOCAL_ERROR)})
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_reported(self) -> None:
        """Each outcome is reported as soon as it is known, in whatever order."""
        waiting: list[Deferred[Outcome]] = [Deferred(), Deferred()]
        threads = iter(waiting)
        a, b = makeAddressees("a@x.example", "b@x.example")
        reported: list[tuple[Addressee, Outcome]] = []
        d = writeEach(
            lambda *args: next(threads),  # type: ignore[arg-type]
            lambda addressee: Delivered(),
            makeEnvelope(),
            [a, b],
            lambda *args: reported.append(args),
        )
        waiting[1].callback(Delivered())
        self.assertEqual(reported, [(b, Delivered())])
        self.assertNoResult(d)
        waiting[0].errback(OSError("the disk"))
        self.assertEqual(reported[1:], [(a, Retry(R451_LOCAL_ERROR))])
        self.assertEqual(list(self.successResultOf(d)), [a, b])
        self.flushLoggedErrors(OSError)

    def test_notBegun(self) -> None:
        """What is cancelled is written to its end where that was begun, or not at all."""
        begun: list[Callable[[], Outcome]] = []

        def inThread(function: Any, addressee: Addressee) -> Deferred[Any]:
            begun.append(lambda: function(addressee))
            return Deferred()

        written: list[Addressee] = []

        def write(addressee: Addressee) -> Outcome:
            written.append(addressee)
            return Delivered()

        a, b = makeAddressees("a@x.example", "b@x.example")
        d = writeEach(inThread, write, makeEnvelope(), [a, b], unreported)  # type: ignore[arg-type]
        begun[0]()
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertRaises(CancelledError, begun[1])
        self.assertEqual(written, [a])


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

        outcomes = self.successResultOf(self.deliver(good, reports, wrong, good))
        kinds = [[type(outcomes[one]) for one in group] for group in self.groups]
        self.assertEqual(kinds, [[Delivered] * 2, [Delivered, Retry], [Retry] * 2, [Delivered] * 2])
        self.assertEqual(outcomes, self.reported)
        self.assertEqual(len(self.flushLoggedErrors(ValueError, CancelledError)), 2)

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
