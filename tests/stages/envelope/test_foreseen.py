"""
What deliveries know beforehand that they can never deliver.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.interfaces import IForeseeingDelivery, IForeseeingMessageDelivery
from deferrals.model.reply import Reply
from deferrals.model.verdict import Accept, Defer, Refuse, Route
from deferrals.stages.envelope.foreseen import Foreseen
from deferrals.testing import FakeDelivery, makeEnvelope, makeMessage, makeRecipient

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
        foreseen = Foreseen({"box": FakeDelivery(), "known": self.delivery})
        return foreseen.judged(verdict, makeEnvelope(), makeRecipient("a@x.example"))

    def test_refused(self) -> None:
        """
        The delivery that the mail goes to in the end is asked.
        """
        route = Route("strict", "known")
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


@implementer(IForeseeingMessageDelivery)
class Seeing(Foreseeing):
    """
    The same, of messages.
    """

    def refusalOf(self, message: Any, envelope: Any, recipient: Any) -> Any:
        return self.refusal(envelope, recipient)


class MessageTests(SynchronousTestCase):
    """
    L{Foreseen.refusals}.
    """

    def ask(self, answer: Any) -> Deferred[dict[int, Reply]]:
        deliveries = {"box": FakeDelivery(), "early": Foreseeing(NEVER), "known": Seeing(answer)}
        foreseen = Foreseen(deliveries)
        self.assertTrue(foreseen.seesMessages)
        people = [
            makeRecipient(f"{name}@x.example").routed(Route("p", name)) for name in deliveries
        ]
        return Deferred.fromCoroutine(
            foreseen.refusals(makeMessage(b""), makeEnvelope(), [*people, makeRecipient("a@b.x")])
        )

    def test_refused(self) -> None:
        """Deliveries that look at messages are asked; they may wait."""

        async def later() -> Reply:
            return NEVER

        for answer in (NEVER, succeed(NEVER), later()):
            self.assertEqual(self.successResultOf(self.ask(answer)), {2: NEVER})
        self.assertEqual(self.successResultOf(self.ask(None)), {})
        self.assertFalse(Foreseen({"early": Foreseeing(NEVER)}).seesMessages)

    def test_wrong(self) -> None:
        """What fails, or is no refusal, is in the log, and refuses nothing."""
        for answer in ("no", Reply(250, "2.0.0", "yes"), fail(ValueError("on purpose"))):
            with capturedLogs() as logged:
                self.assertEqual(self.successResultOf(self.ask(answer)), {})
            self.assertEqual([one["stage"] for one in logged], ["Seeing.refusalOf"])

    def test_cancelled(self) -> None:
        """It may be cancelled."""
        d = self.ask(Deferred())
        d.cancel()
        self.failureResultOf(d, CancelledError)
