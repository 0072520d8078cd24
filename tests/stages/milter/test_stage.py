"""
The stage C{milter}, against scripted filters.
"""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import IContentStage, IEnvelopeStage
from deferrals.model.envelope import Client
from deferrals.model.settings import BadSetting
from deferrals.model.trace import Head
from deferrals.model.verdict import ACCEPT, AT_END, Accept, Defer, HeaderEdit, Refuse, Route
from deferrals.stages.content.judge import ContentJudge
from deferrals.stages.milter import stage as stage_module
from deferrals.stages.milter.link import IDLE_SECONDS
from deferrals.stages.milter.stage import (
    MilterCheck,
    MilterCheckSettings,
    MilterSettings,
    MilterStage,
)
from deferrals.testing import (
    ContentStageContract,
    EnvelopeStageContract,
    makeEnvelope,
    makeMessage,
    makeRecipient,
)
from tests.milters import ScriptedFilter, milterServices, negotiate
from tests.requirements import requirement

#: What a filter may say, or should not.
WORDS = (
    *(b"a", b"c", b"c", b"c", b"r", b"t", b"d", b"f", b"s", b"p", b""),
    *(b"y550 no\0", b"y250 yes\0", b"hX\0v\0", b"m\0\0\0\1X\0\0", b"qx\0", b"bx"),
    *(b"raw:\0\0", b"raw:\xff\xff\xff\xff", b"O\0\0\0\6\0\0\0\0\0\0\0\0"),
)

SOCKET = "tcp:filter.test:1"
BODY = b"Subject: x\r\nX: 1\r\n\t2\r\n\r\ntext\r\n"


