"""
Which recipients are tried together, and what an answer says of each.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import Work
from deferrals.model.reply import R451_LOCAL_ERROR, Reply
from deferrals.model.schedule import Schedule
from deferrals.model.verdict import Delivered, Failed, Retry, Route
from deferrals.relay.attempts import NOWHERE, Attempt, Deliveries, attemptsOf, checked, complete
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage


class ByDomain:
    """
    A delivery whose next hop is the recipient's domain.
    """

    def destination(self, recipient: Any) -> str:
        if recipient.address.domain == "broken.example":
            raise RuntimeError("no destination")
        if recipient.address.domain == "ending.example":
            raise SystemExit(1)
        return str(recipient.address.domain)


class Lying:
    """
    Ends the process when it is asked what it is.
    """

    @property
    def __class__(self) -> type:
        raise SystemExit(1)


class AttemptsTests(SynchronousTestCase):
    """
    L{attemptsOf}.
    """

    def part(self, *addressees: Any) -> Any:
        stages: dict[str, Any] = {"box": ByDomain()}
        deliveries = Deliveries(stage=stages.get, schedule=lambda name: Schedule())
        work = Work(makeEnvelope(), makeMessage(), addressees, whole=True)
        attempts = attemptsOf(work, deliveries, 5.0)
        return {one.destination: one for one in attempts}

    def test_one(self) -> None:
        """Recipients of one next hop stay together, and the message whole."""
        found = self.part(*makeAddressees("a@x.example", "b@x.example"))
        self.assertEqual(list(found), ["x.example"])
        self.assertTrue(found["x.example"].work.whole)
        self.assertEqual(len(found["x.example"].keys), 2)

    def test_several(self) -> None:
        """Each next hop has its own, and none of them is the whole message."""
        found = self.part(*makeAddressees("a@x.example", "b@y.example", "c@x.example"))
        self.assertEqual(
            {name: len(one.work.addressees) for name, one in found.items()},
            {"x.example": 2, "y.example": 1},
        )
        self.assertFalse(any(one.work.whole for one in found.values()))

    def test_nowhere(self) -> None:
        """A refuser of a message that was accepted for all goes nowhere."""
        (one,) = makeAddressees("a@x.example")
        refuser = attrs.evolve(one, refusal=Reply(550, "5.6.0", "no"))
        self.assertEqual(list(self.part(refuser)), [NOWHERE])

    def test_noDestination(self) -> None:
        """A delivery that is gone, or cannot say where to, keeps its recipients apart."""
        (one,) = makeAddressees("a@x.example")
        gone = attrs.evolve(one, recipient=one.recipient.routed(Route("strict", "gone")))
        (broken,) = makeAddressees("a@broken.example")
        self.assertEqual(set(self.part(gone, broken)), {"no delivery gone", "delivery box"})

    def test_destinationEndsTheProcess(self) -> None:
        """Whatever a stage raises, the others go on."""
        one, broken = makeAddressees("a@x.example", "a@ending.example")
        self.assertEqual(set(self.part(one, broken)), {"x.example", "delivery box"})


class AttemptTests(SynchronousTestCase):
    """
    L{Attempt}.
    """

    def attempt(self, *addresses: str) -> Attempt:
        addressees = makeAddressees(*addresses)
        work = Work(makeEnvelope(), makeMessage(), addressees, whole=True, ageSeconds=7.0)
        return Attempt(work, "box", "x.example", Schedule(), 5.0)

    def test_part(self) -> None:
        """A part of a message is not the whole of it, nor is what is left."""
        attempt = self.attempt("a@x.example", "b@x.example", "c@x.example")
        one, two, three = attempt.work.addressees
        part = attempt.part([two])
        self.assertEqual((part.addressees, part.whole), ((two,), False))
        self.assertEqual((attempt.work.addressees, attempt.work.whole), ((one, three), False))
        last = attempt.part([one, three])
        self.assertEqual((last.addressees, last.whole), ((one, three), False))
        self.assertEqual(attempt.works, [])

    def test_allAtOnce(self) -> None:
        """Where all are known together, the message is whole."""
        attempt = self.attempt("a@x.example", "b@x.example")
        self.assertTrue(attempt.part(attempt.work.addressees).whole)

    def test_firstCounts(self) -> None:
        """What was reported stays; another outcome behind it is a fault of the stage."""
        attempt = self.attempt("a@x.example")
        (one,) = attempt.work.addressees
        delivered = Delivered()
        self.assertEqual(attempt.heard(one, delivered), "")
        self.assertEqual(attempt.heard(one, Delivered()), "")
        self.assertIn("behind", attempt.heard(one, Failed(R451_LOCAL_ERROR)))
        self.assertEqual(attempt.outcomes, {one: delivered})
        answer = checked({one: Retry(R451_LOCAL_ERROR)}, [], attempt.outcomes)
        self.assertEqual((answer.outcomes, answer.problems), ({}, []))

    def test_over(self) -> None:
        """What is reported afterwards does not count."""
        attempt = self.attempt("a@x.example")
        attempt.over()
        self.assertIn("when it was over", attempt.heard(attempt.work.addressees[0], Delivered()))
        self.assertEqual(attempt.outcomes, {})

    def test_age(self) -> None:
        """A message goes on aging while it is delivered."""
        self.assertEqual(self.attempt("a@x.example").queued(25.0, 0.0).ageSeconds, 27.0)


class OutcomeTests(SynchronousTestCase):
    """
    L{checked} and L{complete}.
    """

    def test_table(self) -> None:
        """Only outcomes, and only of those that were asked about; the others are tried again."""
        one, two = makeAddressees("a@x.example", "b@x.example")
        (foreign,) = makeAddressees("z@x.example")
        no = Failed(Reply(550, "5.6.0", "no"))
        again = Retry(R451_LOCAL_ERROR)
        answers: tuple[tuple[Any, Any], ...] = (
            ({one: Delivered(), two: no}, {one: Delivered(), two: no}),
            ({one: Delivered()}, {one: Delivered(), two: again}),
            ({one: "yes", two: no}, {one: again, two: no}),
            ({foreign: Delivered()}, {one: again, two: again}),
            (None, {one: again, two: again}),
            ([Delivered(), Delivered()], {one: again, two: again}),
            (Lying(), {one: again, two: again}),
            ({one: Lying(), two: no}, {one: again, two: no}),
            ({one: Delivered(), Lying(): no}, {one: Delivered(), two: again}),
        )
        for answer, wanted in answers:
            self.assertEqual(complete(checked(answer, [one, two]).outcomes, [one, two]), wanted)
