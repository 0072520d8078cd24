"""
The content stages as one: cohorts, chains, and who is asked how often.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

from cachetools import LRUCache
from twisted.internet.defer import Deferred, succeed
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides, implementer

from deferrals import logger
from deferrals.errors import StageError
from deferrals.interfaces import IEditingStage, IExpectingStage
from deferrals.model.reply import Reply
from deferrals.model.verdict import (
    ACCEPT,
    Accept,
    Defer,
    HeaderEdit,
    Marks,
    Refuse,
    Route,
)
from deferrals.stages.content.judge import ContentJudge
from deferrals.testing import FakeContent, makeEnvelope, makeMessage, makeRecipient
from tests.requirements import requirement

NO = Refuse(Reply(550, "5.6.0", "no"))


@implementer(IEditingStage)
class Editor:
    """
    A filter that puts the name of each cohort in front, and remembers what it is shown.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.shown: list[tuple[bytes, list[str]]] = []

    def cohort(self, recipient: Any) -> str:
        """By the first letter."""
        return str(recipient)[0]

    def judge(self, message: Any, envelope: Any, recipients: Any) -> Accept:
        """Accepts."""
        self.shown.append((message.header, sorted(map(str, recipients))))
        value = f"{self.name} {str(recipients[0])[0]}"
        return Accept(Marks(edits=(HeaderEdit("insert", "X", value, 0),)))


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

    def test_edits(self) -> None:
        """
        A stage that edits is shown what those before it have edited, and is asked apart
        for recipients who have met others of them.
        """
        first, second = Editor("1"), Editor("2")
        self.judge = ContentJudge({"long": [first, self.one, second], "short": [second]}, 1)
        self.one.verdicts = dict.fromkeys(("a1@x.example", "a2@x.example"), ACCEPT)
        self.one.verdicts["b@x.example"] = ACCEPT
        asked = [("a1@x.example", "long"), ("b@x.example", "long"), ("a2@x.example", "long")]
        found = self.ask(*asked, ("a3@x.example", "short"))
        texts = [[edit.value for edit in self.successResultOf(one).marks.edits] for one in found]
        self.assertEqual(texts, [["1 a", "2 a"], ["1 b", "2 b"], ["1 a", "2 a"], ["2 a"]])
        self.assertEqual(len(first.shown), 2)
        shown = {header.split(b"\r\n")[0]: asked for header, asked in second.shown}
        self.assertEqual(len(second.shown), 3)
        self.assertEqual(shown.pop(b"X: 1 a"), ["a1@x.example", "a2@x.example"])
        self.assertEqual(shown.pop(b"X: 1 b"), ["b@x.example"])
        self.assertEqual(list(shown.values()), [["a3@x.example"]])

    def test_editsUnseen(self) -> None:
        """What a stage edits that is not shown other edits would count wrongly: 451."""
        edits = (HeaderEdit("insert", "X", "y", 0),)
        self.one.verdicts["a@x.example"] = Accept(Marks(edits=edits))
        (found,) = self.ask(("a@x.example", "first"))
        self.assertEqual(self.successResultOf(found).reply.code, 451)
        self.flushLoggedErrors(StageError)

    def test_apart(self) -> None:
        """
        What one of a cohort was refused with stands, whatever the others come to, and
        whether they are waited for or not.
        """
        names = ("a@x.example", "b@x.example", "c@x.example")
        later = Refuse(Reply(451, "4.7.1", "later"))
        some = Accept(apart={"b@x.example": NO, "c@x.example": later, "z@y.example": NO})
        self.alike(self.one, *names)
        self.alike(self.two, *names)
        for end in (ACCEPT, later, NO, Accept(nowhere=True)):
            self.one.asked.clear()
            self.two.asked.clear()
            found = self.ask(*[(name, "both") for name in names])
            self.one.decide(names[0], some)
            self.two.decide(names[0], end)
            said = [self.successResultOf(one) for one in found]
            self.assertEqual(said, [end, NO, later])
            self.assertEqual({one.stage for one in said[1:]}, {"FakeContent"})
        found = self.ask(*[(name, "both") for name in names])
        self.one.decide(names[0], some)
        found[1].cancel()
        self.assertEqual(self.successResultOf(found[1]), NO)

    def test_apartAll(self) -> None:
        """Where all of a cohort refuse apart, no later stage is asked."""
        names = ("a@x.example", "b@x.example")
        later = Refuse(Reply(451, "4.7.1", "later"))
        self.alike(self.one, *names)
        found = self.ask(*[(name, "both") for name in names])
        self.one.decide(names[0], Accept(apart={names[0]: NO, names[1]: later}))
        self.assertEqual([self.successResultOf(one) for one in found], [NO, later])
        self.assertEqual(self.two.asked, [])

    def test_nowhere(self) -> None:
        """What throws the message away ends the chain; no mark of it is left."""
        self.one.verdicts["a@x.example"] = Accept(Marks(junk=True), nowhere=True, why="gone")
        (found,) = self.ask(("a@x.example", "both"))
        verdict = self.successResultOf(found)
        self.assertEqual((verdict, verdict.why), (Accept(nowhere=True), "gone"))
        self.assertEqual(self.two.asked, [])

    def test_quarantined(self) -> None:
        """That one stage wants it in quarantine is not lost by the next one."""
        self.one.verdicts["a@x.example"] = Accept(isQuarantined=True)
        self.two.verdicts["a@x.example"] = ACCEPT
        (found,) = self.ask(("a@x.example", "both"))
        self.assertEqual(self.successResultOf(found), Accept(isQuarantined=True))

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

    def test_manyAtOnce(self) -> None:
        """However many messages wait whose stages answer at once, each has its turn."""
        at = FakeContent()
        at.judge = lambda *_: ACCEPT  # type: ignore[method-assign, assignment, return-value]
        self.judge = ContentJudge({"slow": [self.one], "fast": [at]}, 1)
        (first,) = self.ask(("a@x.example", "slow"))
        verdicts = [self.ask(("b@x.example", "fast"))[0] for _ in range(2000)]
        self.one.decide("a@x.example", ACCEPT)
        self.assertEqual(self.successResultOf(first), ACCEPT)
        self.assertTrue(all(self.successResultOf(one) == ACCEPT for one in verdicts))

    def test_noGarbage(self) -> None:
        """A message that was judged, or given up, leaves nothing to the collector of garbage."""
        self.addCleanup(gc.enable)
        gc.disable()
        for gaveUp in (False, True):
            message = makeMessage()
            gone = weakref.ref(message)
            recipient = makeRecipient("a@x.example", "both")
            cohort = self.judge.cohort(recipient, Defer(recipient.route))
            (verdict,) = self.judge.judge(message, makeEnvelope(), [(recipient, cohort)])
            if gaveUp:
                verdict.cancel()
            else:
                self.one.decide("a@x.example", ACCEPT)
                self.two.decide("a@x.example", ACCEPT)
            self.assertTrue(verdict.called)
            del message, verdict
            self.assertIsNone(gone())

    def test_leftWhileTold(self) -> None:
        """A recipient that gives up another one of its cohort does not keep the rest waiting."""
        self.alike(self.one, "a@x.example", "b@x.example", "c@x.example")
        addresses = ["a@x.example", "b@x.example", "c@x.example"]
        first, second, third = self.ask(*[(address, "first") for address in addresses])
        first.addCallback(lambda verdict: second.cancel())
        self.one.decide("a@x.example", ACCEPT)
        self.assertEqual(self.successResultOf(second).reply.code, 451)
        self.assertEqual(self.successResultOf(third), ACCEPT)

    def test_raisesForOne(self) -> None:
        """What comes of one recipient's verdict does not keep the others from theirs."""
        self.alike(self.one, "a@x.example", "b@x.example")
        first, second = self.ask(("a@x.example", "first"), ("b@x.example", "both"))
        first.addCallback(lambda verdict: 1 / 0)
        self.one.decide("a@x.example", ACCEPT)
        self.failureResultOf(first, ZeroDivisionError)
        self.two.decide("b@x.example", NO)
        self.assertEqual(self.successResultOf(second), NO)

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


