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

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr
from zope.interface import implementer

from deferrals.deferreds import Semaphore, SharedResult, asDeferred, atOnce, errorText
from deferrals.errors import StageError
from deferrals.interfaces import IContentJudge, IContentStage, IExpectingStage, IMessage
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
    Refuse,
    Route,
)
from deferrals.stages.content.scanner import isUnscanned
from deferrals.stages.foreign import seen

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


#: The stages that a recipient meets, each with its key for the recipient.
_Cohort = tuple[tuple[IContentStage, _Key], ...]


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
    """

    def __init__(
        self,
        policies: Mapping[str, Sequence[IContentStage]],
        maxJudging: int,
        hostname: str = "",
        status: Status | None = None,
    ) -> None:
        self._policies = policies
        self._status = status or Status()
        self._hostname = hostname
        self._slots = Semaphore(maxJudging)

    def cohort(self, recipient: Recipient, verdict: EnvelopeVerdict) -> Hashable:
        """
        The recipient's cohort: the stages that it will meet, with the key that
        each has for it.  Nothing, for recipients that the envelope has accepted.

        @raise StageError: a stage has no hashable key for it.
        """
        if not isinstance(verdict, Defer) or recipient.route is None:
            return ()
        return tuple((stage, _key(stage, recipient)) for stage in self._stages(recipient.route))

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
        members = [(recipient, _pairs(cohort)) for recipient, cohort in deferred]
        shown = seen(message, self._hostname)
        return _Judging(self._slots, shown, envelope, members, self._status).start()


def _key(stage: IContentStage, recipient: Recipient) -> _Key:
    """
    @raise StageError: the stage has no hashable key.
    """
    source = f"{type(stage).__name__}.cohort"
    try:
        return _Key(atOnce(stage.cohort(recipient), source))
    except StageError:
        raise
    except BaseException as error:
        raise StageError(f"{source} failed: {errorText(Failure())}") from error


def _pairs(cohort: Hashable) -> _Cohort:
    assert isinstance(cohort, tuple)  # made above
    return cohort


class _Judging:
    """
    One message before the content stages.
    """

    def __init__(
        self,
        slots: Semaphore,
        message: IMessage,
        envelope: Envelope,
        deferred: Sequence[tuple[Recipient, _Cohort]],
        status: Status,
    ) -> None:
        self._slots = slots
        self._status = status
        self._message = message
        self._envelope = envelope
        self._members: dict[_Cohort, list[Recipient]] = {}
        self._order = [cohort for _, cohort in deferred]
        for recipient, cohort in deferred:
            self._members.setdefault(cohort, []).append(recipient)
        self._meeting: dict[tuple[IContentStage, _Key], list[_Cohort]] = {}
        for cohort in self._members:
            for pair in cohort:
                self._meeting.setdefault(pair, []).append(cohort)
        self._refused: set[_Cohort] = set()
        self._asked: dict[tuple[IContentStage, _Key], SharedResult[ContentVerdict]] = {}
        self._walking = 0
        self._inside = False

    def start(self) -> list[Deferred[ContentVerdict]]:
        """
        One Deferred per recipient.
        """
        if not any(self._members):
            return [succeed(ACCEPT) for _ in self._order]
        self._announce()
        slot = SharedResult(self._slots.acquire().addCallback(self._entered))
        walks = {}
        self._walking = len(self._members)
        for cohort in self._members:
            walk = Deferred.fromCoroutine(self._walk(cohort, slot.wait()))
            walk.addBoth(self._walked)
            walks[cohort] = SharedResult(walk)
        return [self._verdict(walks[cohort]) for cohort in self._order]

    def _announce(self) -> None:
        """
        Tell the stages that want to know which recipients they may be asked
        about.
        """
        expected: dict[IExpectingStage, list[Recipient]] = {}
        for cohort, members in self._members.items():
            for stage, _ in cohort:
                if IExpectingStage.providedBy(stage):
                    expected.setdefault(stage, []).extend(members)
        for stage, recipients in expected.items():
            expect: Callable[..., object] = stage.expect  # what others wrote may return anything
            try:
                answer = expect(self._message, self._envelope, list(recipients))
                atOnce(answer, f"{type(stage).__name__}.expect")
            except BaseException:
                self._failed(Failure(), stage, recipients)

    def _entered(self, _: None) -> None:
        self._inside = True

    def _walked(self, result: ContentVerdict | Failure) -> ContentVerdict | Failure:
        self._walking -= 1
        if not self._walking and self._inside:
            self._slots.release()
        return result

    def _verdict(self, walk: SharedResult[ContentVerdict]) -> Deferred[ContentVerdict]:
        """
        A recipient's own view of its cohort's walk.
        """
        walking: Deferred[ContentVerdict] = walk.wait()
        if walking.called:
            return walking

        def late(verdict: Deferred[ContentVerdict]) -> None:
            verdict.callback(Refuse(R451_LATE if self._inside else R452_OVERLOADED))
            walking.cancel()

        verdict: Deferred[ContentVerdict] = Deferred(late)
        walking.addCallbacks(verdict.callback, lambda cancelled: None)
        return verdict

    async def _walk(self, cohort: _Cohort, slot: Deferred[None]) -> ContentVerdict:
        """
        One cohort through its stages: the first refusal stands.
        """
        marks = NO_MARKS
        try:
            await slot
            for stage, key in cohort:
                verdict = await self._ask(stage, key)
                if isinstance(verdict, Refuse):
                    self._refused.add(cohort)
                    return verdict
                marks = marks.plus(verdict.marks)
        except CancelledError:  # no recipient waits for it any longer
            self._refused.add(cohort)
            return Refuse(R451_LATE)
        return Accept(marks) if marks is not NO_MARKS else ACCEPT

    def _ask(self, stage: IContentStage, key: _Key) -> Deferred[ContentVerdict]:
        """
        The verdict of one stage for one of its cohorts, asked for once; again
        only where all who asked for it have left.

        @return: a Deferred, which fails only where it is cancelled.
        """
        asked = self._asked.get((stage, key))
        if asked is None or asked.abandoned:
            recipients = [
                recipient
                for cohort in self._meeting[stage, key]
                if cohort not in self._refused
                for recipient in self._members[cohort]
            ]
            d: Deferred[ContentVerdict] = asDeferred(
                stage.judge, self._message, self._envelope, list(recipients)
            )
            d.addCallback(_checked)
            d.addErrback(self._failed, stage, recipients)
            d.addCallback(self._judged, stage)
            asked = self._asked[stage, key] = SharedResult(d)
        return asked.wait()

    def _judged(self, verdict: ContentVerdict, stage: IContentStage) -> ContentVerdict:
        """
        One judgement, for as many as have the same key.
        """
        use = self._status.useOf(stage)
        happened(self._status, "judgement", {"use": use, "outcome": _outcome(verdict)})
        return verdict

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
            _log.error(
                "{transaction}: {stage} failed for {recipients} recipients, {names}: {error}",
                transaction=self._envelope.id,
                stage=type(stage).__name__,
                recipients=len(recipients),
                names=_names(recipients),
                error=errorText(failure),
            )
        return Refuse(R451_STAGE_FAILED)


def _names(recipients: Sequence[Recipient]) -> str:
    """
    Recipients, for the log: the first ones.
    """
    names = ", ".join(f"<{recipient}>" for recipient in recipients[:MAX_NAMES])
    return names if len(recipients) <= MAX_NAMES else f"{names}, …"


def _checked(verdict: ContentVerdict) -> ContentVerdict:
    """
    @raise StageError: it is no verdict, whatever its type promises.
    """
    if isinstance(verdict, (Accept, Refuse)):
        return verdict
    raise StageError(f"it answered {safe_repr(verdict)[:200]}, which is no verdict")


def _outcome(verdict: ContentVerdict) -> str:
    """
    What a judgement is counted as.
    """
    if isinstance(verdict, Refuse):
        return "refuse" if verdict.reply.isPermanent else "later"
    return "unscanned" if isUnscanned(verdict) else "accept"
