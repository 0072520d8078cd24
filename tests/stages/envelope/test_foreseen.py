"""
What deliveries know beforehand that they can never deliver.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import fail
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.interfaces import IForeseeingDelivery
from deferrals.model.reply import Reply
from deferrals.model.verdict import Accept, Defer, Refuse, Route
from deferrals.stages.envelope.foreseen import Foreseen
from deferrals.testing import FakeDelivery, makeEnvelope, makeRecipient

NEVER = Reply(550, "5.1.3", "never")


@implementer(IForeseeingDelivery)
class Foreseeing(FakeDelivery):
    """
    A delivery that answers the same about each recipient.
    """

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.routes: list[Route | None] = []

    def refusal(self, envelope: Any, recipient: Any) -> Any:
        self.routes.append(recipient.route)
        return self.answer


class ForeseenTests(SynchronousTestCase):
    """
    L{Foreseen}.
    """

    def judged(self, answer: Any, verdict: Any) -> Any:
        self.delivery = Foreseeing(answer)
        deliveries = {"box": FakeDelivery(), "known": self.delivery}
        foreseen = Foreseen(deliveries, {"filed": "known"})
        return foreseen.judged(verdict, makeEnvelope(), makeRecipient("a@x.example"))

    def test_refused(self) -> None:
        """
        The delivery that the mail goes to in the end is asked, and the one where it
        would be filed.
        """
        for route in (Route("strict", "known"), Route("filed", "box")):
            for verdict in (Accept(route=route), Defer(route)):
                self.assertEqual(self.judged(NEVER, verdict), Refuse(NEVER))
                self.assertEqual(self.delivery.routes, [route])
                self.assertEqual(self.judged(None, verdict), verdict)

    def test_notAsked(self) -> None:
        """No delivery is asked that gets nothing."""
        refuse = Refuse(Reply(550, "5.1.1", "no"))
        for verdict in (refuse, Accept(route=Route("strict", "box")), Accept()):
            self.assertEqual(self.judged(NEVER, verdict), verdict)
            self.assertEqual(self.delivery.routes, [])

    def test_nonsense(self) -> None:
        """What is no refusal, and at once, is the delivery's fault."""

        async def later() -> Reply:
            return NEVER

        verdict = Accept(route=Route("strict", "known"))
        for answer in ("no", Reply(250, "2.0.0", "yes"), fail(ValueError()), later()):
            self.assertRaises(StageError, self.judged, answer, verdict)
