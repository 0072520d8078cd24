"""
The product's procedure, as a L{Procedure} of the model server.  What it remembers
goes through JSON text each time: each transaction is one after a restart.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence

import attrs

from deferrals.model import mixed
from deferrals.model.mixed import MixedReply, Plan, Rules
from deferrals.model.mixedgroup import groupOf
from deferrals.model.mixedrecord import LIFETIME_SECONDS, Fingerprint, Record, State
from tests.mixed.world import Answer, Message, Transaction


@attrs.define
class Notes:
    """
    Text by group and name, with an end; what any store can do.
    """

    groups: dict[str, dict[str, tuple[str, float]]] = attrs.field(factory=dict)

    def find(self, group: str, now: float) -> dict[str, Record]:
        """What has not expired."""
        return {
            name: Record.fromJSON(json.loads(text))
            for name, (text, expires) in self.groups.get(group, {}).items()
            if expires > now
        }

    def put(self, group: str, changes: Mapping[str, Record | None], now: float) -> None:
        """Remember, or forget."""
        kept = self.groups.setdefault(group, {})
        for name, record in changes.items():
            if record is None:
                kept.pop(name, None)
            else:
                kept[name] = (json.dumps(record.toJSON()), now + LIFETIME_SECONDS)


@attrs.define
class Procedure:
    """
    L{deferrals.model.mixed}.
    """

    rules: Rules = Rules()
    notes: Notes = attrs.field(factory=Notes)

    def begin(self, transaction: Transaction) -> None:
        """MAIL."""

    def _plan(self, transaction: Transaction) -> Plan:
        if transaction.memory is None:
            client = transaction.client
            group = groupOf(transaction.path, client.address, client.user, client.spf)
            records = self.notes.find(group.key, transaction.now)
            transaction.memory = Plan(
                self.rules,
                group,
                records,
                transaction.size,
                transaction.exim,
                transaction.lot,
            )
        assert isinstance(transaction.memory, Plan)
        return transaction.memory

    def _group(self, plan: Plan) -> str:
        assert plan.group is not None
        return plan.group.key

    def admit(
        self, transaction: Transaction, piece: Sequence[tuple[str, Hashable]]
    ) -> Sequence[bool]:
        """RCPT."""
        plan = mixed.led(self._plan(transaction), piece)
        transaction.memory = plan
        return [mixed.letsIn(plan, key, cohort) for key, cohort in piece]

    def conclude(
        self, transaction: Transaction, message: Message, verdicts: Mapping[str, str]
    ) -> Answer:
        """The data."""
        plan, now = self._plan(transaction), transaction.now
        plan = attrs.evolve(plan, records=self.notes.find(self._group(plan), now))
        facts = Fingerprint(message.ident, message.digest, transaction.received)
        said = {key: State(verdict) for key, verdict in verdicts.items()}
        conclusion = mixed.conclude(plan, facts, said, transaction.away)
        changes = mixed.learn(plan, facts, said, transaction.away, conclusion.reply, now)
        self.notes.put(self._group(plan), changes, now)
        code = 451
        if conclusion.reply is MixedReply.TAKEN:
            code = 250
        elif conclusion.reply is MixedReply.REFUSED and "T" not in verdicts.values():
            code = 550
        return Answer(code, conclusion.served, conclusion.diverted)

    def gaveUp(self, transaction: Transaction, how: str) -> None:
        """No data."""
        plan, end = self._plan(transaction), mixed.End(how)
        now = transaction.now
        changes = mixed.gaveUp(plan, transaction.isIn, transaction.away, end, now)
        self.notes.put(self._group(plan), changes, now)
