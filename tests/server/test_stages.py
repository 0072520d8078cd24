"""
The stages of a server that is embedded, as one.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer, implementer_only

from deferrals.errors import StageError
from deferrals.interfaces import (
    IBinaryDelivery,
    IDeliveryStage,
    IEnvelopeStage,
    IForeseeingDelivery,
    IMarkedDelivery,
    IOnwardDelivery,
)
from deferrals.model.address import Mailbox
from deferrals.model.envelope import Recipient
from deferrals.model.reply import (
    R550_RELAYING_DENIED,
    R550_SENDER_ROUTING,
    R550_UNKNOWN_RECIPIENT,
    Reply,
)
from deferrals.model.schedule import Schedule
from deferrals.model.verdict import Accept, ContentVerdict, Defer, Expand, Marks, Refuse, Route
from deferrals.server.stages import CurrentStages, EnvelopeChain, Stages
from deferrals.testing import FakeContent, MemoryServer, makeEnvelope, makeMessage, makeRecipient

GONE = Refuse(Reply(550, "5.1.1", "gone"))


@implementer(IEnvelopeStage)
class Says:
    """
    An envelope stage with one opinion.
    """

    def __init__(self, verdict: Any) -> None:
        self.verdict = verdict
        self.routes: list[Route | None] = []

    def judgeRecipient(self, envelope: Any, recipient: Any) -> Any:
        self.routes.append(recipient.route)
        return self.verdict


@implementer(IBinaryDelivery)
class Box:
    """
    A delivery.
    """

    def destination(self, recipient: Any) -> str:
        return "box"

    def deliver(self, message: Any, envelope: Any, recipients: Any) -> Any:
        return {}


@implementer(IEnvelopeStage)
class Asking(Box):
    """
    A delivery that is asked at RCPT TO, too.
    """

    def __init__(self, verdict: Any) -> None:
        self.verdict = verdict

    def judgeRecipient(self, envelope: Any, recipient: Any) -> Any:
        return self.verdict


class ChainTests(SynchronousTestCase):
    """
    L{EnvelopeChain}.
    """

    def ask(self, *stages: Any, policies: Any = ("p",), deliveries: Any = None) -> Any:
        chain = EnvelopeChain(stages, policies, deliveries or {"d": Box()}, {})
        recipient = Recipient(Mailbox.parse("a@x.example"))
        return chain.judgeRecipient(makeEnvelope(), recipient)

    def test_none(self) -> None:
        """A recipient that no stage knows is refused."""
        self.assertEqual(self.successResultOf(self.ask(Says(None))), Refuse(R550_RELAYING_DENIED))

    def test_routing(self) -> None:
        """A recipient that a server behind this one could send on is refused."""

        @implementer(IOnwardDelivery)
        class Onward(Box):
            pass

        for address, delivery, wanted in (
            ("a%b@x.example", Onward(), Refuse(R550_SENDER_ROUTING)),
            ("a@x.example", Onward(), Defer(Route("p", "d"))),
            ("a%b@x.example", Box(), Defer(Route("p", "d"))),
        ):
            chain = EnvelopeChain([Says(Defer())], ["p"], {"d": delivery}, {})
            d = chain.judgeRecipient(makeEnvelope(), Recipient(Mailbox.parse(address)))
            self.assertEqual(self.successResultOf(d), wanted)

    def test_foreseen(self) -> None:
        """A recipient that a delivery can never reach is refused."""

        @implementer(IForeseeingDelivery)
        class Foreseeing(Box):
            def refusal(self, envelope: Any, recipient: Any) -> Any:
                return GONE.reply

        found = self.ask(Says(Defer()), deliveries={"d": Foreseeing()})
        self.assertEqual(self.successResultOf(found), GONE)

    def test_lastOpinion(self) -> None:
        """The last opinion counts, and a refusal ends it."""
        route = Route("p", "d")
        found = self.successResultOf(self.ask(Says(Defer()), Says(None), Says(Accept())))
        self.assertEqual(found, Accept(route=route))
        after = Says(Accept())
        self.assertEqual(self.successResultOf(self.ask(Says(Defer()), Says(GONE), after)), GONE)
        self.assertEqual(after.routes, [])

    def test_alias(self) -> None:
        """
        An alias' members are asked about in their turn, and delivered to; one of them may
        be the alias itself.
        """

        @implementer(IEnvelopeStage)
        class Lists:
            def judgeRecipient(self, envelope: Any, recipient: Any) -> Any:
                names = {"all": "anna bert none", "anna": "anna carl"}
                found = names.get(recipient.address.local)
                if found is not None:
                    members = (Mailbox.parse(f"{name}@x.example") for name in found.split())
                    return Expand(tuple(members))
                return None if recipient.address.local == "none" else Defer()

        server = MemoryServer(envelope=[Says(Defer()), Lists()])
        said = server.session().say(
            *("EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<all@x.example>"),
            *("DATA", "text", "."),
        )
        self.assertEqual(said[-1][:3], "250")
        found = sorted(str(one) for _, one, _ in server.delivered)
        self.assertEqual(found, [f"{name}@x.example" for name in ("anna", "bert", "carl", "none")])

    def test_names(self) -> None:
        """A name that is none, or is missing where there are several, is the stage's fault."""
        for verdict in (Defer(Route("q", "d")), Defer(Route("p", "e"))):
            self.failureResultOf(self.ask(Says(verdict)), StageError)
        two = {"d": Box(), "e": Box()}
        self.failureResultOf(self.ask(Says(Defer()), deliveries=two), StageError)
        found = self.successResultOf(self.ask(Says(Defer(Route("", "e"))), deliveries=two))
        self.assertEqual(found, Defer(Route("p", "e")))

    def test_delivery(self) -> None:
        """A delivery that can be asked has the last word, once."""
        self.assertEqual(
            self.successResultOf(self.ask(Says(Accept()), deliveries={"d": Asking(GONE)})), GONE
        )
        both = Asking(Accept())
        found = self.successResultOf(self.ask(both, deliveries={"d": both}))
        self.assertEqual(found, Accept(route=Route("p", "d")))


