"""
The parts of the procedure for mixed mail.  Its promises are in
C{tests/mixed/test_properties.py}.
"""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.mixed import (
    ADDRESSES,
    MEMBERS,
    RECORDS,
    End,
    Mixed,
    MixedReply,
    Plan,
    Rules,
    conclude,
    gaveUp,
    learn,
    led,
    letsIn,
)
from deferrals.model.mixedgroup import groupOf
from deferrals.model.mixedrecord import Fingerprint, Record, State

MESSAGE = Fingerprint("ident", "digest")
NETWORK = groupOf("a@b.example", "192.0.2.1")
ACCEPTS, REFUSES, LATER = State.ACCEPTS, State.REFUSES, State.LATER


class RulesTests(SynchronousTestCase):
    """
    L{Rules.of}.
    """

    def test_of(self) -> None:
        """What each choice means for the procedure."""
        self.assertIsNone(Rules.of(Mixed.STRICTEST, Mixed.SPLIT, 2))
        self.assertEqual(Rules.of(Mixed.RETRY, Mixed.SPLIT, 2), Rules(False, 2, False))
        self.assertEqual(Rules.of(Mixed.RETRY, Mixed.FILE, 3), Rules(False, 3, True))
        self.assertEqual(Rules.of(Mixed.SPLIT, Mixed.SPLIT, 2), Rules(True, 2, False))
        for choice in (Mixed.FILE, Mixed.NOTIFY):
            rules = Rules.of(choice, Mixed.SPLIT, 2)
            assert rules is not None
            self.assertEqual((rules.diverts, rules.together), (True, True))


class AdmitTests(SynchronousTestCase):
    """
    L{led} and L{letsIn}.
    """

    def plan(self, record: Record | None = None, **more: object) -> Plan:
        given = record or Record({"a": ACCEPTS, "r": REFUSES, "t": LATER}, digest="digest")
        record = attrs.evolve(given, addresses=("192.0.2.1",))
        return attrs.evolve(Plan(Rules(), NETWORK, {"one": record}), **more)

    def letIn(self, plan: Plan, *keys: str, piece: bool = True) -> str:
        """Who is let in, of these."""
        found = ""
        if piece:
            plan = led(plan, [(key, key) for key in keys])
        for key in keys:
            plan = led(plan, [(key, key)])
            found += key if letsIn(plan, key, key) else ""
        return found

    def test_turns(self) -> None:
        """Who accepts, then who refuses, then who refuses for now."""
        for keys, wanted in (("tra", "a"), ("tr", "r"), ("t", "t")):
            states = {"a": ACCEPTS, "r": REFUSES, "t": LATER}
            over = {"a": State.SERVED, "r": State.TOLD}
            record = Record({k: v if k in keys else over[k] for k, v in states.items()}, later=1)
            record = attrs.evolve(record, gaveUp=1)  # or it would not matter who comes
            self.assertEqual(self.letIn(self.plan(record), *keys), wanted)

    def test_answered(self) -> None:
        """Who has its answer is let in beside any other."""
        record = Record({"a": ACCEPTS, "r": REFUSES, "s": State.SERVED, "x": State.TOLD})
        self.assertEqual(self.letIn(self.plan(record), *"rsax"), "sax")

    def test_oneByOne(self) -> None:
        """The first gives way to those that are still to be named; not in vain for ever."""
        plan = self.plan()
        self.assertEqual(self.letIn(plan, "t", "a", piece=False), "a")
        waited = Record({"a": ACCEPTS, "t": LATER}, {"t": 1})
        self.assertEqual(self.letIn(self.plan(waited), "t", piece=False), "t")

    def test_notKnown(self) -> None:
        """Another size, another client, another recipient: it is another message."""
        for plan in (
            self.plan(Record({"a": ACCEPTS, "r": REFUSES}, size=100), size=5000),
            self.plan(group=groupOf("a@b.example", "192.0.2.9")),
        ):
            self.assertEqual(self.letIn(plan, "r", "a"), "ra")
        self.assertEqual(self.letIn(self.plan(), "r", "a", "new"), "ranew")

    def test_addresses(self) -> None:
        """From three addresses on a record is its network's."""
        many = tuple(f"192.0.2.{n}" for n in range(1, 1 + ADDRESSES))
        record = Record({"a": ACCEPTS, "r": REFUSES}, addresses=many)
        plan = Plan(Rules(), groupOf("a@b.example", "192.0.2.99"), {"one": record})
        self.assertEqual(self.letIn(plan, "r", "a"), "a")

    def test_wrong(self) -> None:
        """What has been mistaken for other messages too often is not used."""
        for later, wrong, isIn in ((0, 1, "ra"), (1, 1, "ra"), (2, 1, "a"), (2, 2, "ra")):
            record = Record({"a": ACCEPTS, "r": REFUSES}, later=later, wrong=wrong)
            self.assertEqual(self.letIn(self.plan(record), "r", "a"), isIn)

    def test_lot(self) -> None:
        """Of several that fit, each is found in the end."""
        one, two = Record({"a": ACCEPTS, "r": REFUSES}), Record({"a": REFUSES, "r": ACCEPTS})
        plans = [Plan(Rules(), groupOf("p", "", "me"), {"1": one, "2": two}, lot=n) for n in (0, 1)]
        self.assertEqual([self.letIn(plan, "a", "r") for plan in plans], ["a", "r"])


