"""
The stages as one: envelope stages asked in turn about a recipient, content
stages as a chain of Deferreds per cohort.

A policy is a list of content stages.  Two recipients are one I{cohort} when
they meet the same stages and each of these stages treats them alike; so the
names of policies do not matter, their effect does.  Each stage is asked once
per message and key of its own, however many cohorts have that key in common.

On an error: a stage that raises, or answers with something that is no verdict,
refuses temporarily for the recipients concerned (451 4.3.0), and the failure is
logged with the transaction.  Nothing here ever fails towards the session.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.deferreds import Semaphore, SharedResult, asDeferred, errorText
from deferrals.errors import StageError
from deferrals.interfaces import IContentJudge, IContentStage, IExpectingStage, IMessage
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R451_LATE, R451_STAGE_FAILED, R452_OVERLOADED
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

_log = Logger(namespace="deferrals.stages")

_T = TypeVar("_T")

#: The stages that a recipient will meet, each with its key for it.
_Cohort: TypeAlias = tuple[tuple[IContentStage, Hashable], ...]


@implementer(IContentJudge)
class ContentJudge:
    """
    The content stage of all policies.

    @param policies: the content stages of each policy, by its name.  Stages
        with equal settings should be one object: that makes their recipients
        one cohort.
    @param maxJudging: how many messages may be judged at once; the next ones
        wait inside their own deadline.
    """

    def __init__(self, policies: Mapping[str, Sequence[IContentStage]], maxJudging: int) -> None:
        self._policies = policies
        self._slots = Semaphore(maxJudging)

    def cohort(self, recipient: Recipient, verdict: EnvelopeVerdict) -> _Cohort:
        """
        The recipient's cohort: the stages that it will meet, with the key that
        each has for it.  Nothing, for those whom the envelope has accepted.

        @raise StageError: a stage has no hashable key for it.
        """
        if not isinstance(verdict, Defer) or recipient.route is None:
            return ()
        cohort = tuple((stage, stage.cohort(recipient)) for stage in self._stages(recipient.route))
        hash(cohort)
        return cohort

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
        return _Judging(self._slots, message, envelope, deferred).start()


class _Judging:
    """
    One message before the content stages.
    """

    def __init__(
        self,
        slots: Semaphore,
        message: IMessage,
        envelope: Envelope,
        deferred: Sequence[tuple[Recipient, Hashable]],
    ) -> None:
        self._slots = slots
        self._message = message
        self._envelope = envelope
        self._members: dict[_Cohort, list[Recipient]] = {}
        self._order = [_asCohort(cohort) for _, cohort in deferred]
        for (recipient, _), cohort in zip(deferred, self._order, strict=True):
            self._members.setdefault(cohort, []).append(recipient)
        self._meeting: dict[tuple[IContentStage, Hashable], list[_Cohort]] = {}
        for cohort in self._members:
            for pair in cohort:
                self._meeting.setdefault(pair, []).append(cohort)
        self._refused: set[_Cohort] = set()
        self._asked: dict[tuple[IContentStage, Hashable], SharedResult] = {}
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
            walks[cohort] = SharedResult(self._walk(cohort, slot.wait()).addBoth(self._walked))
        return [self._verdict(walks[cohort]) for cohort in self._order]

    def _announce(self) -> None:
        """
        Tell the stages that want to know about whom they may be asked.
        """
        expected: dict[IExpectingStage, list[Recipient]] = {}
        for cohort, members in self._members.items():
            for stage, _ in cohort:
                if IExpectingStage.providedBy(stage):
                    expected.setdefault(stage, []).extend(members)
        for stage, recipients in expected.items():
            try:
                stage.expect(self._message, self._envelope, recipients)
            except Exception:
                self._failed(Failure(), stage, len(recipients))

    def _entered(self, _: None) -> None:
        self._inside = True

    def _walked(self, result: _T) -> _T:
        self._walking -= 1
        if not self._walking and self._inside:
            self._slots.release()
        return result

    def _verdict(self, walk: SharedResult) -> Deferred[ContentVerdict]:
        """
        A recipient's own view of its cohort's walk.
        """
        walking = walk.wait()
        if walking.called:
            return walking

        def late(verdict: Deferred[ContentVerdict]) -> None:
            refuse = Refuse(R451_LATE if self._inside else R452_OVERLOADED)
            walking.cancel()
            verdict.callback(refuse)

        verdict: Deferred[ContentVerdict] = Deferred(late)
        walking.addCallbacks(verdict.callback, lambda cancelled: None)
        return verdict

    @inlineCallbacks
    def _walk(
        self, cohort: _Cohort, slot: Deferred[None]
    ) -> Generator[Deferred[None] | Deferred[ContentVerdict], ContentVerdict, ContentVerdict]:
        """
        One cohort through its stages: the first refusal stands.
        """
        yield slot
        marks = NO_MARKS
        for stage, key in cohort:
            try:
                verdict = yield self._ask(stage, key)
            except Exception:
                verdict = Refuse(R451_STAGE_FAILED)
            if isinstance(verdict, Refuse):
                self._refused.add(cohort)
                return verdict
            marks = marks.plus(verdict.marks)
        return Accept(marks) if marks is not NO_MARKS else ACCEPT

    def _ask(self, stage: IContentStage, key: Hashable) -> Deferred[ContentVerdict]:
        """
        The verdict of one stage for one of its cohorts, asked for once; again
        only where all who asked for it have left.
        """
        asked = self._asked.get((stage, key))
        if asked is None or asked.abandoned:
            recipients = [
                recipient
                for cohort in self._meeting[stage, key]
                if cohort not in self._refused
                for recipient in self._members[cohort]
            ]
            judged: Deferred[ContentVerdict] = asDeferred(
                stage.judge, self._message, self._envelope, recipients
            )
            d = judged.addCallback(_checked, stage)
            d.addErrback(self._failed, stage, len(recipients))
            asked = self._asked[stage, key] = SharedResult(d)
        return asked.wait()

    def _failed(self, failure: Failure, stage: IContentStage, recipients: int) -> Failure:
        if failure.check(CancelledError):
            _log.warn(
                "{transaction}: {stage} was not waited for any longer",
                transaction=self._envelope.id,
                stage=type(stage).__name__,
            )
            return failure
        _log.error(
            "{transaction}: {stage} failed for {recipients} recipients: {error}",
            transaction=self._envelope.id,
            stage=type(stage).__name__,
            recipients=recipients,
            error=errorText(failure),
        )
        return failure


def _asCohort(key: Hashable) -> _Cohort:
    assert isinstance(key, tuple)
    return key


def _checked(verdict: ContentVerdict, stage: IContentStage) -> ContentVerdict:
    if isinstance(verdict, Accept):
        return verdict
    if isinstance(verdict, Refuse) and verdict.reply.code >= 400:
        return verdict
    raise StageError(f"{type(stage).__name__} answered {verdict!r}, which is no verdict")