class StagesTests(SynchronousTestCase):
    """
    L{Stages} and L{CurrentStages}.
    """

    def make(self, **changes: Any) -> Stages:
        given: dict[str, Any] = {
            "envelope": Says(Defer()),
            "content": (),
            "delivery": Box(),
            "schedule": Schedule(),
            "notices": None,
            "quarantines": {},
        }
        return Stages.make(**given | changes)

    def test_names(self) -> None:
        """What has no name is called content and delivery."""
        stages = self.make(content=[FakeContent()], notices="delivery")
        self.assertEqual(
            (list(stages.content), list(stages.deliveries)), (["content"], ["delivery"])
        )
        self.assertEqual(stages.routeBack(Mailbox.parse("a@x.example")), Route("", "delivery"))

    def test_binary(self) -> None:
        """BINARYMIME is for a server whose deliveries all take it."""
        self.assertTrue(self.make().takesBinary)

        @implementer_only(IDeliveryStage)
        class Text(Box):
            """A delivery of text."""

        self.assertFalse(self.make(delivery={"a": Box(), "b": Text()}).takesBinary)

    def test_current(self) -> None:
        """What is set counts from then on; a delivery that is gone has the ordinary schedule."""
        first = self.make(delivery={"a": Box()})
        current = CurrentStages(first, 10)
        content = current.content
        self.assertIs(current.delivery("a"), first.deliveries["a"])
        current.set(self.make(delivery={"b": Box()}))
        self.assertIsNone(current.delivery("a"))
        self.assertEqual(current.schedule("a"), Schedule())
        self.assertIsNot(current.content, content)
        self.assertFalse(current.canWriteTo(Mailbox.parse("a@x.example")))

    def test_reversePath(self) -> None:
        """By default mail goes on as its sender's."""
        sender, other = Mailbox("a", "x.example"), Mailbox("b", "y.example")
        current = CurrentStages(self.make(), 10)
        self.assertIs(current.reversePath(sender), sender)
        current.set(self.make(reversePath=lambda _: other))
        self.assertIs(current.reversePath(sender), other)

    def test_quarantined(self) -> None:
        """A stage may want the copy in its policy's quarantine; without one, not now."""
        content = FakeContent()
        content.verdicts = dict.fromkeys(
            ("a@x.example", "b@x.example"), Accept(isQuarantined=True, why="odd")
        )
        stages = self.make(content={"p": [content], "q": [content]}, quarantines={"p": "delivery"})
        current = CurrentStages(stages, 10)
        asked = []
        for local, policy in (("a", "p"), ("b", "q")):
            recipient = makeRecipient(f"{local}@x.example").routed(Route(policy, "inbox"))
            asked.append((recipient, current.content.cohort(recipient, Defer())))
        found = current.content.judge(makeMessage(), makeEnvelope(), asked)
        filed, refused = (self.successResultOf(one) for one in found)
        self.assertEqual(
            (filed.route, filed.why), (Route("p", "delivery"), "filed by delivery (odd)")
        )
        self.assertEqual(refused.reply.code, 451)

    def test_marked(self) -> None:
        """A delivery may want no marked mail: what it says is the verdict."""

        @implementer(IMarkedDelivery)
        class Clean(Box):
            """A delivery that files what is marked."""

            def judgeMarked(
                self, verdict: Accept, recipient: Recipient, quarantine: str | None
            ) -> ContentVerdict:
                assert quarantine is not None
                return Accept(verdict.marks, Route("p", quarantine))

        content = FakeContent()
        marked = Accept(Marks(junk=True))
        content.verdicts = {
            "a@x.example": marked,
            "b@x.example": Accept(),
            "c@x.example": Refuse(R550_UNKNOWN_RECIPIENT),
            "d@x.example": marked,
        }
        stages = self.make(
            content={"p": [content]},
            delivery={"clean": Clean(), "box": Box()},
            quarantines={"p": "box"},
        )
        current = CurrentStages(stages, 10)
        names = {"a": "clean", "b": "clean", "c": "clean", "d": "box"}
        asked = []
        for local, name in names.items():
            recipient = makeRecipient(f"{local}@x.example").routed(Route("p", name))
            asked.append((recipient, current.content.cohort(recipient, Defer())))
        found = current.content.judge(makeMessage(), makeEnvelope(), asked)
        a, b, c, d = (self.successResultOf(one) for one in found)
        self.assertEqual(a, Accept(Marks(junk=True), Route("p", "box")))
        self.assertEqual((b, d), (Accept(), marked))
        self.assertIsInstance(c, Refuse)
