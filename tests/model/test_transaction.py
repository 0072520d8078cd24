"""
A transaction before its data.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.alias import Alias, Member
from deferrals.model.envelope import Form
from deferrals.model.mixed import Plan, Rules
from deferrals.model.reply import Reply
from deferrals.model.transaction import Phase, Transaction, outOfSequence
from deferrals.model.verdict import Accept, Defer, Refuse
from deferrals.testing import makeEnvelope, makeRecipient
from tests.requirements import requirement


class SequenceTests(SynchronousTestCase):
    """
    L{outOfSequence}.
    """

    def test_table(self) -> None:
        """Which command may come when; all others always may."""
        for verb, phases in (
            ("MAIL", "READY"),
            ("RCPT", "SENDER RECIPIENTS"),
            ("DATA", "RECIPIENTS"),
            ("NOOP", " ".join(phase.name for phase in Phase)),
            ("QUIT", " ".join(phase.name for phase in Phase)),
        ):
            for phase in (Phase.START, Phase.READY, Phase.SENDER, Phase.RECIPIENTS):
                reply = outOfSequence(verb, phase)
                self.assertEqual(reply is None, phase.name in phases.split(), (verb, phase))
                self.assertTrue(reply is None or reply.code == 503)


class AdmitTests(SynchronousTestCase):
    """
    L{Transaction.admit}.
    """

    def transaction(
        self, form: Form = Form.PLAIN, plan: Plan | None = None, most: int = 100
    ) -> Transaction:
        transaction = Transaction(makeEnvelope(), form, most, 0.0)
        transaction.plan = plan
        return transaction

    def admit(self, transaction: Transaction, name: str, verdict: Any, key: str = "") -> int:
        recipient = makeRecipient(f"{name}@example.net")
        return transaction.admit(recipient, verdict, key).code

    @requirement("D-4")
    @requirement("D-5")
    @requirement("P-3")
    def test_forms(self) -> None:
        """Under DEFERRALS, and only there, a deferred recipient is answered 352."""
        for form in Form:
            transaction = self.transaction(form)
            deferred = 352 if form is Form.DEFERRALS else 250
            self.assertEqual(self.admit(transaction, "a", Defer()), deferred, form)
            self.assertEqual(self.admit(transaction, "b", Accept()), 250, form)
            refusal = Refuse(Reply(550, "5.1.1", "no"))
            self.assertEqual(self.admit(transaction, "c", refusal), 550, form)
            found = [(one.reply.code, one.deferred) for one in transaction.candidates]
            self.assertEqual(found, [(deferred, True), (250, False)])

    @requirement("D-12")
    @requirement("P-8")
    def test_code(self) -> None:
        """A code that is none for RCPT TO becomes one, with the address in front."""
        transaction = self.transaction()
        reply = transaction.admit(
            makeRecipient("a@example.net"), Refuse(Reply(554, "5.7.1", "no")), ""
        )
        reference = transaction.envelope.reference
        self.assertEqual(reply, Reply(550, "5.7.1", f"<a@example.net> no ({reference})"))

    def test_full(self) -> None:
        """More than there may be are 452, whatever is said of them."""
        transaction = self.transaction(most=1)
        self.assertFalse(transaction.isFull)
        self.admit(transaction, "a", Accept())
        self.assertTrue(transaction.isFull)
        self.assertEqual(self.admit(transaction, "b", Accept()), 452)
        self.assertEqual(self.admit(transaction, "c", Refuse(Reply(550, "5.1.1", "no"))), 452)

    def test_split(self) -> None:
        """Where a plain sender's transaction is split, one cohort is in; the others come again."""
        transaction = self.transaction(plan=Plan(Rules(split=True)))
        found = [self.admit(transaction, n, Defer(), key) for n, key in ("a1", "b2", "c1", "d2")]
        self.assertEqual(found, [250, 452, 250, 452])
        self.assertEqual(transaction.sentAway, ["b@example.net", "d@example.net"])

    def test_piece(self) -> None:
        """Of recipients that come in one piece, the largest cohort is in."""
        transaction = self.transaction(plan=Plan(Rules(split=True)))
        self.assertTrue(transaction.isUnled)
        named = [(makeRecipient(f"{name}@example.net"), key) for name, key in ("a1", "b2", "c2")]
        transaction.lead(named)
        self.assertFalse(transaction.isUnled)
        found = [self.admit(transaction, n, Defer(), key) for n, key in ("a1", "b2", "c2")]
        self.assertEqual(found, [452, 250, 250])
        self.assertEqual(list(transaction.letIn), ["b@example.net", "c@example.net"])

    def test_nothingRemembered(self) -> None:
        """Without a record all are in, whatever their cohorts."""
        for plan in (None, Plan(Rules())):
            transaction = self.transaction(plan=plan)
            for name, key in ("a1", "b2"):
                self.assertEqual(self.admit(transaction, name, Defer(), key), 250)

    def test_takesRefusalForAll(self) -> None:
        """Who brings at once those that were sent away takes a refusal for all (Exim)."""
        for before, wanted in (["a@example.net"], True), (["z@example.net"], False):
            transaction = self.transaction(plan=Plan(Rules()))
            transaction.sentAwayBefore = before
            self.admit(transaction, "a", Defer())
            assert transaction.plan is not None
            self.assertEqual(transaction.plan.forAll, wanted)

    def test_cohortName(self) -> None:
        """Members of a cohort have a number in common."""
        transaction = self.transaction()
        for name, key in ("a1", "b2", "c1"):
            self.admit(transaction, name, Defer(), key)
        names = [transaction.cohortName(index) for index in range(3)]
        self.assertEqual(names[0], names[2])
        self.assertNotEqual(names[0], names[1])

    def test_cohortOfAlias(self) -> None:
        """An alias has no policy of its own: it is called what it is."""
        transaction, recipient = self.transaction(), makeRecipient("all@example.net")
        members = [Member(makeRecipient("a@example.net"), Defer(), "a")]
        transaction.admit(recipient, Defer(), frozenset("a"), Alias(members))
        self.assertEqual(transaction.cohortName(0), "alias/1")
