"""
What a plain sender gets at one listener when its recipients differ: the procedure
of L{deferrals.model.mixed} applied to a session's transactions, with what it needs
from outside: what is remembered, who the sender is proved to be, the message's
fingerprint, and whether a sender may be written to.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import BinaryIO

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import (
    CancelledError,
    isDeferred,
    promptly,
    timeOfDay,
    together,
    withDeadline,
)
from deferrals.errors import Changed, OutcomeUnknown, StoreAway
from deferrals.interfaces import IMessage, INotes
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.block import Block, Resolution
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Form, Recipient
from deferrals.model.mixed import (
    Changes,
    Conclusion,
    End,
    Mixed,
    Plan,
    Rules,
    conclude,
    gaveUp,
    learn,
)
from deferrals.model.mixed import MixedReply as Answer
from deferrals.model.mixedgroup import Group, groupOf, stablePath
from deferrals.model.mixedrecord import LIFETIME_SECONDS, Fingerprint, Record, State
from deferrals.model.reply import Reply
from deferrals.model.spf import checkedDomain
from deferrals.model.status import Status
from deferrals.model.transaction import Candidate, Transaction
from deferrals.model.verdict import NO_MARKS, Accept, ContentVerdict, Marks, Refuse, Route

_log = Logger(namespace="deferrals.transaction")

#: How long a note may take to be put, in seconds: then the client is refused for
#: now, as it was about to be, and its next attempt begins anew.
PUT_SECONDS = 2.0

#: How often what is to be noted is worked out again, since others note, too.
_TRIES = 3

_KIND = "mixed"
_CHUNK_OCTETS = 256 * 1024

#: What programs make anew at each call, although the message is the same: MIME
#: boundaries.
_MADE_ANEW = re.compile(rb"^--[^\r\n]+|boundary=[^\r\n]*", re.M | re.I)

#: The sender of a filed copy may be forged: it is told nothing of the copy.
_NEVER = frozenset({"NEVER"})

_RESOLUTIONS = {
    Answer.TAKEN: Resolution.ACCEPT,
    Answer.REFUSED: Resolution.STRICTEST,
    Answer.LATER: Resolution.LATER,
}


@attrs.frozen
class Diversion:
    """
    What becomes of a recipient that refuses a message which was accepted for
    all.

    @ivar reply: how it refuses.
    @ivar quarantine: the delivery that gets its copy; C{None} for none.
    @ivar notify: whether the sender is told by a DSN.
    """

    reply: Reply
    quarantine: str | None = None
    notify: bool = False

    @property
    def kind(self) -> str:
        """
        One word for it, for the counters.
        """
        return "notified" if self.notify else "filed" if self.quarantine else "dropped"

    def addressee(self, recipient: Recipient, seq: int) -> Addressee | None:
        """
        What is written into the spool for it; C{None} where nothing is left to
        do.
        """
        if self.notify:
            return Addressee(recipient, NO_MARKS, seq, refusal=self.reply)
        if self.quarantine is None:
            return None
        why = Marks(headers=(("X-Deferrals-Refused", str(self.reply)),))
        route = attrs.evolve(recipient.route or Route("", ""), delivery=self.quarantine)
        routed = attrs.evolve(recipient, route=route, notify=_NEVER)
        return Addressee(routed, why, seq)


@attrs.frozen
class Resolved:
    """
    How a plain sender is answered.

    @ivar diversions: what becomes of each recipient that refuses what is
        accepted for all, by its index.
    @ivar has: the indexes of those that have the message already.
    @ivar reached: how many have it, from attempts before.
    @ivar learnt: what was found out, to be remembered once it is said.
    """

    resolution: Resolution
    diversions: Mapping[int, Diversion] = {}
    has: Collection[int] = ()
    reached: int = 0
    learnt: Learnt | None = None


@attrs.frozen
class Learnt:
    """
    The arguments of L{learn}.
    """

    plan: Plan
    message: Fingerprint
    verdicts: Mapping[str, State]
    answer: Answer


def fingerprintOf(message: IMessage) -> Fingerprint:
    """
    What a message has in common with itself at the next attempt.  Trace fields
    may have been added since.  Reads the whole message.
    """
    found: dict[str, list[str]] = {}
    for name, value in message.fields():
        found.setdefault(name.lower(), []).append(value.strip())
    ids, dates = found.get("message-id", []), found.get("date", [])
    ident = "\0".join([*ids, *dates]) if ids and dates else ""
    isExims = "(Exim " in found.get("received", [""])[0]
    with message.open() as file:
        file.seek(len(message.header))
        return Fingerprint(_digest(ident.encode("utf-8")) if ident else "", _body(file), isExims)


def _digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()[:32]


def _body(file: BinaryIO) -> str:
    """
    @return: a digest of the body, without what is made anew at each call.
    """
    digest, rest = hashlib.sha256(), file.read(_CHUNK_OCTETS).lstrip(b"\r\n")
    while chunk := file.read(_CHUNK_OCTETS):
        lines, end, rest = (rest + chunk).rpartition(b"\n")
        if len(rest) > _CHUNK_OCTETS:
            end, rest = end + rest, b""
        digest.update(_MADE_ANEW.sub(b"", lines + end))
    digest.update(_MADE_ANEW.sub(b"", rest))
    return digest.hexdigest()[:32]


@attrs.frozen(eq=False, kw_only=True)
class MixedPolicy:
    """
    @ivar choice: the listener's.
    @ivar fallback: what follows on C{SPLIT} and C{RETRY} when a message has been
        refused for now C{retryLimit} times: C{NOTIFY}, C{FILE}, or C{SPLIT}: its
        recipients go on to come apart.
    @ivar notes: what is remembered; all listeners share it.
    @ivar quarantine: the name of a policy's quarantine delivery, or C{None}.
    @ivar reachable: whether there is a way to write to a sender.
    @ivar proved: the domain for which SPF passes, or C{None}: a Deferred of that,
        which never fails.
    @ivar inThread: runs a function outside the reactor thread.
    @ivar status: where events are counted.
    @ivar clock: timers, and the time of day.
    """

    choice: Mixed
    fallback: Mixed
    retryLimit: int
    notes: INotes
    quarantine: Callable[[str], str | None]
    reachable: Callable[[Mailbox], bool]
    proved: Callable[[Envelope], Deferred[str | None]]
    inThread: Callable[[Callable[[IMessage], Fingerprint], IMessage], Deferred[Fingerprint]]
    status: Status
    clock: IReactorTime
    _rules: Rules | None = attrs.field(init=False)

    @_rules.default
    def _applied(self) -> Rules | None:
        return Rules.of(self.choice, self.fallback, self.retryLimit)

    # Before the data.

    def begin(self, transaction: Transaction) -> Deferred[None] | None:
        """
        MAIL has come: recall what is remembered of its sender.

        @return: what is to be waited for before the first RCPT; C{None} where
            nothing is remembered, which is the rule.
        """
        if self._rules is None or transaction.form is not Form.PLAIN:
            return None
        transaction.plan = Plan(self._rules, size=transaction.envelope.parameters.size)
        groups = _groups(transaction.envelope)
        known = [self._mayHave(group) for group in groups]
        if not any(known):
            return None
        d = Deferred.fromCoroutine(self._recall(transaction, groups, known))
        return d.addErrback(self._notRecalled, transaction)

    def _mayHave(self, group: Group) -> bool | Deferred[bool]:
        """
        Whether something may be remembered; a Deferred of it, where that is not known
        at once.
        """
        try:
            found = promptly(self.clock, PUT_SECONDS, self.notes.find, _KIND, group.key)
        except Exception:
            return True  # it is asked again, and heard
        return found.addCallback(bool) if isDeferred(found) else bool(found)

    async def _recall(
        self,
        transaction: Transaction,
        groups: Sequence[Group],
        known: Sequence[bool | Deferred[bool]],
    ) -> None:
        waiting: list[Deferred[bool]] = [one for one in known if isDeferred(one)]
        found = await together(waiting)
        if True not in known and not any(found):
            return
        group = groups[0]
        if len(groups) > 1:
            group = await self._groupOf(transaction.envelope)
        assert transaction.plan is not None
        records, _ = await self._find(group)
        transaction.plan = attrs.evolve(
            transaction.plan, group=group, records=records, lot=random.randrange(2**32)
        )

    def _notRecalled(self, failure: Failure, transaction: Transaction) -> None:
        """
        It is as if nothing were remembered: that costs the sender an attempt.
        """
        if failure.check(CancelledError, StoreAway):
            return  # the client is gone; or the database, and that was logged
        _log.failure("{transaction}: mixed", failure, transaction=transaction.envelope.id)

    async def _groupOf(self, envelope: Envelope) -> Group:
        client = envelope.client
        domain = None if client.user else await self.proved(envelope)
        return groupOf(stablePath(envelope.sender), client.address, client.user, domain)

    async def _find(self, group: Group) -> tuple[dict[str, Record], dict[str, int]]:
        """
        @return: what is remembered, and its versions.
        """

        notes = await withDeadline(self.clock, PUT_SECONDS, self.notes.find, _KIND, group.key)
        records, versions = {}, {}
        for key, value, version in notes:
            try:
                records[key] = Record.fromJSON(value)
            except Exception:
                _log.failure("a note on mixed mail of {group} is no record", group=group.key)
                forgotten = withDeadline(
                    self.clock, PUT_SECONDS, self.notes.forget, _KIND, group.key, key
                )
                await forgotten.addErrback(self._notForgotten)
            else:
                versions[key] = version
        return records, versions

    def _notForgotten(self, failure: Failure) -> None:
        """
        It is in no record's way, and expires.
        """
        _log.failure("a note on mixed mail cannot be forgotten", failure)

    def gaveUp(self, transaction: Transaction, end: End) -> None:
        """
        The client ended a transaction without data.
        """
        if transaction.plan is None or not transaction.sentAway:
            return

        def changes(plan: Plan) -> Changes:
            now = timeOfDay(self.clock)
            return gaveUp(plan, transaction.letIn, transaction.sentAway, end, now)

        d = Deferred.fromCoroutine(self._remember(transaction, transaction.plan, changes))
        d.addErrback(self._notRemembered, transaction)

    # After it.

    def isWatched(self, transaction: Transaction) -> bool:
        """
        Whether what is remembered has a say in the reply even where recipients
        agree.
        """
        plan = transaction.plan
        return plan is not None and bool(plan.records or transaction.sentAway)

    async def resolve(self, transaction: Transaction, block: Block, message: IMessage) -> Resolved:
        """
        A plain sender's message for which no one reply is exact, or of whose
        sender something is remembered.
        """
        if transaction.plan is None:
            self.status.count("mixed", "one refusal for all")
            return Resolved(Resolution.STRICTEST)
        facts = await self.fingerprint(message)
        plan = await self._current(transaction, transaction.plan)
        diversions = self._diversions(transaction, block, plan)
        if diversions is None:
            plan = attrs.evolve(plan, rules=attrs.evolve(plan.rules, diverts=False))
        verdicts = _verdicts(transaction, block)
        conclusion = conclude(plan, facts, verdicts, transaction.sentAway)
        learnt = Learnt(plan, facts, verdicts, conclusion.reply)
        if conclusion.reply is Answer.LATER:
            self.status.count("mixed", "refused for now")
            d = Deferred.fromCoroutine(self._learn(transaction, learnt))
            await d.addErrback(self._notRemembered, transaction)
        elif conclusion.reply is Answer.REFUSED and len(set(verdicts.values())) > 1:
            self.status.count("mixed", "one refusal for all")
        return self._resolved(transaction, conclusion, learnt, diversions or {})

    def _resolved(
        self,
        transaction: Transaction,
        conclusion: Conclusion,
        learnt: Learnt,
        diversions: Mapping[int, Diversion],
    ) -> Resolved:
        keys = [one.recipient.address.key for one in transaction.candidates]
        refusers, had = frozenset(conclusion.diverted), frozenset(conclusion.has)
        diverted = {i: one for i, one in diversions.items() if keys[i] in refusers}
        for one in diverted.values():
            self.status.count("mixed", one.kind)
        has = frozenset(i for i, key in enumerate(keys) if key in had)
        resolution = _RESOLUTIONS[conclusion.reply]
        return Resolved(resolution, diverted, has, conclusion.reached, learnt)

    async def _current(self, transaction: Transaction, plan: Plan) -> Plan:
        """
        The plan with what is remembered now: others have come since RCPT.
        """
        group = plan.group or await self._groupOf(transaction.envelope)
        records, _ = await self._find(group)
        return attrs.evolve(plan, group=group, records=records)

    def fingerprint(self, message: IMessage) -> Deferred[Fingerprint]:
        """
        @return: a Deferred of L{fingerprintOf} C{message}, computed once.
        """
        if message.inMemory:
            return message.shared((__name__, "fingerprint"), fingerprintOf)
        return message.shared(
            (__name__, "fingerprint"), lambda message: self.inThread(fingerprintOf, message)
        )

    def _diversions(
        self, transaction: Transaction, block: Block, plan: Plan
    ) -> dict[int, Diversion] | None:
        """
        What becomes of the recipients that refuse, if the message is accepted.

        @return: C{None} where it is not to be accepted: a refusal would be lost
            by that, since its sender cannot be told and its copy not be filed.
        """
        if not plan.rules.diverts:
            return None
        sender = transaction.envelope.sender
        chosen = self.choice if plan.rules.together else self.fallback
        isProved = plan.group is not None and plan.group.isProved
        notify = chosen is Mixed.NOTIFY and isProved
        notify = notify and sender is not None and self.reachable(sender)
        diversions = {}
        for index, verdict in enumerate(block.verdicts):
            if isinstance(verdict, Refuse):
                name = None if notify else self._quarantineOf(transaction.candidates[index])
                diversions[index] = Diversion(verdict.reply, name, notify)
        return None if any(one.kind == "dropped" for one in diversions.values()) else diversions

    def _quarantineOf(self, candidate: Candidate) -> str | None:
        """
        Where a candidate's copy is filed; of an alias, a member's.
        """
        if candidate.alias is not None:
            found = [self.quarantine(member.policy) for member in candidate.alias.members]
            return next(filter(None, found), None)
        route = candidate.recipient.route
        return None if route is None else self.quarantine(route.policy)

    def answered(self, transaction: Transaction, resolved: Resolved) -> None:
        """
        The final reply was written: now that it has been said, it counts.
        """
        learnt = resolved.learnt
        if learnt is None or learnt.answer is Answer.LATER:
            return
        d = Deferred.fromCoroutine(self._learn(transaction, learnt))
        d.addErrback(self._notRemembered, transaction)

    async def _learn(self, transaction: Transaction, learnt: Learnt) -> None:
        def changes(plan: Plan) -> Changes:
            now, away = timeOfDay(self.clock), transaction.sentAway
            found = learn(plan, learnt.message, learnt.verdicts, away, learnt.answer, now)
            self._count(plan, found)
            return found

        await self._remember(transaction, learnt.plan, changes)

    def _count(self, plan: Plan, changes: Changes) -> None:
        """
        Count a message that came again, and how long it took where it is over.
        """
        for name, record in changes.items():
            before = plan.records.get(name)
            if record is None or before is None or record.wrong > before.wrong:
                continue
            self.status.count("mixed", "retry seen")
            if record.isOver and not before.isOver:
                self.status.measure("mixed", "last recipient", record.seen - record.began)

    async def _remember(
        self, transaction: Transaction, plan: Plan, changes: Callable[[Plan], Changes]
    ) -> None:
        """
        Note what is to be remembered, worked out of what is remembered now.
        """
        group = plan.group or await self._groupOf(transaction.envelope)
        for _ in range(_TRIES):
            records, versions = await self._find(group)
            found = changes(attrs.evolve(plan, group=group, records=records))
            try:
                await withDeadline(self.clock, PUT_SECONDS, self._put, group, found, versions)
            except Changed:
                continue
            return

    async def _put(self, group: Group, changes: Changes, versions: Mapping[str, int]) -> None:
        for name, record in changes.items():
            if record is None:
                await self.notes.forget(_KIND, group.key, name)
            else:
                value, was = record.toJSON(), versions.get(name, 0)
                await self.notes.put(_KIND, group.key, name, value, LIFETIME_SECONDS, was)

    def _notRemembered(self, failure: Failure, transaction: Transaction) -> None:
        if failure.check(StoreAway, OutcomeUnknown):
            return  # that was logged
        _log.failure("{transaction}: mixed", failure, transaction=transaction.envelope.id)


def _groups(envelope: Envelope) -> Sequence[Group]:
    """
    Whose memory may be the sender's, as far as it is known without a look-up.
    """
    client = envelope.client
    return _groupsOf(envelope.sender, client.user, client.address, client.helo)


@functools.lru_cache(maxsize=4096)
def _groupsOf(sender: Mailbox | None, user: str | None, address: str, helo: str) -> Sequence[Group]:
    path = stablePath(sender)
    if user:
        return (groupOf(path, address, user),)
    return groupOf(path, address, spf=checkedDomain(helo, sender)), groupOf(path, address)


def _verdicts(transaction: Transaction, block: Block) -> dict[str, State]:
    """
    What each recipient says.  One that was named twice, and says two things,
    does not accept.
    """
    found: dict[str, State] = {}
    for candidate, verdict in zip(transaction.candidates, block.verdicts, strict=True):
        key, state = candidate.recipient.address.key, _stateOf(verdict)
        if found.get(key, State.ACCEPTS) is State.ACCEPTS:
            found[key] = state
    return found


def _stateOf(verdict: ContentVerdict | None) -> State:
    if isinstance(verdict, Accept):
        return State.ACCEPTS
    isForNow = not isinstance(verdict, Refuse) or verdict.reply.isTemporary
    return State.LATER if isForNow else State.REFUSES
