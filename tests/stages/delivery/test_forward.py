"""
Forwarding through another delivery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from deferrals.interfaces import IForeseeingMessageDelivery, IMessage, IReportingDelivery
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Parameters
from deferrals.model.reply import R550_UNKNOWN_RECIPIENT
from deferrals.model.sending import R550_NO_REQUIRETLS
from deferrals.model.trace import placesBefore
from deferrals.model.verdict import (
    AT_END,
    Accept,
    Delivered,
    Failed,
    HeaderEdit,
    Marks,
    Outcome,
    Refuse,
    Retry,
    Route,
)
from deferrals.stages.delivery import forward
from deferrals.stages.delivery.forward import (
    R550_MARKED,
    R554_DELIVERED_BEFORE,
    ForwardDelivery,
    ForwardSettings,
    deliverThrough,
)
from deferrals.testing import (
    FakeDelivery,
    FakeServices,
    ReportingDeliveryContract,
    makeAddressees,
    makeEnvelope,
    makeMessage,
    makeRecipient,
)
from tests.remote import BODY, RemoteCase

REWRITTEN = Mailbox.parse("SRS0=hash=RA=client.example=me@mx.example.net")
EDITS = (HeaderEdit("insert", "X", "y", AT_END),)
LOOPING = b"Delivered-To: A@X.example\r\nSubject: x\r\n\r\ntext\r\n"


class ForwardCase(RemoteCase):
    """
    C{forward} through C{smtp}.
    """

    def makeStage(self, marked: Any = "fail", through: str = "out") -> Any:
        services = FakeServices("/etc", self.clock, deliveries={"out": super().makeStage()})
        services.reversePaths["me@client.example"] = REWRITTEN
        return ForwardDelivery(ForwardSettings(through=through, marked=marked), services)


class ForwardContractTests(ForwardCase, ReportingDeliveryContract):
    """
    L{ForwardDelivery} as a delivery stage, with two copies.
    """

    def makeAddressees(self) -> list[Addressee]:
        a, b = makeAddressees("a@example.net", "b@example.net")
        return [a, Addressee(b.recipient, Marks((("X-Score", "9"),)), b.seq)]

    def makeHalting(self) -> ForwardDelivery:
        self.peer.rcpt = {"b@example.net": "silence"}
        stage: ForwardDelivery = self.makeStage()
        return stage


class ForwardTests(ForwardCase):
    """
    L{ForwardDelivery}.
    """

    def test_reversePath(self) -> None:
        """A stranger's is rewritten, our own and the null path are not; the text is the same."""
        for sender, path in (
            ("me@client.example", str(REWRITTEN)),
            ("own@mx.example.net", "own@mx.example.net"),
            ("", ""),
        ):
            envelope = makeEnvelope(sender)
            (outcome,) = self.outcomes(makeAddressees("a@x.example"), envelope=envelope)
            self.assertEqual((type(outcome), outcome.action), (Delivered, "relayed"))
            self.assertEqual(self.peer.accepted[-1][0], path)
            text = self.peer.accepted[-1][2]
            self.assertTrue(text.startswith(b"Received: "))
            self.assertTrue(text.endswith(BODY))

    def test_shares(self) -> None:
        """Where it goes is where the other delivery goes; without that it waits."""
        recipient = makeRecipient("a@x.example")
        self.assertEqual(self.makeStage().destination(recipient), "smtp tcp:hop.example:25")
        stage = self.makeStage(through="gone")
        self.assertEqual(stage.destination(recipient), "no delivery gone")
        (outcome,) = self.outcomes(makeAddressees("a@x.example"), stage=stage)
        self.assertIsInstance(outcome, Retry)
        self.assertIsNone(stage.refusal(makeEnvelope(), recipient))
        refusal = stage.refusalOf(makeMessage(), makeEnvelope(), recipient)
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(refusal)))

    def test_loop(self) -> None:
        """Who is named in Delivered-To has sent it on before; others get it."""
        addressees = makeAddressees("a@x.example", "b@x.example")
        a, b = self.outcomes(addressees, message=makeMessage(LOOPING))
        self.assertEqual(a, Failed(R554_DELIVERED_BEFORE))
        self.assertIsInstance(b, Delivered)
        self.assertEqual(self.peer.accepted[0][1], "b@x.example")
        self.assertIn(b"\r\nDelivered-To: A@X.example\r\n", self.peer.accepted[0][2])
        (alone,) = self.outcomes(addressees[:1], message=makeMessage(LOOPING))
        self.assertEqual(alone, Failed(R554_DELIVERED_BEFORE))
        self.assertEqual(len(self.peer.accepted), 1)

    def test_loopOnce(self) -> None:
        """The header section is looked through once for a message, however many recipients."""
        message = makeMessage(b"Delivered-To: other@x.example\r\n" + LOOPING)
        looked: list[bool] = []

        def looking(fields: Any) -> frozenset[str]:
            looked.append(True)
            return placesBefore(fields)

        self.patch(forward, "placesBefore", looking)
        stage = self.makeStage()
        for name, wanted in (("a", R554_DELIVERED_BEFORE), ("b", None), ("c", None)):
            d = stage.refusalOf(message, makeEnvelope(), makeRecipient(f"{name}@x.example"))
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(d)), wanted)
        (outcome,) = self.outcomes(makeAddressees("d@x.example"), message=message, stage=stage)
        self.assertIsInstance(outcome, Delivered)
        self.assertEqual(looked, [True])

    def test_alias(self) -> None:
        """A member's copy says where it was; back there, it is in a loop."""
        alias = Mailbox.parse("team@mx.example.net")
        recipient = attrs.evolve(makeRecipient("a@x.example"), aliases=(alias,))
        member = attrs.evolve(makeAddressees("a@x.example")[0], recipient=recipient)
        plain = makeAddressees("c@x.example", "b@x.example")[1]
        found = self.outcomes([member, plain])
        self.assertEqual([type(one) for one in found], [Delivered] * 2)
        texts = {to: text for _, to, text in self.peer.accepted}
        self.assertIn(b"\r\nDelivered-To: team@mx.example.net\r\nSubject", texts["a@x.example"])
        self.assertNotIn(b"Delivered-To", texts["b@x.example"])
        again = makeMessage(texts["a@x.example"])
        self.assertEqual(self.outcomes([member], message=again), [Failed(R554_DELIVERED_BEFORE)])
        (other,) = self.outcomes([plain], message=again)
        self.assertIsInstance(other, Delivered)
        asked = self.makeStage().refusalOf(again, makeEnvelope(), recipient)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(asked)), R554_DELIVERED_BEFORE)

    def test_loopForeseen(self) -> None:
        """It is refused while the sender is there."""
        stage = self.makeStage()
        for address, wanted in (("a@x.example", R554_DELIVERED_BEFORE), ("b@x.example", None)):
            asked = stage.refusalOf(makeMessage(LOOPING), makeEnvelope(), makeRecipient(address))
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(asked)), wanted)

    def test_foreseen(self) -> None:
        """What the other delivery knows beforehand, under the path that it will have."""
        stage = self.makeStage()
        envelope = makeEnvelope("me@client.example")
        envelope = attrs.evolve(envelope, parameters=Parameters(requireTLS=True))
        recipient = makeRecipient("a@x.example")
        self.assertIsNone(stage.refusal(makeEnvelope(), recipient))
        services = FakeServices(deliveries={"out": _Refusing()})
        services.reversePaths["me@client.example"] = REWRITTEN
        stage = ForwardDelivery(ForwardSettings(through="out"), services)
        self.assertEqual(stage.refusal(envelope, recipient), R550_NO_REQUIRETLS)
        asked = stage.refusalOf(makeMessage(), envelope, recipient)
        self.assertEqual(
            self.successResultOf(Deferred.fromCoroutine(asked)), R550_UNKNOWN_RECIPIENT
        )

    def test_marked(self) -> None:
        """Mail that is marked as junk is refused, goes on, or is filed."""
        recipient = makeRecipient("a@x.example").routed(Route("policy", "fwd"))
        verdict = Accept(Marks(junk=True), why="score 7")
        for marked, quarantine, wanted in (
            ("fail", "aside", Refuse(R550_MARKED)),
            ("forward", None, verdict),
            ("file", "aside", Accept(Marks(junk=True), Route("policy", "aside"))),
            ("file", None, Refuse(R550_MARKED)),
        ):
            found = self.makeStage(marked).judgeMarked(verdict, recipient, quarantine)
            self.assertEqual(found, wanted)
            self.assertIn("score 7", found.why)

    def test_sealed(self) -> None:
        """What goes on has the seal in front, over what the marks have made of it."""
        self.seen: list[bytes] = []
        stage = self.makeStage()
        sealer = _Sealer(self.seen)
        stage._services.sealer = sealer
        a, b = makeAddressees("a@x.example", "b@x.example")
        b = attrs.evolve(b, marks=Marks((("X-Score", "9"),), (), "[x] ", True, EDITS))
        found = self.outcomes([a, b], stage=stage)
        self.assertEqual([type(one) for one in found], [Delivered] * 2)
        first, second = (text for _, _, text in self.peer.accepted)
        self.assertIn(b"\r\nARC-Seal: x\r\nSubject: x\r\n\r\n.dot\r\n", first)
        self.assertIn(
            b"\r\nX-Spam-Flag: YES\r\nX-Score: 9\r\nARC-Seal: x\r\nSubject: [x] x\r\nX: y\r\n\r\n",
            second,
        )
        marked = BODY.replace(b"x\r\n", b"[x] x\r\nX: y\r\n", 1)
        self.assertEqual(self.seen, [BODY, marked])
        sealer.hasKeys = False
        self.outcomes([a], stage=stage)
        off = ForwardDelivery(ForwardSettings(through="out", arc=False), stage._services)
        sealer.hasKeys = True
        self.outcomes([a], stage=off)
        self.assertEqual(len(self.seen), 2)

    def test_markedAnyway(self) -> None:
        """What was accepted is delivered, and marked."""
        addressees = [attrs.evolve(makeAddressees("a@x.example")[0], marks=Marks(junk=True))]
        self.outcomes(addressees)
        self.assertIn(b"\r\nX-Spam-Flag: YES\r\n", self.peer.accepted[0][2])