class MilterCase(SynchronousTestCase):
    """
    A stage, and a filter.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.filter = ScriptedFilter(self.clock)
        self.services = milterServices({SOCKET: self.filter}, self.clock)

    def make(self, **settings: Any) -> MilterStage:
        return MilterStage(MilterSettings(socket=SOCKET, **settings), self.services)

    def ask(
        self, *recipients: str, stage: MilterStage | None = None, **more: Any
    ) -> list[Deferred[Any]]:
        """
        @return: a Deferred for each recipient.
        """
        stages = {"p": [stage or self.make()]}
        return self.judge(stages, *[(one, "p") for one in recipients or ("a@x.example",)], **more)

    def judge(
        self,
        policies: dict[str, list[Any]],
        *recipients: tuple[str, str],
        body: bytes = BODY,
        **envelope: Any,
    ) -> list[Deferred[Any]]:
        judge = ContentJudge(policies, 10)
        asked = []
        for address, policy in recipients:
            recipient = makeRecipient(address).routed(Route(policy, "box"))
            asked.append((recipient, judge.cohort(recipient, Defer())))
        found = judge.judge(makeMessage(body), makeEnvelope(**envelope), asked)
        self.filter.run()
        return found

    def verdict(self, *answers: bytes, at: str = "E", **settings: Any) -> Any:
        """
        @return: what comes of it where the filter answers so.
        """
        self.clock.advance(IDLE_SECONDS)  # no connection is left
        self.filter.script = {at: list(answers)}
        (found,) = self.ask(stage=self.make(**settings))
        return self.successResultOf(found)


class VerdictTests(MilterCase):
    """
    What a filter's words mean.
    """

    def test_steps(self) -> None:
        """It is told all steps, and macros where filters expect them."""
        self.assertIsInstance(self.verdict(b"a"), Accept)
        (session,) = self.filter.sessions
        self.assertEqual(session.letters, "ODCHDMDRDTLLDNBDEA")
        connect, sender = session.heard[2], session.heard[5]
        self.assertEqual(connect[:1] + connect[connect.index(b"\0") + 1 :][:1], b"C4")
        self.assertTrue(sender.startswith(b"M<"))
        self.assertEqual(session.heard[10:12], [b"LSubject\0x\0", b"LX\0001\n\t2\0"])
        self.assertEqual(session.heard[14], b"Btext\r\n")

    def test_kinds(self) -> None:
        """Refusals, in the filter's words or in the configuration's."""
        for answer, wanted in (
            (b"r", "550 5.7.1 not today"),
            (b"t", "451 4.7.1 try again later"),
            (b"f", "451 4.7.1 try again later"),
            (b"y554 5.7.1 100%% spam\0", "550 5.7.1 100% spam"),
            (b"y451-4.7.0 one\r\n451 4.7.0 two\0", "451 4.7.0 one / two"),
            (b"y450\0", "450 4.0.0"),
        ):
            for at in "CHMTNBE":
                found = self.verdict(answer, at=at, reply="550 5.7.1 not today")
                self.assertIsInstance(found, Refuse)
                self.assertEqual(str(found.reply), wanted)

    def test_discard(self) -> None:
        """It is thrown away; at the session's steps that is no answer."""
        for at in "MRTLNBE":
            self.assertTrue(self.verdict(b"d", at=at).nowhere)
        for at in "CH":
            self.assertEqual(self.verdict(b"d", at=at).reply.code, 451)

    def test_edits(self) -> None:
        """In the order in which they are asked for, by index and place."""
        found = self.verdict(
            b"hNew\0one\0",
            b"i" + struct.pack(">L", 0) + b"New\0two\n\tthree\0",
            b"m" + struct.pack(">L", 2) + b"X\0three\0",
            b"m" + struct.pack(">L", 1) + b"X\0\0",
            b"c",
        )
        self.assertEqual(
            found.marks.edits,
            (
                HeaderEdit("insert", "New", "one", AT_END),
                HeaderEdit("insert", "New", "two\n\tthree", 0),
                HeaderEdit("change", "X", "three", 2),
                HeaderEdit("change", "X", "", 1),
            ),
        )

    def test_quarantine(self) -> None:
        """Where it may, the copy is filed; otherwise the filter is wrong."""
        self.filter.negotiated = negotiate(actions=0x31)
        may = ("headers", "quarantine")
        found = self.verdict(b"qodd\0", b"c", may=may)
        self.assertTrue(found.isQuarantined)
        self.assertIn("odd", found.why)
        self.assertIsInstance(self.verdict(b"qodd\0", b"r", may=may), Refuse)
        self.filter.negotiated = negotiate(actions=0x11)
        self.assertEqual(self.verdict(b"qodd\0", b"c").reply.code, 451)

    def test_insists(self) -> None:
        """One that wants more is an error that names it, whether it does it or hangs up."""
        all_ = (0x1FF).to_bytes(4, "big")
        for script, what in (
            ({"E": [b"bnew", b"c"]}, "the body"),
            ({"E": [b"-<a@x.example>\0", b"c"]}, "the recipients"),
            (
                {"O": lambda said: negotiate(actions=0x1F) if all_ in said[5:9] else b""},
                "the body, the recipients",
            ),
        ):
            self.clock.advance(IDLE_SECONDS)
            self.filter.script = script
            with capturedLogs() as events:
                (found,) = self.ask(stage=self.make(on_error="skip"))
                self.assertEqual(self.successResultOf(found), ACCEPT)
            (event,) = (one for one in events if one.get("event") == "unscanned")
            self.assertTrue(event["error"].endswith(f"more than it may: {what}"), event["error"])

    def test_rcpt(self) -> None:
        """What is refused at RCPT is that recipient's alone."""

        def answer(message: bytes) -> bytes:
            return b"y550 5.1.1 not her\0" if b"<b@" in message else b"c"

        self.filter.script = {"R": answer}
        stage = self.make()
        found = [
            self.successResultOf(one) for one in self.ask("a@x.example", "b@x.example", stage=stage)
        ]
        self.assertEqual(found[0], ACCEPT)
        self.assertEqual(str(found[1].reply), "550 5.1.1 not her")
        self.filter.script = {"R": b"r"}
        found = [
            self.successResultOf(one) for one in self.ask("a@x.example", "b@x.example", stage=stage)
        ]
        self.assertEqual([one.reply.code for one in found], [550, 550])
        self.filter.script = {"R": answer, "E": b"d"}
        found = [
            self.successResultOf(one) for one in self.ask("a@x.example", "b@x.example", stage=stage)
        ]
        self.assertEqual(found[0], Accept(nowhere=True))
        self.assertEqual(found[1].reply.code, 550)
        for answer, end, codes in (
            (lambda message: b"t" if b"<b@" in message else b"c", b"r", [550, 451]),
            (lambda message: b"r" if b"<b@" in message else b"c", b"t", [451, 550]),
            (lambda message: b"t" if b"<b@" in message else b"r", b"c", [550, 451]),
        ):
            self.filter.script = {"R": answer, "E": end}
            found = [
                self.successResultOf(one)
                for one in self.ask("a@x.example", "b@x.example", stage=stage)
            ]
            self.assertEqual([one.reply.code for one in found], codes)


