"""
What can be chosen on a listener, and procedures beside it for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import attrs

from deferrals.model.mixed import Mixed, Rules, groupOf
from deferrals.model.mixedrecord import LIFETIME_SECONDS
from tests.mixed import procedures
from tests.mixed.world import Answer, Message, Procedure, Transaction


class Strictest:
    """
    All are let in; one refusal refuses all.
    """

    #: What is said where they differ, and none refuses for now.
    code = 550

    def begin(self, transaction: Transaction) -> None:
        """MAIL."""

    def admit(
        self, transaction: Transaction, piece: Sequence[tuple[str, Hashable]]
    ) -> Sequence[bool]:
        """RCPT."""
        return [True] * len(piece)

    def conclude(
        self, transaction: Transaction, message: Message, verdicts: Mapping[str, str]
    ) -> Answer:
        """The data."""
        kinds = set(verdicts.values())
        if kinds == {"A"}:
            return Answer(250, list(verdicts))
        return Answer(550 if kinds == {"R"} else 451 if "T" in kinds else self.code)

    def gaveUp(self, transaction: Transaction, how: str) -> None:
        """No data."""


class Later(Strictest):
    """
    All are let in, and refused for now whenever they differ.
    """

    code = 451


@attrs.define
class Turns:
    """
    A message whose recipients come in turn.

    @ivar waited: of those that have no answer yet: how often sent away since they
        were last let in.
    @ivar done: those that have one.
    @ivar asked: who was let in since one of them was answered last.
    @ivar isOneThing: whether its sender makes one thing of it: 2 or more is proof.
    """

    waited: dict[str, int]
    ident: str
    expires: float
    done: set[str] = attrs.field(factory=set)
    asked: set[str] = attrs.field(factory=set)
    isOneThing: int = 0


@attrs.define
class Led:
    """
    One transaction.
    """

    turns: Turns | None
    cohort: Hashable = None


@attrs.define
class Rotate:
    """
    The simplest that moves: a 451, then the cohorts in turn; no verdict is
    remembered.  Who has waited longest leads.
    """

    found: dict[str, list[Turns]] = attrs.field(factory=dict)

    def begin(self, transaction: Transaction) -> None:
        """MAIL."""

    def _group(self, transaction: Transaction) -> list[Turns]:
        client = transaction.client
        group = groupOf(transaction.path, client.address, client.user, client.spf)
        all_ = self.found.setdefault(group.key, [])
        all_[:] = [turns for turns in all_ if turns.waited and turns.expires > transaction.now]
        return all_

    def admit(
        self, transaction: Transaction, piece: Sequence[tuple[str, Hashable]]
    ) -> Sequence[bool]:
        """RCPT."""
        if transaction.memory is None:
            keys = {key for key, _ in piece}
            fitting = [
                turns
                for turns in self._group(transaction)
                if keys <= turns.waited.keys() | turns.done
            ]
            transaction.memory = Led(fitting[0] if fitting else None)
        led = transaction.memory
        assert isinstance(led, Led)
        return [self._letsIn(led, key, piece) for key, _ in piece]

    def _letsIn(self, led: Led, key: str, piece: Sequence[tuple[str, Hashable]]) -> bool:
        turns = led.turns
        if turns is None or turns.isOneThing > 1 or key not in turns.waited:
            return True
        if turns.asked >= turns.waited.keys():  # nothing comes of turns: all at once
            return True
        cohorts = dict(piece)
        if led.cohort is None:
            most = max(turns.waited.values())
            leads = [one for one in cohorts if turns.waited.get(one) == most]
            led.cohort = cohorts[leads[0]] if leads else None
        return led.cohort is not None and cohorts[key] == led.cohort

    def conclude(
        self, transaction: Transaction, message: Message, verdicts: Mapping[str, str]
    ) -> Answer:
        """The data."""
        led = transaction.memory
        turns = led.turns if isinstance(led, Led) else None
        has = turns.done if turns and message.ident and turns.ident == message.ident else set()
        asked = {key: verdict for key, verdict in verdicts.items() if key not in has}
        answer = self._answer(transaction, turns, asked)
        if turns is None and answer.code == 451 and len(set(verdicts.values())) > 1:
            turns = Turns(dict.fromkeys(verdicts, 0), message.ident, 0.0)
            self._group(transaction).append(turns)
        elif turns is not None:
            self._turn(turns, transaction, asked, answer.code != 451)
        if turns is not None:
            turns.expires, turns.ident = transaction.now + LIFETIME_SECONDS, message.ident
        return answer

    def _answer(
        self, transaction: Transaction, turns: Turns | None, verdicts: Mapping[str, str]
    ) -> Answer:
        kinds = set(verdicts.values())
        if kinds <= {"A"}:
            return Answer(250, list(verdicts))
        isOneThing = turns is not None and turns.isOneThing > 1 and "T" not in kinds
        forAll = transaction.exim or transaction.received
        mayRefuse = kinds == {"R"} and not (transaction.away and forAll)
        return Answer(550 if isOneThing or mayRefuse else 451)

    def _turn(
        self, turns: Turns, transaction: Transaction, asked: Mapping[str, str], isOver: bool
    ) -> None:
        for key in transaction.away:
            turns.waited[key] += 1
        for key in asked:
            turns.waited[key] = 0
            turns.asked.add(key)
        if isOver:
            turns.asked.clear()
            turns.done.update(asked)
            for key in asked:
                turns.waited.pop(key, None)

    def gaveUp(self, transaction: Transaction, how: str) -> None:
        """No data."""
        led = transaction.memory
        turns = led.turns if isinstance(led, Led) else None
        if turns is None or not transaction.away:
            return
        turns.expires = transaction.now + LIFETIME_SECONDS
        if transaction.isIn:
            turns.isOneThing += 1 if how == "close" else 2
        for key in turns.waited:
            turns.waited[key] = turns.waited[key] + 1 if key in transaction.away else -1


@attrs.frozen
class Choice:
    """
    One row of the table.

    @ivar settings: the listener's, where it is one of the product.
    @ivar other: the procedure, where it is none.
    @ivar tells: whether who refuses what was accepted is told by a DSN, where the
        sender is proved.
    """

    name: str
    settings: tuple[Mixed, Mixed] | None = None
    other: Callable[[], Procedure] = Strictest

    @property
    def isExact(self) -> bool:
        """Whether it is the product's procedure, whose answers are all exact."""
        return self.settings is not None and self.settings[0] is not Mixed.STRICTEST

    @property
    def tells(self) -> bool:
        """Whether refusers are told by DSN."""
        return self.settings is not None and Mixed.NOTIFY in self.settings

    def procedure(self) -> Procedure:
        """A new one."""
        rules = None if self.settings is None else Rules.of(*self.settings, 2)
        return self.other() if rules is None else procedures.Procedure(rules)


CHOICES = [
    Choice("`split`", (Mixed.SPLIT, Mixed.SPLIT)),
    Choice("**`retry`** (default)", (Mixed.RETRY, Mixed.SPLIT)),
    Choice("`retry`, fallback `file`", (Mixed.RETRY, Mixed.FILE)),
    Choice("`retry`, fallback `notify`", (Mixed.RETRY, Mixed.NOTIFY)),
    Choice("`notify`", (Mixed.NOTIFY, Mixed.SPLIT)),
    Choice("`file`", (Mixed.FILE, Mixed.SPLIT)),
    Choice("`strictest`", (Mixed.STRICTEST, Mixed.SPLIT)),
    Choice("451 whenever they differ", other=Later),
    Choice("rotate", other=Rotate),
]