class LiftTests(SynchronousTestCase):
    """
    Refusals that are lifted, since a recipient has let the sender in.
    """

    def setUp(self) -> None:
        self.one, self.two = FakeContent(), FakeContent()
        self.said: dict[str, Any] = {}
        self.asked: list[tuple[str, str]] = []
        policies = {"both": [self.one, self.two]}
        self.judge = ContentJudge(policies, maxJudging=1, lift=self.lift)

    def lift(self, message: Any, envelope: Any, recipient: Any, refusal: Refuse) -> Any:
        if not recipient.route.admitted:
            return None
        self.asked.append((str(recipient), refusal.stage))
        return self.said[str(recipient)]

    def ask(self, *addresses: str) -> list[Deferred[Any]]:
        """
        @param addresses: those that begin with C{a} have let the sender in.
        """
        deferred = []
        for address in addresses:
            admitted = ("network 192.0.2.0/24 <x@y>",) if address[0] == "a" else ()
            recipient = makeRecipient(address).routed(Route("both", "box", admitted=admitted))
            deferred.append((recipient, self.judge.cohort(recipient, Defer(recipient.route))))
        return self.judge.judge(makeMessage(), makeEnvelope(), deferred)

    def alike(self, *addresses: str) -> None:
        for stage in (self.one, self.two):
            stage.cohorts.update(dict.fromkeys(addresses, "same"))

    def test_ownCohort(self) -> None:
        """Who has let the sender in is judged for itself, and the stages are asked once."""
        names = ("a@x.example", "anna@x.example", "b@x.example", "c@x.example")
        self.alike(*names)
        cohorts = set()
        for name in names:
            admitted = ("x",) if name[0] == "a" else ()
            recipient = makeRecipient(name).routed(Route("both", "box", admitted=admitted))
            cohorts.add(self.judge.cohort(recipient, Defer(recipient.route)))
        self.assertEqual(len(cohorts), 3)
        self.said = dict.fromkeys(names, succeed(True))
        self.ask(*names)
        self.assertEqual([asked for asked, _ in self.one.asked], [list(names)])

    def test_lifted(self) -> None:
        """As if the stage had accepted: the next one is asked, and its refusal counts."""
        self.alike("a@x.example", "b@x.example")
        self.said["a@x.example"] = succeed(True)
        lifted, refused = self.ask("a@x.example", "b@x.example")
        self.one.decide("a@x.example", NO)
        self.assertEqual(self.successResultOf(refused), NO)
        self.assertNoResult(lifted)
        ((asked, _),) = self.two.asked
        self.assertIn("a@x.example", asked)
        self.two.decide("a@x.example", Accept(Marks(junk=True)))
        self.assertEqual(self.successResultOf(lifted), Accept(Marks(junk=True)))
        self.assertEqual(self.asked, [("a@x.example", "FakeContent")])

    def test_notLifted(self) -> None:
        """Where it is not, it stands; with what stage it is of, for whoever keeps it."""
        self.said["a@x.example"] = succeed(False)
        (refused,) = self.ask("a@x.example")
        self.one.decide("a@x.example", NO)
        self.assertEqual(self.successResultOf(refused), NO)
        self.assertEqual(self.two.asked, [])

    def test_waits(self) -> None:
        """What is proved may have to be asked for; no other recipient waits for that."""
        self.alike("a@x.example", "b@x.example")
        self.said["a@x.example"] = proofs = Deferred[bool]()
        lifted, refused = self.ask("a@x.example", "b@x.example")
        self.one.decide("a@x.example", NO)
        self.assertEqual(self.successResultOf(refused), NO)
        self.assertNoResult(lifted)
        proofs.callback(True)
        self.two.decide("a@x.example", ACCEPT)
        self.assertEqual(self.successResultOf(lifted), ACCEPT)

    def test_late(self) -> None:
        """One that is not waited for any longer is refused for now, and nothing is asked on."""
        self.said["a@x.example"] = proofs = Deferred[bool]()
        (lifted,) = self.ask("a@x.example")
        self.one.decide("a@x.example", NO)
        lifted.cancel()
        self.assertEqual(self.successResultOf(lifted).reply.code, 451)
        self.failureResultOf(proofs)
        self.assertEqual(self.two.asked, [])
        (again,) = self.ask("b@x.example")  # its place is free
        self.one.decide("b@x.example", NO)
        self.assertEqual(self.successResultOf(again), NO)