class CohortTests(MilterCase):
    """
    Who is told of whom, and how often.
    """

    @property
    def conversations(self) -> list[list[bytes]]:
        """
        The recipients of each conversation.
        """
        found = []
        for session in self.filter.sessions:
            for message in session.heard:
                if message[:1] == b"M":
                    found.append([])
                if message[:1] == b"R":
                    found[-1].append(message[1:].partition(b"\0")[0])
        return found

    @requirement("S-3")
    def test_cohorts(self) -> None:
        """
        One for each cohort: a thousand recipients with three settings cost three
        conversations, over which nothing of others is told.
        """
        stages = {name: [self.make(reply=f"550 5.7.1 {name}")] for name in "pqr"}
        people = [(f"r{number}@x.example", "pqr"[number % 3]) for number in range(1000)]
        self.filter.script = {"E": b"r"}
        found = [self.successResultOf(one) for one in self.judge(stages, *people)]
        self.assertEqual([str(one.reply) for one in found[:3]], [f"550 5.7.1 {n}" for n in "pqr"])
        self.assertEqual(sorted(map(len, self.conversations)), [333, 333, 334])
        self.assertEqual(len(set().union(*map(set, self.conversations))), 1000)

    def test_message(self) -> None:
        """Or one for the message, which all share, and which is told of all."""
        stages = {name: [self.make(reply=f"550 5.7.1 {name}", per="message")] for name in "pq"}
        people = [("a@x.example", "p"), ("b@x.example", "q"), ("c@x.example", "p")]
        self.filter.script = {"E": b"r"}
        found = [self.successResultOf(one) for one in self.judge(stages, *people)]
        texts = [one.reply.text for one in found]
        self.assertEqual(texts, ["p", "q", "p"])
        (asked,) = self.conversations
        self.assertEqual(sorted(asked), [b"<a@x.example>", b"<b@x.example>", b"<c@x.example>"])

    def test_twice(self) -> None:
        """A filter that stands twice in a chain is told of each recipient once."""
        stages = [self.make(per="message"), self.make(per="message", macros={"x": "y"})]
        (found,) = self.judge({"p": stages}, ("a@x.example", "p"))
        self.assertEqual(self.successResultOf(found), ACCEPT)
        self.assertEqual(self.conversations, [[b"<a@x.example>"]] * 2)

    def test_all(self) -> None:
        """Each cohort's own may be told of all that have the filter."""
        stages = {name: [self.make(reply=f"550 5.7.1 {name}", recipients="all")] for name in "pq"}
        self.judge(stages, ("a@x.example", "p"), ("b@x.example", "q"))
        self.assertEqual(list(map(len, self.conversations)), [2, 2])

    def test_own(self) -> None:
        """A recipient's own words, of its row in a table, make a cohort of its own."""
        self.filter.script = {"E": b"r"}
        judge = ContentJudge({"p": [self.make()]}, 10)
        asked = []
        for own in ((), (("milter.reply", "550 5.7.1 mine"),)):
            recipient = makeRecipient("a@x.example").routed(Route("p", "box", own))
            asked.append((recipient, judge.cohort(recipient, Defer())))
        found = judge.judge(makeMessage(BODY), makeEnvelope(), asked)
        self.filter.run()
        texts = [self.successResultOf(one).reply.text for one in found]
        self.assertEqual(texts, ["refused", "mine"])

    def test_chain(self) -> None:
        """The second filter sees what the first one has changed, and counts in that."""
        other = ScriptedFilter(self.clock)
        self.services._endpoints["tcp:other.test:1"] = other
        second = MilterStage(MilterSettings(socket="tcp:other.test:1"), self.services)
        self.filter.script = {"E": [b"i\0\0\0\0New\0one\0", b"c"]}
        other.script = {"E": [b"m\0\0\0\1New\0two\0", b"c"]}
        judge = ContentJudge({"p": [self.make(), second]}, 10)
        recipient = makeRecipient("a@x.example").routed(Route("p", "box"))
        cohort = judge.cohort(recipient, Defer())
        message = makeMessage(BODY)
        (found,) = judge.judge(message, makeEnvelope(), [(recipient, cohort)])
        self.filter.run()
        other.run()
        self.assertIn(b"LNew\0one\0", other.sessions[0].heard)
        marks = self.successResultOf(found).marks
        head = Head(message.header).marked(marks)
        self.assertEqual(head, b"New: two\r\nSubject: x\r\nX: 1\r\n\t2")

    def test_session(self) -> None:
        """The next message of a session goes over its connection; another one's does not."""
        stage = self.make()
        client = Client("192.0.2.1", 1, "c")
        for one in (client, client, Client("192.0.2.1", 2, "c")):
            (found,) = self.ask(stage=stage, client=one)
            self.successResultOf(found)
        first, second = self.filter.letters
        self.assertEqual(first.count("C"), 1)
        self.assertEqual(first.count("A"), 2)
        self.assertEqual(second.count("C"), 1)

    def test_tooLarge(self) -> None:
        """What is too large is not sent."""
        (found,) = self.ask(stage=self.make(max_size=10))
        (field,) = self.successResultOf(found).marks.headers
        self.assertEqual(field, ("Deferrals-Unscanned", "milter (too large)"))
        (found,) = self.ask(stage=self.make(max_size=10, too_large="refuse"))
        self.assertEqual(self.successResultOf(found).reply.code, 552)
        body = b"X: " + b"y\r\n\t" * 30_000 + BODY
        (found,) = self.ask(stage=self.make(too_large="refuse"), body=body)
        self.assertEqual(self.successResultOf(found).reply.code, 552)
        self.assertEqual(self.filter.sessions, [])