class _Sealer:
    """
    Remembers what it has sealed.
    """

    hasKeys = True

    def __init__(self, seen: list[bytes]) -> None:
        self._seen = seen

    def seal(self, message: IMessage, leaving: IMessage, envelope: Envelope) -> Deferred[bytes]:
        with leaving.open() as file:
            self._seen.append(file.read())
        return succeed(b"ARC-Seal: x\r\n")


@implementer(IForeseeingMessageDelivery)
class _Refusing(FakeDelivery):
    """
    A delivery that never can; by the sender it tells in which way.
    """

    def refusal(self, envelope: Envelope, recipient: Any) -> Any:
        return R550_NO_REQUIRETLS if envelope.sender == REWRITTEN else None

    async def refusalOf(self, message: IMessage, envelope: Envelope, recipient: Any) -> Any:
        return R550_UNKNOWN_RECIPIENT if envelope.sender == REWRITTEN else None


@implementer(IReportingDelivery)
class _Half(FakeDelivery):
    """
    A delivery that reports one recipient, answers for another, and forgets a third.
    """

    def deliverReporting(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Addressee], report: Any
    ) -> Deferred[Mapping[Addressee, Outcome]]:
        a, b, _ = recipients
        report(a, Delivered())
        return succeed({b: Failed(R550_UNKNOWN_RECIPIENT)})


