"""
The content stages as one: cohorts, chains, and who is asked how often.
"""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from deferrals import logger
from deferrals.errors import StageError
from deferrals.interfaces import IExpectingStage
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Accept, Defer, Marks, Refuse, Route
from deferrals.stages.content.judge import ContentJudge
from deferrals.testing import FakeContent, makeEnvelope, makeMessage, makeRecipient
from tests.requirements import requirement

NO = Refuse(Reply(550, "5.6.0", "no"))


class JudgeTests(SynchronousTestCase):
    """
    L{ContentJudge}.
    """

    def setUp(self) -> None:
        self.one, self.two = FakeContent(), FakeContent()
        self.judge = ContentJudge(
            {"first": [self.one], "both": [self.one, self.two], "none": []}, maxJudging=1
        )

    def ask(self, *recipients: tuple[str, str]) -> list[Deferred[Any]]:
        """
        @param recipients: (address, policy).
        """
        deferred = []
        for address, policy in recipients:
            recipient = makeRecipient(address, policy)
            deferred.append((recipient, self.judge.cohort(recipient, Defer(recipient.route))))
        return self.judge.judge(makeMessage(), makeEnvelope(), deferred)

    def alike(self, stage: FakeContent, *addresses: str) -> None:
        stage.cohorts.update(dict.fromkeys(addresses, "same"))

    def test_thousand(self) -> None:
        """A thousand recipients in three cohorts cost three judgements."""
        addresses = [f"r{number}@example.net" for number in range(1000)]
        self.one.cohorts.update({a: number % 3 for number, a in enumerate(addresses)})
        verdicts = self.ask(*[(address, "first") for address in addresses])
        self.assertEqual(len(self.one.asked), 3)
        self.assertEqual(sorted(len(asked) for asked, _ in self.one.asked), [333, 333, 334])
        for address in addresses[:3]:
            self.one.decide(address, ACCEPT)
        self.assertTrue(all(self.successResultOf(d) == ACCEPT for d in verdicts))

    @requirement("S-3")
    def test_chain(self) -> None:
        """The second stage is asked about those whom the first one lets pass."""
        good, bad = self.ask(("a@x.example", "both"), ("b@x.example", "both"))
        self.one.decide("a@x.example", ACCEPT)
        self.one.decide("b@x.example", NO)
        self.assertEqual(self.successResultOf(bad), NO)
        self.assertEqual([asked for asked, _ in self.two.asked], [["a@x.example"]])
        self.assertNoResult(good)
        self.two.decide("a@x.example", NO)
        self.assertEqual(self.successResultOf(good), NO)

    def test_sharedStage(self) -> None:
        """A stage is asked once for recipients of two policies whom it treats alike."""
        self.alike(self.one, "a@x.example", "b@x.example")
        first, second = self.ask(("a@x.example", "first"), ("b@x.example", "both"))
        self.assertEqual([asked for asked, _ in self.one.asked], [["a@x.example", "b@x.example"]])
        self.one.decide("a@x.example", ACCEPT)
        self.assertEqual(self.successResultOf(first), ACCEPT)
        self.assertNoResult(second)

    def test_sideBySide(self) -> None:
        """Independent cohorts do not wait for one another."""
        _, second = self.ask(("a@x.example", "first"), ("b@x.example", "first"))
        self.one.decide("b@x.example", NO)
        self.assertEqual(self.successResultOf(second), NO)

    def test_marks(self) -> None:
        """The marks of a chain add up, in its order."""
        (verdict,) = self.ask(("a@x.example", "both"))
        self.one.decide("a@x.example", Accept(Marks((("A", "1"),), subjectPrefix="[x] ")))
        self.two.decide("a@x.example", Accept(Marks((("B", "2"),), junk=True)))
        marks = self.successResultOf(verdict).marks
        self.assertEqual(marks, Marks((("A", "1"), ("B", "2")), (), "[x] ", True))

    def test_noStages(self) -> None:
        """Without content stages everybody accepts."""
        (verdict,) = self.ask(("a@x.example", "none"))
        self.assertEqual(self.successResultOf(verdict), ACCEPT)

    def test_raises(self) -> None:
        """A stage that raises refuses for now; the log names it, and says where it has raised."""
        self.patch(logger, "_raised", LRUCache(9))
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        (verdict,) = self.ask(("a@x.example", "first"))
        self.one.decide("a@x.example", StageError("on purpose"))
        self.assertEqual(self.successResultOf(verdict).reply.code, 451)
        (event,) = [e for e in events if e.get("stage") == "FakeContent"]
        self.assertEqual(event["error"], "StageError: on purpose")
        self.assertIn("<a@x.example>", event["names"])
        self.assertIn("StageError: on purpose", event["traceback"][-1])

    def test_nonsense(self) -> None:
        """An answer that is no verdict refuses for now."""
        for nonsense in (None, "yes", Reply(550, "5.7.1", "no"), Defer()):
            (verdict,) = self.ask(("a@x.example", "first"))
            self.one.decide("a@x.example", nonsense)
            self.assertEqual(self.successResultOf(verdict).reply.code, 451)

    def test_cancel(self) -> None:
        """A recipient not waited for is refused for now; the stage is told when none waits."""
        self.alike(self.one, "a@x.example", "b@x.example")
        first, second = self.ask(("a@x.example", "first"), ("b@x.example", "first"))
        first.cancel()
        self.assertEqual(self.successResultOf(first).reply.code, 451)
        self.assertEqual(self.one.cancelled, [])
        second.cancel()
        self.assertEqual(self.one.cancelled, ["a@x.example", "b@x.example"])

    def test_askedAgain(self) -> None:
        """A recipient that comes to a stage after all others have left it is asked about anew."""
        self.judge = ContentJudge({"fast": [self.two], "slow": [self.one, self.two]}, 1)
        self.alike(self.two, "a@x.example", "b@x.example")
        first, second = self.ask(("a@x.example", "fast"), ("b@x.example", "slow"))
        first.cancel()
        self.assertEqual(self.two.cancelled, ["a@x.example", "b@x.example"])
        self.one.decide("b@x.example", ACCEPT)
        self.assertEqual(self.two.asked[-1][0], ["b@x.example"])
        self.two.decide("b@x.example", NO)
        self.assertEqual(self.successResultOf(second), NO)

    def test_manyCohorts(self) -> None:
        """What a cohort costs does not depend on how many there are."""

        class Key:
            compared = 0

            def __init__(self, number: int) -> None:
                self.number = number

            def __hash__(self) -> int:
                return hash(self.number)

            def __eq__(self, other: object) -> bool:
                Key.compared += 1
                return isinstance(other, Key) and other.number == self.number

        addresses = [f"r{number}@example.net" for number in range(300)]
        self.one.cohorts.update({a: Key(number) for number, a in enumerate(addresses)})
        self.ask(*[(address, "first") for address in addresses])
        self.assertEqual(len(self.one.asked), 300)
        self.assertLess(Key.compared, 300 * 20)

    @requirement("P-8")
    def test_slots(self) -> None:
        """A recipient cancelled while it waits for a slot gets 452, and gives up its place."""
        (first,) = self.ask(("a@x.example", "first"))
        (second,) = self.ask(("b@x.example", "first"))
        (third,) = self.ask(("c@x.example", "first"))
        second.cancel()
        self.assertEqual(self.successResultOf(second).reply.code, 452)
        self.one.decide("a@x.example", ACCEPT)
        self.assertEqual(self.successResultOf(first), ACCEPT)
        self.assertEqual([asked for asked, _ in self.one.asked], [["a@x.example"], ["c@x.example"]])
        third.cancel()
        (fourth,) = self.ask(("d@x.example", "first"))
        self.one.decide("d@x.example", ACCEPT)
        self.assertEqual(self.successResultOf(fourth), ACCEPT)

    def test_expect(self) -> None:
        """A stage that wants to know is told of all whom it may be asked about, first."""
        expecting, told = FakeContent(), []

        def expect(message: Any, envelope: Any, recipients: Any) -> None:
            self.assertEqual(expecting.asked, [])
            told.append([str(recipient) for recipient in recipients])

        expecting.expect = expect  # type: ignore[attr-defined]
        directlyProvides(expecting, IExpectingStage)
        self.judge = ContentJudge({"p": [self.one, expecting], "q": [expecting], "r": []}, 1)
        self.ask(("a@x.example", "p"), ("b@x.example", "q"), ("c@x.example", "r"))
        self.assertEqual(told, [["a@x.example", "b@x.example"]])

    def test_expectFails(self) -> None:
        """A stage that fails to listen is asked all the same."""
        expecting = FakeContent()
        expecting.expect = lambda *_: 1 / 0  # type: ignore[attr-defined]
        directlyProvides(expecting, IExpectingStage)
        self.judge = ContentJudge({"p": [expecting]}, 1)
        (verdict,) = self.ask(("a@x.example", "p"))
        expecting.decide("a@x.example", ACCEPT)
        self.assertEqual(self.successResultOf(verdict), ACCEPT)

    def test_cohort(self) -> None:
        """A cohort is what a recipient meets, not what its policy is called."""
        judge = ContentJudge({"p": [self.one], "q": [self.one], "r": [], "s": [self.two]}, 1)
        self.alike(self.one, "a@x.example", "b@x.example")
        self.alike(self.two, "a@x.example")

        def cohort(address: str, policy: str) -> Any:
            recipient = makeRecipient(address, policy)
            return judge.cohort(recipient, Defer(recipient.route))

        self.assertEqual(cohort("a@x.example", "p"), cohort("b@x.example", "q"))
        self.assertNotEqual(cohort("a@x.example", "p"), cohort("a@x.example", "s"))
        self.assertNotEqual(cohort("a@x.example", "p"), cohort("c@x.example", "p"))
        accepted = judge.cohort(makeRecipient("a@x.example", "p"), Accept(route=Route("p", "b")))
        self.assertEqual(accepted, cohort("a@x.example", "r"))