class ErrorTests(MilterCase):
    """
    Filters that do not do what they should.
    """

    def test_onError(self) -> None:
        """451; or taken, with a field that says so; or as if it were not there."""
        self.filter.isDead = True
        (found,) = self.ask()
        self.assertEqual(self.successResultOf(found).reply.code, 451)
        (found,) = self.ask(stage=self.make(on_error="accept"))
        (field,) = self.successResultOf(found).marks.headers
        self.assertEqual(field, ("Deferrals-Unscanned", "milter"))
        (found,) = self.ask(stage=self.make(on_error="skip"))
        self.assertEqual(self.successResultOf(found), ACCEPT)

    def test_wrong(self) -> None:
        """Out of order, nonsense, too much, nothing more: never an acceptance."""
        for at in "OCMRLNBE":
            for wrong in (
                [b""],
                [b"s"],
                [b"O" + b"\0" * 12],
                [b"raw:\xff\xff\xff\xff"],
                [b"y250 ok\0"],
                [b"c"] * 50,
                [b"p"] * 1001,
            ):
                if at == "O" and len(wrong) == 50:
                    continue
                found = self.verdict(*wrong, at=at)
                self.assertIsInstance(found, Refuse)
                self.assertEqual(found.reply.code, 451)
                self.setUp()

    @given(st.data())
    @settings(max_examples=60, deadline=None)
    def test_anything(self, data: st.DataObject) -> None:
        """
        Whatever a filter says to each step, in whatever pieces, or does not say: there is a
        verdict in the end, and it is no acceptance unless the filter has said one.
        """
        self.setUp()
        said: list[bytes] = []

        def answer(message: bytes) -> list[bytes]:
            found = data.draw(st.lists(st.sampled_from(WORDS), max_size=3))
            said.extend(found)
            return found

        wild = data.draw(st.sets(st.sampled_from("OCHMRTLNBE"), min_size=1))
        self.filter.script = dict.fromkeys(wild, answer)
        (found,) = self.ask(stage=self.make(timeout=5.0, may=("headers", "quarantine")))
        for _ in range(12):
            self.clock.advance(5)
            self.filter.run()
        verdict = self.successResultOf(found)
        if isinstance(verdict, Accept):
            isLate = "E" not in wild and not (b"a" in said or b"d" in said)
            self.assertTrue(isLate or said[-1:] in ([b"a"], [b"c"], [b"d"]), said)
            self.assertTrue(verdict.nowhere <= (b"d" in said))
        self.assertEqual(self.services.status.counted("scans", "milter"), 1)

    def test_silent(self) -> None:
        """One that does not answer has its time; one that says it works has more, not ever."""
        self.filter.script = {"E": []}
        (found,) = self.ask(stage=self.make(timeout=15.0))
        self.assertNoResult(found)
        self.clock.advance(15)
        self.assertEqual(self.successResultOf(found).reply.code, 451)
        self.filter.script = {"E": [b"p"]}
        (found,) = self.ask(stage=self.make(timeout=15.0))
        for _ in range(11):
            self.clock.advance(10)
            self.assertNoResult(found)
            self.filter.sessions[-1].say(b"p")
        self.clock.advance(10)
        self.assertEqual(self.successResultOf(found).reply.code, 451)

    def test_cancelled(self) -> None:
        """One that is not waited for is left."""
        self.filter.script = {"E": []}
        (found,) = self.ask()
        found.cancel()
        self.assertTrue(self.filter.sessions[0].transport.isLost)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(found)

    def test_breaker(self) -> None:
        """After some failures it is left alone, and the status says so."""
        self.filter.isDead = True
        stage = self.make()
        for _ in range(5):
            (found,) = self.ask(stage=stage)
            self.successResultOf(found)
            self.clock.advance(6)
        self.filter.isDead = False
        (found,) = self.ask(stage=stage)
        self.assertEqual(self.successResultOf(found).reply.code, 451)
        self.assertEqual(self.filter.sessions, [])

    def test_closedWhileIdle(self) -> None:
        """A connection that was closed meanwhile costs nothing."""
        stage = self.make()
        for _ in range(2):
            (found,) = self.ask(stage=stage)
            self.assertEqual(self.successResultOf(found), ACCEPT)
            self.filter.sessions[-1].say(b"")
        self.assertEqual(len(self.filter.sessions), 2)
        self.filter.run()
        self.filter.script = {"M": lambda _: b"" if len(self.filter.sessions) == 3 else b"c"}
        (found,) = self.ask(stage=stage)
        self.assertEqual(self.successResultOf(found).reply.code, 451)

    def test_settings(self) -> None:
        """What cannot be is said where it is read."""
        for bad, key in (
            ({"may": ("header",)}, "may"),
            ({"reply": "250 ok"}, "reply"),
            ({"timeout": 0.0}, "timeout"),
            ({"macros": {"a": "b\0"}}, "macros"),
        ):
            error = self.assertRaises(BadSetting, MilterSettings, socket="x", **bad)
            self.assertEqual(error.key, key)
        error = self.assertRaises(BadSetting, MilterSettings, socket="x", may=("header",))
        self.assertEqual(str(error), 'headers or quarantine, not "header"')

    def test_missing(self) -> None:
        """Without the extra it is said which one."""
        self.patch(stage_module.importlib.util, "find_spec", lambda name: None)
        for kind in (MilterSettings, MilterCheckSettings):
            error = self.assertRaises(BadSetting, kind, socket="x")
            self.assertEqual((error.key, "deferrals[milter]" in str(error)), ("use", True))


