"""
Senders that recipients have let in: whose refusals are lifted, and how one that is for a
single message is used up.

What a message has to prove is asked only where a stage has refused it, and only for
recipients that have let in its sender: all other mail costs one look into memory for each
recipient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.deferreds import asDeferred, awaited, isDeferred, timeOfDay
from deferrals.errors import Changed
from deferrals.interfaces import (
    IEnvelopeStage,
    IMessage,
    INotes,
    ITransactionObserver,
    MaybeAwaitable,
)
from deferrals.logger import Logger
from deferrals.model.admission import KIND, OWNERS, WAYS, Admission
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.json import JSON
from deferrals.model.reply import Reply
from deferrals.model.status import Status
from deferrals.model.verdict import Defer, EnvelopeAnswer, Refuse
from deferrals.server.proving import Prover

_log = Logger(namespace="deferrals.refusals")

#: What the notes say of one owner.
_Found = Sequence[tuple[str, JSON, int]]


@attrs.frozen
class _Taken:
    """
    An admission for one message that a transaction is about to use up.

    @ivar recipient: for whom.
    @ivar owner: whose it is.
    @ivar version: of its note.
    """

    recipient: Recipient
    owner: str
    admission: Admission
    version: int


def ownersOf(recipient: Recipient, mark: str | None = None) -> Iterator[str]:
    """
    Under which addresses a recipient has said something: its own, and the one without
    its subaddress.

    @param mark: what begins that; by default what its route says.
    """
    yield recipient.address.key
    if mark != "":
        user, _ = recipient.parted(mark)
        if user is not recipient.address:
            yield user.key


@implementer(ITransactionObserver)
class Admissions:
    """
    @param notes: where they are.
    @param clock: what time it is.
    @param prover: finds out what a message proves of its sender.
    @param status: where is counted what was let in.
    @ivar lifted: the stages whose refusals an admission lifts, by policy.
    """

    def __init__(self, notes: INotes, clock: IReactorTime, prover: Prover, status: Status) -> None:
        self._notes = notes
        self._clock = clock
        self._prover = prover
        self._status = status
        self.lifted: Mapping[str, frozenset[str]] = {}
        self._reading: list[Deferred[None]] | None = None
        self._taken: dict[int, list[_Taken]] = {}

    # While a server starts.

    def reading(self) -> None:
        """
        Mail may come, and what the notes say is not known yet: who is named meanwhile waits
        for that.  Otherwise a start would refuse a sender for good that is let in.
        """
        self._reading = []

    def read(self) -> None:
        """
        It is known now, or never will be.
        """
        waiting, self._reading = self._reading or [], None
        for one in waiting:
            one.callback(None)

    def _known(self) -> Deferred[None]:
        assert self._reading is not None
        d: Deferred[None] = Deferred(self._reading.remove)
        self._reading.append(d)
        return d

    # Before the data.

    def placing(self, stage: IEnvelopeStage) -> IEnvelopeStage:
        """
        @return: the same, whose recipients know which admissions they may need.
        """
        return _Placing(stage, self)

    def placed(
        self, verdict: EnvelopeAnswer | None, envelope: Envelope, recipient: Recipient
    ) -> EnvelopeAnswer | Deferred[EnvelopeAnswer | None] | None:
        """
        A recipient that the content decides about, with the admissions that may be for this
        transaction: those who have some are judged each for itself.
        """
        if not isinstance(verdict, Defer) or verdict.route is None:
            return verdict
        if not self.lifted.get(verdict.route.policy):
            return verdict  # there is nothing that one could lift
        found = self._ofAll(recipient, verdict.route.subaddress)
        if not isDeferred(found):
            return self._with(found, verdict, envelope)
        found.addErrback(_notFound, envelope)
        d: Deferred[EnvelopeAnswer | None] = found.addCallback(self._with, verdict, envelope)
        return d

    def _with(self, found: Sequence[Admission], verdict: Defer, envelope: Envelope) -> Defer:
        known = sorted(one.key for one in found if one.mayBe(envelope))
        if not known or verdict.route is None:
            return verdict
        return attrs.evolve(verdict, route=attrs.evolve(verdict.route, admitted=tuple(known)))

    def _ofAll(
        self, recipient: Recipient, mark: str
    ) -> list[Admission] | Deferred[list[Admission]]:
        """
        What a recipient has said, whoever sends: at once, where it is in memory.
        """
        if self._reading is not None:
            return self._known().addCallback(lambda _: self._ofAll(recipient, mark))
        asked = [self._notes.find(KIND, owner) for owner in ownersOf(recipient, mark)]
        answers = [awaited(one) for one in asked if one]  # nearly all have said nothing
        if not answers:
            return []
        known: list[_Found] = [one for one in answers if not isDeferred(one)]
        if len(known) == len(answers):
            return [one for found in known for one, _ in _read(found)]
        return Deferred.fromCoroutine(self._gathered(answers))

    async def _gathered(self, answers: Sequence[_Found | Deferred[_Found]]) -> list[Admission]:
        found = [await one if isDeferred(one) else one for one in answers]
        return [one for notes in found for one, _ in _read(notes)]

    def pardons(
        self, envelope: Envelope, recipient: Recipient, refusal: Refuse
    ) -> MaybeAwaitable[bool]:
        """
        Whether the refusal of an envelope stage is lifted.

        @param recipient: with its route.
        """
        if not self._lifts(recipient, refusal):
            return False
        return self._admitted(envelope, recipient, refusal, None)

    # Behind it.

    def lifts(
        self, message: IMessage, envelope: Envelope, recipient: Recipient, refusal: Refuse
    ) -> Deferred[bool] | None:
        """
        @return: a Deferred of whether the refusal of a content stage is lifted; C{None}
            where it cannot be.  It never fails.
        """
        route = recipient.route
        if route is None or not route.admitted or not self._lifts(recipient, refusal):
            return None
        d = Deferred.fromCoroutine(self._admitted(envelope, recipient, refusal, message))
        return d.addErrback(_notKnown, envelope)

    def _lifts(self, recipient: Recipient, refusal: Refuse) -> bool:
        policy = "" if recipient.route is None else recipient.route.policy
        return bool(refusal.stage) and refusal.stage in self.lifted.get(policy, ())

    async def _admitted(
        self, envelope: Envelope, recipient: Recipient, refusal: Refuse, message: IMessage | None
    ) -> bool:
        now = timeOfDay(self._clock)
        for owner in ownersOf(recipient):
            found = _read(await asDeferred(self._notes.find, KIND, owner))
            found = [one for one in found if one[0].mayBe(envelope)]
            free = [one for one in found if one[0].isFree(envelope.id, now)]
            if not free:
                continue
            proofs = await self._prover.proofs(envelope, message)
            for admission, version in sorted(free, key=lambda one: WAYS.index(one[0].way)):
                if not proofs.prove(admission, envelope):
                    continue
                if await self._take(envelope, recipient, owner, admission, version):
                    self._tell(envelope, recipient, refusal, admission)
                    return True
        return False

    async def _take(
        self,
        envelope: Envelope,
        recipient: Recipient,
        owner: str,
        admission: Admission,
        version: int,
    ) -> bool:
        """
        Speak for an admission that is for one message, before another transaction does.
        """
        if not admission.once or admission.taker == envelope.id:
            return True
        now = timeOfDay(self._clock)
        taken = attrs.evolve(admission, taker=envelope.id, taken=now)
        try:
            version = await self._put(owner, taken, version)
        except Changed:
            return False
        known = self._taken.setdefault(envelope.transaction, [])
        known.append(_Taken(recipient, owner, taken, version))
        return True

    def _put(self, owner: str, admission: Admission, was: int | None) -> Deferred[int]:
        seconds = max(0.0, admission.until - timeOfDay(self._clock))
        return self._notes.put(KIND, owner, admission.key, admission.toJSON(), seconds, was)

    def _tell(
        self, envelope: Envelope, recipient: Recipient, refusal: Refuse, admission: Admission
    ) -> None:
        _log.tell(
            self._status,
            "{transaction} to=<{recipient}> lets in <{sender}> by {by}, whom {stage} would"
            " refuse: {reply}",
            event="admitted",
            transaction=envelope.id,
            recipient=str(recipient),
            sender=envelope.senderText,
            by=admission.identity,
            stage=refusal.stage,
            reply=str(refusal.reply),
            once=admission.once,
        )

    def ended(
        self, envelope: Envelope, answers: Sequence[tuple[Recipient, Reply]], final: Reply | None
    ) -> None:
        """
        An admission for one message is used up by one that was accepted; otherwise it
        is there for the next.
        """
        for taken in self._taken.pop(envelope.transaction, ()):
            if _isAccepted(taken.recipient, answers, final, envelope):
                d: Deferred[object] = self._forget(taken)
            else:
                free = attrs.evolve(taken.admission, taker="", taken=0.0)
                d = self._put(taken.owner, free, taken.version).addCallback(lambda _: None)
            d.addErrback(_notNoted, envelope)

    def _forget(self, taken: _Taken) -> Deferred[object]:
        return self._notes.forget(KIND, taken.owner, taken.admission.key).addCallback(
            lambda _: None
        )

    # What is said of a sender.

    def add(self, owner: str, admission: Admission) -> Deferred[int]:
        """
        A recipient lets a sender in.

        @return: a Deferred that fires when the whole server knows.
        """
        _log.tell(
            self._status,
            "<{recipient}> lets in <{sender}> by {by} from now on",
            event="admission",
            recipient=owner,
            sender=admission.path,
            by=admission.identity,
            once=admission.once,
            until=admission.until,
            how=admission.how,
        )
        return Deferred.fromCoroutine(self._add(owner, admission))

    async def _add(self, owner: str, admission: Admission) -> int:
        until = max([admission.until, *(one.until for one in await self.of(owner))])
        seconds = max(0.0, until - timeOfDay(self._clock))
        await self._notes.put(KIND, OWNERS, owner, None, seconds)
        return await self._put(owner, admission, None)

    async def owners(self) -> list[str]:
        """
        Who has let in someone.
        """
        found = await asDeferred(self._notes.find, KIND, OWNERS)
        return sorted(key for key, _, _ in found)

    async def of(self, owner: str) -> list[Admission]:
        """
        What one recipient has said.
        """
        return [one for one, _ in _read(await asDeferred(self._notes.find, KIND, owner))]

    async def remove(self, owner: str) -> int:
        """
        Let no one in any longer.

        @return: how many it were.
        """
        found = await self.of(owner)
        for one in found:
            await self._notes.forget(KIND, owner, one.key)
        await self._notes.forget(KIND, OWNERS, owner)
        if found:
            _log.info(
                "<{recipient}> lets in no sender any longer whose mail was refused",
                event="admissions-removed",
                recipient=owner,
                count=len(found),
            )
        return len(found)


@implementer(IEnvelopeStage)
@attrs.frozen(eq=False)
class _Placing:
    """
    See L{Admissions.placing}.
    """

    stage: IEnvelopeStage
    admissions: Admissions

    def judgeRecipient(
        self, envelope: Envelope, recipient: Recipient
    ) -> EnvelopeAnswer | Deferred[EnvelopeAnswer | None] | None:
        verdict = awaited(self.stage.judgeRecipient(envelope, recipient))
        if not isDeferred(verdict):
            return self.admissions.placed(verdict, envelope, recipient)
        return verdict.addCallback(self.admissions.placed, envelope, recipient)


def _read(found: _Found) -> list[tuple[Admission, int]]:
    read = [(Admission.fromJSON(value), version) for _, value, version in found]
    return [(one, version) for one, version in read if one is not None]


def _isAccepted(
    recipient: Recipient,
    answers: Sequence[tuple[Recipient, Reply]],
    final: Reply | None,
    envelope: Envelope,
) -> bool:
    """
    Whether the message is ours, and the recipient has it: itself, or by the alias that
    was named.
    """
    if final is None:
        return False
    if final.code >= 400 and not envelope.parameters.form.takesEach:
        return False
    keys = {recipient.address.key, *(one.key for one in recipient.aliases)}
    return any(one.address.key in keys and reply.code < 300 for one, reply in answers)


def _notFound(failure: Failure, envelope: Envelope) -> list[Admission]:
    """
    What others have noted cannot be asked for: mail goes on as if none was let in.
    """
    if failure.check(CancelledError):
        failure.raiseException()
    _log.warn(
        "{transaction}: who is let in is not known: {error}",
        transaction=envelope.id,
        error=failure.getErrorMessage(),
    )
    return []


def _notKnown(failure: Failure, envelope: Envelope) -> bool:
    """
    The refusal stands.
    """
    if not failure.check(CancelledError):
        _log.failure("{transaction}: admissions", failure, transaction=envelope.id)
    return False


def _notNoted(failure: Failure, envelope: Envelope) -> None:
    _log.error(
        "{transaction}: an admission for one message is as it was: {error}",
        transaction=envelope.id,
        error=failure.getErrorMessage(),
    )
