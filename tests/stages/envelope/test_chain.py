"""
Envelope stages that are asked in turn.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.reply import R451_LOCAL_ERROR, Reply
from deferrals.model.verdict import ACCEPT, NOWHERE, Accept, Defer, Expand, Refuse, Route
from deferrals.stages.envelope.chain import Pardons, askInTurn
from deferrals.testing import makeEnvelope, makeRecipient

NO = Refuse(Reply(550, "5.6.0", "no"))


class _Fixed:
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.saw: Any = None

    def judgeRecipient(self, envelope: Any, recipient: Any) -> Any:
        self.saw = recipient.route
        return self.answer


class InTurnTests(SynchronousTestCase):
    """
    L{askInTurn}.
    """

    def ask(self, *answers: Any) -> Any:
        self.stages = [_Fixed(answer) for answer in answers]
        recipient = makeRecipient("a@x.example", "p", "d")
        d = askInTurn(self.stages, makeEnvelope(), recipient, Defer(recipient.route))
        return self.successResultOf(Deferred.fromCoroutine(d))

    def test_noOpinion(self) -> None:
        """Without an opinion, what stood stands."""
        self.assertEqual(self.ask(None, succeed(None)), Defer(Route("p", "d")))

    def test_refusal(self) -> None:
        """A refusal ends it."""
        self.assertEqual(self.ask(None, NO, ACCEPT), NO)

    def test_nowhere(self) -> None:
        """What throws the message away ends it, whatever others have left to the content."""
        found = self.ask(Defer(), NOWHERE, NO)
        self.assertEqual(found, Accept(route=Route("p", "d"), nowhere=True))
        self.assertIsNone(self.stages[2].saw)
        d = askInTurn(
            [_Fixed(NOWHERE)],
            makeEnvelope(),
            makeRecipient("a@x.example"),
            Defer(),
            lambda opinion, verdict, recipient: opinion,
        )
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(d)).nowhere)

    def test_route(self) -> None:
        """A later stage sees what an earlier one said; the last opinion counts."""
        self.assertEqual(self.ask(Defer(Route("q", "e")), ACCEPT), Accept(route=Route("q", "e")))
        self.assertEqual(self.stages[1].saw, Route("q", "e"))

    def test_pardoned(self) -> None:
        """A refusal that is lifted is as if the stage had said nothing."""
        recipient = makeRecipient("a@x.example", "p", "d")
        for lifted, wanted in (
            (True, ACCEPT),
            (succeed(True), ACCEPT),
            (False, NO),
            (succeed(False), NO),
        ):
            asked: list[Refuse] = []

            def lift(*args: Any, lifted: Any = lifted, asked: list[Refuse] = asked) -> Any:
                asked.append(args[2])
                return lifted

            pardons = Pardons(lift, lambda stage: "listed")
            stages = [_Fixed(NO), _Fixed(ACCEPT)]
            d = askInTurn(
                stages, makeEnvelope(), recipient, Defer(recipient.route), pardons=pardons
            )
            said = self.successResultOf(Deferred.fromCoroutine(d))
            self.assertEqual(type(said), type(wanted))
            self.assertEqual([one.stage for one in asked], ["listed"])

    def test_expand(self) -> None:
        """An alias ends it: others are meant."""
        alias = Expand((Mailbox.parse("b@x.example"),))
        self.assertEqual(self.ask(None, alias, NO), alias)

    def test_ownMember(self) -> None:
        """
        Who is a member of its own alias is asked about by the stages behind, under the
        route that the alias has for it.
        """
        recipient = makeRecipient("a@x.example", "p", "d")
        member = attrs.evolve(recipient, aliases=(recipient.address,))
        for route, expected in ((Route("q", "e"), Route("q", "e")), (None, Route("p", "d"))):
            alias = Expand((recipient.address,), route=route)
            stages = [_Fixed(alias), _Fixed(None)]
            opinion = Accept(route=recipient.route)
            d = Deferred.fromCoroutine(askInTurn(stages, makeEnvelope(), member, opinion))
            self.assertEqual(self.successResultOf(d), Accept(route=expected))
            self.assertEqual(stages[1].saw, expected)
        elsewhere = Expand((Mailbox.parse("b@x.example"),))
        d = Deferred.fromCoroutine(askInTurn([_Fixed(elsewhere)], makeEnvelope(), member, opinion))
        self.assertEqual(self.successResultOf(d), elsewhere)
        other = attrs.evolve(recipient, aliases=(Mailbox.parse("all@x.example"),))
        d = Deferred.fromCoroutine(askInTurn([_Fixed(alias)], makeEnvelope(), other, opinion))
        self.assertEqual(self.successResultOf(d), alias)

    def test_nonsense(self) -> None:
        """An answer that is no verdict refuses for now, and the log says whose it is."""
        with capturedLogs() as logged:
            verdict = self.ask("yes")
        self.assertEqual(verdict, Refuse(R451_LOCAL_ERROR))
        text = "".join(map(formatEvent, logged))
        self.assertIn("_Fixed failed for <a@x.example>", text)
        self.assertIn("'yes'", text)

    def test_raises(self) -> None:
        """The log has where a stage has raised, with stage and recipient; the verdict says so."""
        stage = _Fixed(None)
        self.patch(stage, "judgeRecipient", lambda *_: {}["missing"])
        recipient = makeRecipient("a@x.example", "p", "d")
        with capturedLogs() as logged:
            d = askInTurn([stage], makeEnvelope(), recipient, Defer(recipient.route))
            verdict = self.successResultOf(Deferred.fromCoroutine(d))
        (event,) = logged
        self.assertIn("_Fixed failed for <a@x.example>: KeyError", formatEvent(event))
        self.assertIn("lambda", "".join(event["traceback"]))
        self.assertEqual(verdict.why, "_Fixed failed")

    def test_why(self) -> None:
        """A refusal says which stage it was, unless that says more."""
        self.assertEqual(self.ask(NO).why, "_Fixed")
        self.assertEqual(self.ask(Refuse(NO.reply, why="the moon")).why, "the moon")

    def test_cancel(self) -> None:
        """It may be cancelled."""
        recipient = makeRecipient("a@x.example")
        stages = [_Fixed(Deferred())]
        d = Deferred.fromCoroutine(
            askInTurn(stages, makeEnvelope(), recipient, Defer(recipient.route))
        )
        d.cancel()
        self.failureResultOf(d, CancelledError)
