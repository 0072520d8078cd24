"""
From an alias to its members: each is asked about as if RCPT TO had named it, and
may be an alias in its turn.

Every address is asked about once, however many ways lead to it, and an alias that is
its own member once more, as that member: then it is no alias, but a mailbox.  So loops
end, and what comes twice gets one copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr

from deferrals.deferreds import asDeferred
from deferrals.errors import StageError
from deferrals.interfaces import IEnvelopeStage
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.alias import Alias, Member, memberOf
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R451_LOCAL_ERROR
from deferrals.model.verdict import Accept, Defer, EnvelopeAnswer, EnvelopeVerdict, Expand, Refuse

_log = Logger(namespace="deferrals.transaction")

#: An address, and the aliases on the way to it.
_Way = tuple[Mailbox, tuple[Mailbox, ...]]


def settled(verdict: EnvelopeAnswer | None) -> EnvelopeVerdict:
    """
    @param verdict: not an expansion.
    @raise StageError: it is no verdict, whatever its type promises.
    """
    if isinstance(verdict, Refuse):
        return verdict
    if isinstance(verdict, (Accept, Defer)) and verdict.route is not None:
        return verdict
    raise StageError(f"{safe_repr(verdict)[:200]} is no verdict on a recipient")


@attrs.define(eq=False)
class Expansion:
    """
    What comes of one alias.

    @ivar stage: decides about its members.
    @ivar named: the alias, as RCPT TO has named it.
    @ivar first: what is said of it.
    @ivar _asked: what has been asked about: the address, and whether as its own member.
    """

    stage: IEnvelopeStage
    envelope: Envelope
    named: Recipient
    first: Expand
    _asked: set[tuple[str, bool]] = attrs.field(factory=set, init=False)
    _members: list[Member] = attrs.field(factory=list, init=False)

    async def find(self) -> Alias | Refuse:
        """
        @return: the alias with its members in the end; or a refusal for now, where
            there are too many, or too many aliases in each other.
        """
        self._asked.add((self.named.address.key, False))
        level = list(self._new(self.named.address, (), self.first))
        depth = 1
        while level:
            if depth > self.first.nesting:
                return self._tooMuch(f"more than {self.first.nesting} aliases in each other")
            if len(self._asked) - 1 > self.first.most:
                return self._tooMuch(f"more than {self.first.most} members")
            level = await self._judge(level)
            depth += 1
        return Alias(self._members, self.first.refusers, self.first.later)

    def _tooMuch(self, what: str) -> Refuse:
        _log.error(
            "{transaction}: the alias <{alias}> is refused for now: {what}",
            transaction=self.envelope.id,
            alias=str(self.named),
            what=what,
        )
        return Refuse(R451_LOCAL_ERROR, why=f"alias: {what}")

    def _new(self, alias: Mailbox, before: tuple[Mailbox, ...], found: Expand) -> Iterable[_Way]:
        """
        The members of an alias that have not been asked about.

        @param before: the aliases on the way to it.
        """
        for member in found.members:
            way = member.key, member.key == alias.key
            if way not in self._asked:
                self._asked.add(way)
                yield member, (*before, alias)

    async def _judge(self, level: Sequence[_Way]) -> list[_Way]:
        """
        Ask about addresses that are equally far away.

        @return: what those stand for that are aliases.
        """
        recipients = [memberOf(self.named, address, aliases) for address, aliases in level]
        verdicts = await gatherResults([self._ask(one) for one in recipients], consumeErrors=True)
        following: list[_Way] = []
        for recipient, verdict in zip(recipients, verdicts, strict=True):
            if isinstance(verdict, Expand):
                following += self._new(recipient.address, recipient.aliases, verdict)
            else:
                self._members.append(_member(recipient, verdict))
        return following

    def _ask(self, recipient: Recipient) -> Deferred[EnvelopeAnswer]:
        d: Deferred[EnvelopeAnswer | None] = asDeferred(
            self.stage.judgeRecipient, self.envelope, recipient
        )
        found: Deferred[EnvelopeAnswer] = d.addCallback(_checked)
        return found.addErrback(self._failed, recipient)

    def _failed(self, failure: Failure, recipient: Recipient) -> Refuse:
        """
        One member cannot be judged: that is a refusal of its own, for now.
        """
        if failure.check(CancelledError):
            failure.raiseException()
        _log.raised(
            failure,
            "{transaction}: {stage} failed for <{recipient}>: {error}",
            transaction=self.envelope.id,
            stage=type(self.stage).__name__,
            recipient=str(recipient),
        )
        return Refuse(R451_LOCAL_ERROR, why=f"{type(self.stage).__name__} failed")


def _checked(verdict: EnvelopeAnswer | None) -> EnvelopeAnswer:
    return verdict if isinstance(verdict, Expand) else settled(verdict)


def _member(recipient: Recipient, verdict: EnvelopeVerdict) -> Member:
    if isinstance(verdict, Refuse) or verdict.route is None:
        return Member(recipient, verdict)
    return Member(recipient.routed(verdict.route), verdict)
