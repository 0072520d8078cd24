"""
The members of a transaction's aliases: asked about by the content stages as other
recipients are, and answered for by the alias that the sender named
(L{deferrals.model.alias}).

How often an alias was refused for now, because one member was, is noted for the
message: by its Message-ID and date, or its body, and its sender.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import asDeferred, withDeadline
from deferrals.errors import OutcomeUnknown, StoreAway
from deferrals.interfaces import IMessage
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.alias import Alias, Member, answer, isDelaying
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Form
from deferrals.model.mixedgroup import stablePath
from deferrals.model.reply import (
    R250_CONTENT,
    R250_EXPANDED,
    R250_RECIPIENT,
    R451_LATE,
    Reply,
)
from deferrals.model.transaction import Candidate, Transaction
from deferrals.model.verdict import (
    Accept,
    ContentVerdict,
    Defer,
    Refuse,
    Route,
    isNowhere,
)
from deferrals.smtp.server import maillog
from deferrals.smtp.server.mixed import Diversion
from deferrals.smtp.server.settings import Backend

_log = Logger(namespace="deferrals.transaction")

#: How long it may take to find and to note how often an alias was refused for now.
NOTE_SECONDS = 4.0

#: So long it counts, in seconds.
LIFETIME_SECONDS = 86400.0

_KIND = "alias"

_NEVER = frozenset({"NEVER"})


def tellMembers(backend: Backend, transaction: Transaction, alias: Alias, seconds: float) -> None:
    """
    The log is told of the members of an alias that was let in, or that all of them
    refuse: of those whose answer does not depend on the content.

    @param seconds: since RCPT TO.
    """
    for member in alias.members:
        verdict = member.verdict
        if not isinstance(verdict, Defer):
            _tell(backend, transaction, member, "envelope", verdict, seconds)


def _tell(
    backend: Backend,
    transaction: Transaction,
    member: Member,
    stage: str,
    verdict: ContentVerdict,
    seconds: float,
    message: IMessage | None = None,
) -> None:
    accepted = R250_RECIPIENT if message is None else R250_CONTENT
    reply = verdict.reply if isinstance(verdict, Refuse) else accepted
    cohort = "" if isinstance(member.verdict, Refuse) else member.cohort
    maillog.recipientVerdict(
        backend.status,
        transaction.envelope,
        str(member.recipient),
        stage,
        "" if cohort == "" else transaction.nameOf(member.recipient, cohort),
        reply,
        seconds,
        verdict.why,
        str(member.recipient.alias),
        stage == "content" and maillog.isMarked(verdict),
    )
    if backend.refused is not None and isinstance(verdict, Refuse):
        backend.refused(transaction.envelope, member.recipient, stage, verdict, message)


class Members:
    """
    @param clock: timers.
    @ivar isOver: whether no answer is waited for any longer.
    """

    def __init__(self, transaction: Transaction, backend: Backend, clock: IReactorTime) -> None:
        self._transaction = transaction
        self._backend = backend
        self._clock = clock
        self._began = clock.seconds()
        self.isOver = False
        self._verdicts: dict[int, list[ContentVerdict | None]] = {}
        self._delays: dict[str, int] = {}  # before this message came, by alias
        for index, _, member in transaction.members():
            self._verdicts.setdefault(index, []).append(member.known)

    def foreseen(self, refusals: Mapping[int, Reply]) -> dict[int, Reply]:
        """
        Some deliveries can never carry this message.

        @param refusals: by position: the candidates, and behind them all members.
        @return: the refusals of candidates.  An alias is one of them where all of its
            members refuse.
        """
        candidates = self._transaction.candidates
        found = {i: reply for i, reply in refusals.items() if i < len(candidates)}
        for position, (index, number, member) in enumerate(self._transaction.members()):
            reply = refusals.get(len(candidates) + position)
            # D-17: the sender has been told that this one gets it
            isTold = self._transaction.form is Form.DEFERRALS and isinstance(member.verdict, Accept)
            if reply is not None and not isTold:
                self._verdicts[index][number] = Refuse(reply.forRecipient(), why="its delivery")
        for index, known in self._verdicts.items():
            refused = [one for one in known if isinstance(one, Refuse)]
            if len(refused) == len(known) and not candidates[index].isPromised:
                said = answer(refused, 0, 0)
                if isinstance(said, Refuse) and not candidates[index].deferred:
                    found[index] = said.reply
        return found

    # What they say.

    def judge(
        self, message: IMessage, envelope: Envelope, deferred: Sequence[int]
    ) -> list[Deferred[ContentVerdict]]:
        """
        Ask the content stages.

        @param deferred: the indexes of the candidates that the content decides about.
        @return: one Deferred for each of them, as those of
            L{IContentJudge<deferrals.interfaces.IContentJudge>}.
        """
        asked = []
        for index in deferred:
            asked += [(one.recipient, one.cohort) for one in self._askedOf(index)]
        verdicts = iter(self._backend.content.judge(message, envelope, asked))
        found: list[Deferred[ContentVerdict]] = []
        for index in deferred:
            waiting = [next(verdicts) for _ in self._askedOf(index)]
            if index in self._verdicts:
                heard = self._heard(waiting, index, message)
                found.append(Deferred.fromCoroutine(heard))
            else:
                found += waiting
        return found

    def _askedOf(self, index: int) -> Sequence[Candidate | Member]:
        """
        Whom the content stages are asked about for one candidate.
        """
        candidate = self._transaction.candidates[index]
        if candidate.alias is None:
            return [candidate]
        known = self._verdicts[index]
        return [m for m, said in zip(candidate.alias.members, known, strict=True) if said is None]

    async def _heard(
        self, waiting: Sequence[Deferred[ContentVerdict]], index: int, message: IMessage
    ) -> ContentVerdict:
        """
        What is said of an alias, once all of its members have answered.
        """
        said = await DeferredList(waiting)
        if self.isOver:
            return Refuse(R451_LATE)
        for member, (_, verdict) in zip(self._askedOf(index), said, strict=True):
            assert isinstance(member, Member)
            seconds = self._clock.seconds() - self._began
            _tell(self._backend, self._transaction, member, "content", verdict, seconds, message)
        following = iter(said)
        known = self._verdicts[index]
        verdicts = [next(following)[1] if one is None else one for one in known]
        self._verdicts[index] = list(verdicts)
        candidate, alias = self._aliasOf(index)
        if candidate.isPromised or not alias.later or not isDelaying(verdicts):
            return answer(verdicts, alias.later, 0, candidate.isPromised)
        address = candidate.recipient.address
        d = withDeadline(
            self._clock, NOTE_SECONDS, self._weighed, verdicts, alias, address, message
        )
        return await d.addErrback(self._notWeighed, verdicts, alias)

    def _aliasOf(self, index: int) -> tuple[Candidate, Alias]:
        candidate = self._transaction.candidates[index]
        assert candidate.alias is not None
        return candidate, candidate.alias

    async def _weighed(
        self, verdicts: Sequence[ContentVerdict], alias: Alias, address: Mailbox, message: IMessage
    ) -> ContentVerdict:
        """
        An alias whose members differ, and one refuses for now: how often it was so
        decides.
        """
        notes = self._backend.mixed.notes
        path = stablePath(self._transaction.envelope.sender)
        group = f"{_digest(address.key)} {_digest(path)}"
        facts = await self._backend.mixed.fingerprint(message)
        key, delays = facts.ident or facts.digest, 0
        for found, value, _ in await asDeferred(notes.find, _KIND, group):
            if found == key and isinstance(value, int):
                delays = value
        # An alias that is named twice is refused once.
        delays = self._delays.setdefault(address.key, delays)
        verdict = answer(verdicts, alias.later, delays)
        if isinstance(verdict, Refuse):
            await notes.put(_KIND, group, key, delays + 1, LIFETIME_SECONDS)
        return verdict

    def _notWeighed(
        self, failure: Failure, verdicts: Sequence[ContentVerdict], alias: Alias
    ) -> ContentVerdict:
        """
        It is refused for now, which is not counted.
        """
        if not failure.check(CancelledError, StoreAway, OutcomeUnknown):
            _log.failure("{transaction}: alias", failure, transaction=self._transaction.envelope.id)
        return answer(verdicts, alias.later, 0)

    # Who gets it.

    def addTo(
        self,
        found: dict[Hashable, Addressee],
        accepted: Sequence[int],
        diversions: Mapping[int, Diversion],
        seq: int,
    ) -> None:
        """
        What is written into the spool for the members: one copy for each mailbox.

        @param found: by mailbox; has what is written for others.
        @param accepted: the candidates that are accepted.
        @param diversions: what becomes of those that refuse, although the message is
            accepted for all.
        @param seq: the number of the first addressee.
        """
        filed = [index for index, diversion in diversions.items() if not diversion.notify]
        copies = {_mailbox(one): key for key, one in found.items()}
        for one in self._addressees(accepted, filed):
            mailbox = _mailbox(one)
            key = copies.setdefault(mailbox, mailbox)
            before = found.get(key)
            if before is None:
                found[key] = attrs.evolve(one, seq=seq)
                seq += 1
            elif before.recipient.notify == _NEVER:
                found[key] = attrs.evolve(one, seq=before.seq)  # this one may be owed a notice

    def _addressees(self, accepted: Sequence[int], filed: Sequence[int]) -> list[Addressee]:
        found: list[Addressee | None] = []
        for index in accepted:
            named = self._transaction.candidates[index].recipient
            for member, verdict in self._told(index):
                if isinstance(verdict, Refuse):
                    found.append(self._refuser(index, member, verdict))
                elif not verdict.nowhere:
                    found.append(Addressee.accepting(member.recipient, verdict))
            if index in self._verdicts and "SUCCESS" in (named.notify or ()):
                found.append(Addressee(named, refusal=R250_EXPANDED))  # RFC 3461 §5.2.7
        for index in filed:
            for member, verdict in self._told(index):
                if isinstance(verdict, Refuse):
                    found.append(self._refuser(index, member, verdict, isFiled=True))
        return [one for one in found if one is not None]

    def tellDiscarded(self, accepted: Sequence[int]) -> None:
        """
        The log is told of members that throw the message away.

        @param accepted: the candidates that are accepted.
        """
        status, envelope = self._backend.status, self._transaction.envelope
        for index in accepted:
            for member, verdict in self._told(index):
                if isNowhere(verdict):
                    maillog.discarded(status, envelope, member.recipient, verdict.why)

    def _told(self, index: int) -> Iterator[tuple[Member, ContentVerdict]]:
        """
        The members of a candidate, each with its answer; none, where it is no alias.
        """
        alias = self._transaction.candidates[index].alias
        if alias is not None:
            for member, verdict in zip(alias.members, self._verdicts[index], strict=True):
                assert verdict is not None  # the alias has its answer
                yield member, verdict

    def _refuser(
        self, index: int, member: Member, verdict: Refuse, isFiled: bool = False
    ) -> Addressee | None:
        """
        What is written for a member that refuses what others accept.

        @param isFiled: whether its copy is filed, whatever the alias says: the sender
            was told that the message is taken, and no member has it.
        """
        _, alias = self._aliasOf(index)
        isFiled = bool(member.policy) and (isFiled or alias.refusers == "file")
        name = self._backend.mixed.quarantine(member.policy) if isFiled else None
        diversion = Diversion(verdict.reply, name)
        self._backend.status.count("mixed", diversion.kind)
        _log.info(
            "{transaction} to=<{recipient}> alias=<{alias}> refuses what others accept: {kind}",
            transaction=self._transaction.envelope.id,
            recipient=str(member.recipient),
            alias=str(member.recipient.alias),
            kind=diversion.kind,
        )
        route = member.recipient.route or Route(member.policy, "")
        return diversion.addressee(member.recipient.routed(route), 0)


def _mailbox(one: Addressee) -> Hashable:
    """
    Equal for copies of which one is enough, whatever ways lead to it.
    """
    route = one.recipient.route
    delivery = "" if route is None else route.delivery
    return one.recipient.address.key, delivery, one.refusal is None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]
