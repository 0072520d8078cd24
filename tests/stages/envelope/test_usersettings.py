"""
What a recipient's row says, through all stages.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import StageError
from deferrals.model.verdict import Accept, Defer, Refuse, Route
from deferrals.stages.envelope import users
from deferrals.stages.envelope.rules import Pattern, Rule, RuleTable
from deferrals.testing import makeEnvelope, makeRecipient
from tests.requirements import requirement

ROUTE = Route("strict", "box")


class SettledTests(SynchronousTestCase):
    """
    What a rule makes of a route that its check gives.
    """

    def judge(self, verdict: Any) -> Any:
        class Check:
            def judgeRecipient(self, envelope: Any, recipient: Any) -> Any:
                return verdict

        policies = {
            "strict": Defer(Route("strict", "")),
            "open": Accept(route=Route("open", "")),
            "gone": Refuse(attrs.evolve(users.R550_UNKNOWN_RECIPIENT, text="gone")),
        }
        rule = Rule(Pattern("*", "example.net"), Defer(ROUTE), [Check()])
        table = RuleTable([rule], "mx", policies, {"store"})
        return table.judgeRecipient(makeEnvelope(), makeRecipient("a@example.net"))

    @requirement("S-1")
    def test_policy(self) -> None:
        """The policy that a check names says what RCPT TO is answered."""
        for verdict, wanted in (
            (None, Defer(ROUTE)),
            (Defer(Route("open", "box")), Accept(route=Route("open", "box"))),
            (Defer(Route("strict", "store")), Defer(Route("strict", "store"))),
            (Accept(), Accept(route=ROUTE)),
        ):
            self.assertEqual(self.successResultOf(self.judge(verdict)), wanted)
        self.assertEqual(
            self.successResultOf(self.judge(Defer(Route("gone", "box")))).reply.text, "gone"
        )

    def test_unknown(self) -> None:
        """A policy or a delivery that is not there is a failure of the stage."""
        for route in (Route("nowhere", "box"), Route("strict", "nowhere")):
            self.failureResultOf(self.judge(Defer(route)), StageError)
