"""
The content stages of all policies as one: a chain of Deferreds for each cohort.

A policy is a list of content stages.  Two recipients are one I{cohort} when
they meet the same stages and each of these stages treats them alike; so the
names of policies do not matter, their effect does.  Each stage is asked once
per message and key of its own, however many cohorts have that key in common.

On an error: a stage that raises, or answers with something that is no verdict,
refuses temporarily for the recipients that it was asked about (451 4.3.0), and
the failure is logged with the transaction and those recipients.  Nothing here
ever fails towards the session.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import attrs
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr
from zope.interface import implementer

from deferrals.deferreds import Semaphore, atOnce, awaited, errorText, letGo
from deferrals.errors import StageError
from deferrals.interfaces import (
    IContentJudge,
    IContentStage,
    IEditingStage,
    IExpectingStage,
    IMessage,
)
from deferrals.logger import Logger
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.events import happened
from deferrals.model.reply import R451_LATE, R451_STAGE_FAILED, R452_OVERLOADED
from deferrals.model.status import Status
from deferrals.model.verdict import (
    ACCEPT,
    NO_MARKS,
    Accept,
    ContentVerdict,
    Defer,
    EnvelopeVerdict,
    HeaderEdit,
    Refuse,
    Route,
    refusedBy,
)
from deferrals.stages.content.scanner import isUnscanned
from deferrals.stages.foreign import seen, withEdits

_log = Logger(namespace="deferrals.stages")

#: How many recipients of a failure the log names.
MAX_NAMES = 20


class _Key:
    """
    What a stage has answered to C{cohort}, so that it can be used as a key
    whatever others have made of C{__hash__} and C{__eq__}: it is hashed once,
    and what cannot be compared is equal to nothing else.

    @raise TypeError: it cannot be hashed; or whatever else its C{__hash__}
        raises.
    """

    __slots__ = ("_hash", "_value")

    def __init__(self, value: Hashable) -> None:
        self._value = value
        self._hash = hash(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Key):
            return NotImplemented
        if self._value is other._value:
            return True
        try:
            return self._hash == other._hash and bool(self._value == other._value)
        except BaseException:  # as with what a stage raises
            return False


#: What is a key as it is.
_OWN = {type(None), str, int, bool}

#: A stage, with its key for some recipients.
_Pair = tuple[IContentStage, Hashable]

#: The stages that a recipient meets, each with its key for the recipient.
_Cohort = tuple[_Pair, ...]

#: Says whether a stage's refusal is lifted, since its recipient has let the sender in:
#: C{None}, where that cannot be.
Lift: TypeAlias = "Callable[[IMessage, Envelope, Recipient, Refuse], Deferred[bool] | None]"


@attrs.frozen
class _Admitting:
    """
    The cohort of one recipient, which has let in the sender of this transaction.

    @ivar admitted: what lifts refusals.
    """

    pairs: _Cohort
    recipient: str
    admitted: tuple[str, ...]


@implementer(IContentJudge)
class ContentJudge:
    """
    The content stage of all policies.

    @param policies: the content stages of each policy, by its name.  Stages
        with equal settings should be one object: that makes their recipients
        one cohort.
    @param maxJudging: how many messages may be judged at once; the next ones
        wait inside their own deadline.
    @param hostname: this server's name: stages are shown no field that only
        this server may say.
    @param status: where judgements are counted.
    @param settle: what becomes of a verdict where a recipient's mail goes; it does not
        fail.
    @param lift: says of refusals whether they are lifted; what it returns does not fail.
    """

    def __init__(
        self,
        policies: Mapping[str, Sequence[IContentStage]],
        maxJudging: int,
        hostname: str = "",
        status: Status | None = None,
        settle: Callable[[ContentVerdict, Recipient], ContentVerdict] | None = None,
        lift: Lift = lambda *_: None,
    ) -> None:
        self._lift = lift
        self._policies = policies
        self._status = status or Status()
        self._hostname = hostname
        self._slots = Semaphore(maxJudging)
        self._settle = settle

    def cohort(self, recipient: Recipient, verdict: EnvelopeVerdict) -> Hashable:
        """
        The recipient's cohort: the stages that it will meet, with the key that
        each has for it.  Nothing, for recipients that the envelope has accepted.  What a
        stage that edits is shown depends on those that have edited before it, and so
        does its key.  One that has let the sender in has a cohort of its own.

        @raise StageError: a stage has no hashable key for it.
        """
        if not isinstance(verdict, Defer) or recipient.route is None:
            return ()
        found: list[_Pair] = []
        editing: list[_Pair] = []
        for stage in self._stages(recipient.route):
            key = own = _key(stage, recipient)
            if IEditingStage.providedBy(stage):
                key = own, tuple(editing)
                editing.append((stage, own))
            found.append((stage, key))
        if not recipient.route.admitted or not found:
            return tuple(found)
        return _Admitting(tuple(found), recipient.address.key, recipient.route.admitted)

    def _stages(self, route: Route) -> Sequence[IContentStage]:
        if route.policy not in self._policies:
            raise StageError(f"no policy is named {route.policy!r}")
        return self._policies[route.policy]

    def judge(
        self, message: IMessage, envelope: Envelope, deferred: Sequence[tuple[Recipient, Hashable]]
    ) -> list[Deferred[ContentVerdict]]:
        """
        Ask the stages.

        @param deferred: the deferred recipients, each with its cohort.
        @return: one Deferred per recipient, in their order.  None ever fails.
            Cancelling one refuses temporarily for that recipient: 452 4.3.1
            where its message still waits to be judged, otherwise 451 4.3.0.
        """
        shown = seen(message, self._hostname)
        lift = partial(self._lift, message, envelope)
        judging = _Judging(self._slots, shown, envelope, deferred, self._status, lift)
        found = judging.start()
        for d, (recipient, _) in zip(found, deferred, strict=True):
            if self._settle is not None:
                d.addCallback(self._settle, recipient)
        return found


def _key(stage: IContentStage, recipient: Recipient) -> Hashable:
    """
    @raise StageError: the stage has no hashable key.
    """
    source = f"{type(stage).__name__}.cohort"
    try:
        key = atOnce(stage.cohort(recipient), source)
        return key if type(key) in _OWN else _Key(key)
    except StageError:
        raise
    except BaseException as error:
        raise StageError(f"{source} failed: {errorText(Failure())}") from error


def _pairs(cohort: Hashable) -> _Cohort:
    if isinstance(cohort, _Admitting):
        return cohort.pairs
    assert isinstance(cohort, tuple)  # made above
    return cohort


class _Judgement:
    """
    What a stage is asked about all who have one key of its own.

    @ivar verdict: C{None} while it is not known.
    @ivar walks: the cohorts that wait for it.
    @ivar asked: the stage's answer, where it has to be waited for.
    """

    __slots__ = ("asked", "verdict", "walks")

    def __init__(self) -> None:
        self.verdict: ContentVerdict | None = None
        self.walks: dict[_CohortWalk, None] = {}
        self.asked: Deferred[None] | None = None


class _CohortWalk:
    """
    One cohort on its way through its stages: the first refusal stands.

    @ivar members: its recipients.
    @ivar pairs: the stages that it meets.
    @ivar verdict: what it has come to; C{None} on the way.
    """

    def __init__(self, judging: _Judging, pairs: _Cohort) -> None:
        self.members: list[Recipient] = []
        self.pairs = pairs
        self.verdict: ContentVerdict | None = None
        self._judging = judging
        self._stages = iter(pairs)
        self._pair: _Pair | None = None  # that is waited for
        self._lifting: Deferred[None] | None = None
        self._marks = NO_MARKS
        self._isQuarantined = False
        self._apart: dict[str, Refuse] = {}  # by the key of an address
        self._whys: list[str] = []
        self._waiting: dict[Deferred[ContentVerdict], None] = {}

    @property
    def isRefused(self) -> bool:
        """
        Whether later stages need not be asked about it.
        """
        return isinstance(self.verdict, Refuse)

    def wait(self, recipient: Recipient) -> Deferred[ContentVerdict]:
        """
        A recipient's own view of it.
        """
        if self.verdict is not None:
            return succeed(self._own(self.verdict, recipient))
        waiter: Deferred[ContentVerdict] = Deferred(self._late)
        self._waiting[waiter] = None
        return waiter.addCallback(self._own, recipient)

    def _own(self, verdict: ContentVerdict, recipient: Recipient) -> ContentVerdict:
        """
        What is said of this recipient: what it was refused with apart stands, whatever
        the others have come to since.
        """
        return self._apart.get(recipient.address.key, verdict)

    def _late(self, waiter: Deferred[ContentVerdict]) -> None:
        """
        A recipient is not waited for any longer; when none is, nor is a stage.
        """
        self._waiting.pop(waiter, None)
        refusal = R451_LATE if self._judging.isInside else R452_OVERLOADED
        waiter.callback(Refuse(refusal, why="no verdict in time"))
        if not self._waiting and self.verdict is None:
            self.verdict = Refuse(R451_LATE)
            if self._lifting is not None:
                self._lifting.cancel()
            elif self._pair is not None:
                self._judging.leave(self._pair, self)
            self._judging.walked()

    def goOn(self) -> None:
        """
        Ask one stage after the other, as long as they answer at once.
        """
        while self.verdict is None:
            self._pair = next(self._stages, None)
            if self._pair is None:
                self._end(self._acceptance())
                return
            verdict = self._judging.ask(self._pair, self)
            if verdict is None or not self._hear(verdict):
                return

    def _acceptance(self) -> Accept:
        if self._marks is NO_MARKS and not (self._whys or self._isQuarantined):
            return ACCEPT
        return Accept(self._marks, isQuarantined=self._isQuarantined, why=self._why)

    def heard(self, verdict: ContentVerdict) -> None:
        """
        The stage that is waited for has decided.
        """
        if self.verdict is None and self._hear(verdict):
            self.goOn()

    def _hear(self, verdict: ContentVerdict) -> bool:
        """
        @return: whether to ask the next stage now.
        """
        assert self._pair is not None
        if isinstance(verdict, Accept) and verdict.apart:
            verdict = self._parted(verdict, self._pair[0])
        if isinstance(verdict, Refuse):
            self._refused(self._judging.named(self._pair[0], verdict))
            return False
        self._marks = self._marks.plus(verdict.marks)
        if verdict.why:
            self._whys.append(verdict.why)
        self._isQuarantined = self._isQuarantined or verdict.isQuarantined
        if verdict.nowhere:
            self._end(Accept(nowhere=True, why=self._why))
        return True

    def _parted(self, verdict: Accept, stage: IContentStage) -> ContentVerdict:
        """
        Some members refuse apart.

        @return: the verdict that is left for the cohort; where none of it accepts any
            longer, a refusal.
        """
        keys = {one.address.key for one in self.members}
        said = {key: verdict.apart[key] for key in keys & verdict.apart.keys()}
        if len(keys) > 1:
            for key, refusal in said.items():
                self._apart.setdefault(key, self._judging.named(stage, refusal))
            said = self._apart
        return verdict if len(said) < len(keys) else next(iter(said.values()))

    def _refused(self, refusal: Refuse) -> None:
        """
        Unless it is lifted: then it is as if the stage had accepted.
        """
        lifting = self._judging.lift(self.members[0], refusal)
        if lifting is None:
            self._end(refusal)
        else:
            self._lifting = lifting.addCallback(self._lifted, refusal)

    def _lifted(self, isLifted: bool, refusal: Refuse) -> None:
        self._lifting = None
        if self.verdict is not None:
            return  # no one waits any longer
        if isLifted:
            self._whys.append(f"lifted: {refusal.why}")
            self.goOn()
        else:
            self._end(refusal)

    @property
    def edits(self) -> tuple[HeaderEdit, ...]:
        """
        How the stages so far have changed the header section.
        """
        return self._marks.edits

    @property
    def _why(self) -> str:
        return "; ".join(self._whys)

    def _end(self, verdict: ContentVerdict) -> None:
        self.verdict = verdict
        self._judging.walked()
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            if not waiter.called:  # one that came before it may have given up this one
                waiter.callback(verdict)


class _Judging:
    """
    One message before the content stages.  No cohort waits for another; what waits
    is the answer of a stage that does not answer at once, and nothing else.

    @ivar isInside: whether its message is being judged, and does not wait for that.
    """

    def __init__(
        self,
        slots: Semaphore,
        message: IMessage,
        envelope: Envelope,
        deferred: Sequence[tuple[Recipient, Hashable]],
        status: Status,
        lift: Callable[[Recipient, Refuse], Deferred[bool] | None],
    ) -> None:
        self.isInside = False
        self.lift = lift
        self._slots = slots
        self._status = status
        self._message = message
        self._envelope = envelope
        self._walks: dict[Hashable, _CohortWalk] = {}
        self._order: list[tuple[_CohortWalk, Recipient]] = []
        for recipient, cohort in deferred:
            walk = self._walks.get(cohort)
            if walk is None:
                walk = self._walks[cohort] = _CohortWalk(self, _pairs(cohort))
            walk.members.append(recipient)
            self._order.append((walk, recipient))
        self._meeting: dict[_Pair, list[_CohortWalk]] = {}
        for walk in self._walks.values():
            for pair in walk.pairs:
                self._meeting.setdefault(pair, []).append(walk)
        self._judgements: dict[_Pair, _Judgement] = {}
        self._walking = len(self._walks)
        self._slot: Deferred[None] | None = None

    def start(self) -> list[Deferred[ContentVerdict]]:
        """
        One Deferred per recipient.
        """
        if not self._meeting:
            return [succeed(ACCEPT) for _ in self._order]
        self._announce()
        if self._slots.enter():
            self._entered(None)
        else:
            self._slot = self._slots.acquire()
            self._slot.addCallbacks(self._entered, lambda gaveUp: None)
        order, self._order = self._order, []
        return [walk.wait(recipient) for walk, recipient in order]

    def _announce(self) -> None:
        """
        Tell the stages that want to know which recipients they may be asked
        about.
        """
        expected: dict[IExpectingStage, list[Recipient]] = {}
        for walk in self._walks.values():
            for stage, _ in walk.pairs:
                if IExpectingStage.providedBy(stage):
                    expected.setdefault(stage, []).extend(walk.members)
        for stage, recipients in expected.items():
            expect: Callable[..., object] = stage.expect  # what others wrote may return anything
            try:
                answer = expect(self._message, self._envelope, list(recipients))
                atOnce(answer, f"{type(stage).__name__}.expect")
            except BaseException:
                self._failed(Failure(), stage, recipients)

    def _entered(self, _: None) -> None:
        self.isInside = True
        for walk in self._walks.values():
            walk.goOn()

    def walked(self) -> None:
        """
        A cohort has its verdict.
        """
        self._walking -= 1
        if self._walking:
            return
        # They know this object: it would be left to the collector of garbage.
        self._walks, self._meeting, self._judgements = {}, {}, {}
        if self.isInside:
            self._slots.release()
        elif self._slot is not None:
            self._slot.cancel()

    def ask(self, pair: _Pair, walk: _CohortWalk) -> ContentVerdict | None:
        """
        The verdict of one stage for one of its keys, asked for once; again only
        where all who asked for it have left.

        @param walk: is told of it, where it is not known yet.
        """
        question = self._judgements.get(pair)
        if question is None:
            question = self._judgements[pair] = _Judgement()
            self._begin(question, pair, walk.edits)
        if question.verdict is None:
            question.walks[walk] = None
        return question.verdict

    def _begin(self, question: _Judgement, pair: _Pair, edits: tuple[HeaderEdit, ...]) -> None:
        """
        @param edits: of the stages before this one; equal for all that meet the pair.
        """
        stage = pair[0]
        isShown = edits and IEditingStage.providedBy(stage)
        walks = [one for one in self._meeting[pair] if not one.isRefused]
        recipients = [recipient for walk in walks for recipient in walk.members]
        answer: ContentVerdict | Deferred[ContentVerdict]
        try:
            message = withEdits(self._message, edits) if isShown else self._message
            answer = awaited(stage.judge(message, self._envelope, list(recipients)))
        except BaseException:
            answer = fail()
        if isinstance(answer, Deferred):
            question.asked = answer.addBoth(self._answered, question, stage, recipients)
        else:
            self._answered(answer, question, stage, recipients)

    def _answered(
        self,
        answer: ContentVerdict | Failure,
        question: _Judgement,
        stage: IContentStage,
        recipients: Sequence[Recipient],
    ) -> None:
        """
        One judgement, for as many as have the same key.
        """
        verdict: ContentVerdict
        if isinstance(answer, (Accept, Refuse)) and _mayEdit(answer, stage):
            verdict = answer
        else:
            failure = answer if isinstance(answer, Failure) else _nonsense(answer)
            verdict = self._failed(failure, stage, recipients)
        use = self._status.useOf(stage)
        happened(self._status, "judgement", {"use": use, "outcome": _outcome(verdict)})
        question.verdict = verdict
        walks, question.walks = question.walks, {}
        for walk in walks:
            walk.heard(verdict)

    def named(self, stage: IContentStage, refusal: Refuse) -> Refuse:
        """
        A refusal that says which stage it is of.
        """
        return refusedBy(type(stage).__name__, refusal, self._status.useOf(stage))

    def leave(self, pair: _Pair, walk: _CohortWalk) -> None:
        """
        A cohort does not wait for a stage any longer; when none does, nor do we.
        """
        question = self._judgements[pair]
        question.walks.pop(walk, None)
        if not question.walks and question.verdict is None and question.asked is not None:
            del self._judgements[pair]
            letGo(question.asked)

    def _failed(
        self, failure: Failure, stage: IContentStage, recipients: Sequence[Recipient]
    ) -> Refuse:
        """
        A stage has raised or answered nonsense, or is not waited for any longer.
        """
        if failure.check(CancelledError):
            _log.warn(
                "{transaction}: {stage} was not waited for any longer, for {names}",
                transaction=self._envelope.id,
                stage=type(stage).__name__,
                names=_names(recipients),
            )
        else:
            _log.raised(
                failure,
                "{transaction}: {stage} failed for {recipients} recipients, {names}: {error}",
                transaction=self._envelope.id,
                stage=type(stage).__name__,
                recipients=len(recipients),
                names=_names(recipients),
            )
        return Refuse(R451_STAGE_FAILED, why=f"{type(stage).__name__} failed")


def _names(recipients: Sequence[Recipient]) -> str:
    """
    Recipients, for the log: the first ones.
    """
    names = ", ".join(f"<{recipient}>" for recipient in recipients[:MAX_NAMES])
    return names if len(recipients) <= MAX_NAMES else f"{names}, …"


def _mayEdit(verdict: ContentVerdict, stage: IContentStage) -> bool:
    """
    Whether it makes no edits, or has been shown those before it.
    """
    if isinstance(verdict, Refuse) or not verdict.marks.edits:
        return True
    return IEditingStage.providedBy(stage)


def _nonsense(answer: ContentVerdict) -> Failure:
    """
    What is no verdict, whatever its type promises.
    """
    if isinstance(answer, Accept):
        return Failure(StageError("it edits the header section, and is no IEditingStage"))
    return Failure(StageError(f"it answered {safe_repr(answer)[:200]}, which is no verdict"))


def _outcome(verdict: ContentVerdict) -> str:
    """
    What a judgement is counted as.
    """
    if isinstance(verdict, Refuse):
        return "refuse" if verdict.reply.isPermanent else "later"
    return "unscanned" if isUnscanned(verdict) else "accept"