class CheckTests(MilterCase):
    """
    L{MilterCheck}.
    """

    def check(self, *answers: bytes, at: str = "R", **settings: Any) -> Any:
        self.clock.advance(IDLE_SECONDS)
        self.filter.script = {at: list(answers)} if answers else {}
        stage = MilterCheck(MilterCheckSettings(socket=SOCKET, **settings), self.services)
        found = stage.judgeRecipient(makeEnvelope(), makeRecipient("a@x.example"))
        self.filter.run()
        return self.successResultOf(found)

    def test_verdicts(self) -> None:
        """No opinion, a refusal, or thrown away; never a message."""
        for at in "CHMR":
            self.assertIsNone(self.check(b"a", at=at))
            self.assertEqual(str(self.check(b"r", at=at).reply), "550 5.7.1 refused")
            self.assertEqual(self.check(b"t", at=at).reply.code, 451)
            self.assertEqual(self.check(b"y550 5.1.1 who\0", at=at).reply.text, "who")
        self.assertTrue(self.check(b"d").nowhere)
        self.assertIsNone(self.check())
        self.assertEqual(self.filter.letters[-1], "ODCHDMDRA")

    def test_again(self) -> None:
        """The next recipient goes over the same connection."""
        stage = MilterCheck(MilterCheckSettings(socket=SOCKET), self.services)
        envelope = makeEnvelope()
        for name in "abc":
            found = stage.judgeRecipient(envelope, makeRecipient(f"{name}@x.example"))
            self.filter.run()
            self.assertIsNone(self.successResultOf(found))
        self.assertEqual(self.filter.letters, ["ODCHDMDRADMDRADMDRA"])

    def test_onError(self) -> None:
        """451, or no opinion."""
        self.assertEqual(self.check(b"").reply.code, 451)
        for onError in ("skip", "accept"):
            self.assertIsNone(self.check(b"", on_error=onError))


class ContentContractTests(ContentStageContract, MilterCase):
    """
    The contract of content stages.
    """

    def makeStage(self) -> IContentStage:
        return self.make()

    def resultOf(self, deferred: Any) -> Any:
        self.filter.run()
        return super().resultOf(deferred)


class EnvelopeContractTests(EnvelopeStageContract, MilterCase):
    """
    The contract of envelope stages.
    """

    def makeStage(self) -> IEnvelopeStage:
        return MilterCheck(MilterCheckSettings(socket=SOCKET), self.services)

    def resultOf(self, deferred: Any) -> Any:
        self.filter.run()
        return super().resultOf(deferred)