def same(addressees: Sequence[Addressee]) -> dict[Addressee, Addressee]:
    """
    Each is for the other delivery what it is.
    """
    return {one: one for one in addressees}


class ThroughTests(ForwardCase):
    """
    L{deliverThrough}.
    """

    def test_plain(self) -> None:
        """A delivery that reports nothing answers."""
        addressees = makeAddressees("a@x.example")
        reported: list[Any] = []
        d = Deferred.fromCoroutine(
            deliverThrough(
                FakeDelivery(),
                makeMessage(),
                makeEnvelope(),
                same(addressees),
                self._into(reported),
            )
        )
        self.assertEqual(self.successResultOf(d), {addressees[0]: Delivered()})
        self.assertEqual(reported, [])

    def test_half(self) -> None:
        """What it has reported stands; who is forgotten is tried again."""
        addressees = makeAddressees("a@x.example", "b@x.example", "c@x.example")
        reported: list[Any] = []
        d = Deferred.fromCoroutine(
            deliverThrough(
                _Half(), makeMessage(), makeEnvelope(), same(addressees), self._into(reported)
            )
        )
        found = self.successResultOf(d)
        kinds = [type(found[one]) for one in addressees]
        self.assertEqual(kinds, [Delivered, Failed, Retry])
        self.assertEqual(reported, [addressees[0]])

    def _into(self, reported: list[Any]) -> Any:
        return lambda addressee, outcome: reported.append(addressee)