class ConcludeTests(SynchronousTestCase):
    """
    L{conclude}, L{learn} and L{gaveUp}.
    """

    plan = Plan(Rules(), NETWORK)

    def test_agreement(self) -> None:
        """Nothing is learnt of a message on which all agree."""
        for verdict, reply in (
            (ACCEPTS, MixedReply.TAKEN),
            (REFUSES, MixedReply.REFUSED),
            (LATER, MixedReply.REFUSED),
        ):
            verdicts = {"a": verdict, "b": verdict}
            self.assertIs(conclude(self.plan, MESSAGE, verdicts, []).reply, reply)
            self.assertEqual(learn(self.plan, MESSAGE, verdicts, [], reply, 5.0), {})

    def test_bounds(self) -> None:
        """A record has so many recipients, and a group so many records."""
        verdicts = {f"r{n}": (ACCEPTS, REFUSES)[n % 2] for n in range(MEMBERS + 10)}
        (record,) = learn(self.plan, MESSAGE, verdicts, [], MixedReply.LATER, 5.0).values()
        assert record is not None
        self.assertEqual(len(record.states), MEMBERS)
        plan = self.plan
        for number in range(RECORDS + 5):
            message = Fingerprint(f"{number}", f"{number}")
            changes = learn(
                plan, message, {"a": ACCEPTS, "r": REFUSES}, [], MixedReply.LATER, number
            )
            records = {**plan.records, **changes}
            plan = attrs.evolve(plan, records={k: r for k, r in records.items() if r is not None})
        self.assertEqual(len(plan.records), RECORDS)
        self.assertNotIn("0", [record.ident for record in plan.records.values()])

    def full(self, *seen: float) -> Plan:
        """The plan of a group that has no room for another record."""
        records = {
            f"r{number}": Record({"a": ACCEPTS, "r": REFUSES}, seen=when)
            for number, when in enumerate(seen)
        }
        return attrs.evolve(self.plan, records=records)

    def test_clockPutBack(self) -> None:
        """
        What was seen in the future, since the clock was wrong, makes room; what has
        just come never does.
        """
        verdicts = {"a": ACCEPTS, "r": REFUSES}
        seen = (900.0, *(10.0 + n for n in range(RECORDS - 1)))
        for plan, gone in (
            (self.full(*seen), "r0"),
            (self.full(*([900.0] * RECORDS)), "r0"),
            (self.full(*([1.0] * RECORDS)), "r0"),
        ):
            changes = learn(plan, MESSAGE, verdicts, [], MixedReply.LATER, 100.0)
            self.assertEqual([name for name, one in changes.items() if one is None], [gone])
            self.assertEqual([one.ident for one in changes.values() if one], ["ident"])

    def test_hasIt(self) -> None:
        """
        Who has it is told so apart from those that refuse, once more; then it is
        a client that brings all again, and is told who refuses.
        """
        served = Record({"a": State.SERVED, "r": REFUSES}, ident="ident", digest="digest")
        plan = attrs.evolve(self.plan, records={"1": served})
        for verdict in (REFUSES, LATER):
            verdicts = {"a": ACCEPTS, "r": verdict}
            self.assertIs(conclude(plan, MESSAGE, verdicts, []).reply, MixedReply.LATER)
            found = learn(plan, MESSAGE, verdicts, [], MixedReply.LATER, 5.0)["1"]
            assert found is not None
            self.assertIs(found.states["a"], State.OWED)
        owed = led(attrs.evolve(self.plan, records={"1": found}), [("r", 1), ("a", 2)])
        self.assertEqual([letsIn(owed, key, 0) for key in "ra"], [False, True])
        conclusion = conclude(owed, MESSAGE, {"a": ACCEPTS}, ["r"])
        self.assertEqual((conclusion.reply, conclusion.has), (MixedReply.TAKEN, ["a"]))
        found = learn(owed, MESSAGE, {"a": ACCEPTS}, ["r"], MixedReply.TAKEN, 6.0)["1"]
        assert found is not None
        self.assertIs(found.states["a"], State.SETTLED)
        last = attrs.evolve(self.plan, records={"1": found})
        verdicts = {"a": ACCEPTS, "r": REFUSES}
        self.assertIs(conclude(last, MESSAGE, verdicts, []).reply, MixedReply.REFUSED)

    def test_served(self) -> None:
        """What was not said is not learnt: the same verdicts, another reply."""
        verdicts = {"a": ACCEPTS, "r": REFUSES}
        (record,) = learn(self.plan, MESSAGE, verdicts, [], MixedReply.LATER, 5.0).values()
        assert record is not None
        self.assertEqual(record.states, verdicts)

    def test_gaveUp(self) -> None:
        """Only where one recipient was sent away and another one let in is it a proof."""
        self.assertEqual(gaveUp(self.plan, ["a"], [], End.QUIT, 5.0), {})
        for letIn, end, proof in ((["a"], End.QUIT, 2), (["a"], End.CLOSE, 1), ([], End.QUIT, 0)):
            (record,) = gaveUp(self.plan, letIn, ["r"], end, 5.0).values()
            assert record is not None
            self.assertEqual(record.gaveUp, proof)
