"""
Envelope stages, asked in turn about a recipient.

On an error: a stage that raises, or answers with something that is no verdict,
refuses temporarily for that recipient (451 4.3.0), and the failure is logged with
the transaction and the recipient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr

from deferrals.deferreds import awaited
from deferrals.errors import StageError
from deferrals.interfaces import IEnvelopeStage, MaybeAwaitable
from deferrals.logger import Logger
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R451_LOCAL_ERROR
from deferrals.model.verdict import (
    Accept,
    Defer,
    EnvelopeAnswer,
    EnvelopeVerdict,
    Expand,
    Refuse,
    Route,
    refusedBy,
)

_log = Logger(namespace="deferrals.stages")

_VERDICTS = (Accept, Refuse, Defer, Expand)

#: Says of a refusal whether it is lifted: the recipient has let this sender in.
Pardon: TypeAlias = "Callable[[Envelope, Recipient, Refuse], MaybeAwaitable[bool]]"


class Pardons:
    """
    What lifts refusals, and what a configuration calls the stages that refuse.

    @param lifts: says whether one is lifted.
    @param useOf: finds what a stage is called.
    """

    def __init__(self, lifts: Pardon, useOf: Callable[[object], str]) -> None:
        self._lifts = lifts
        self.useOf = useOf

    async def lift(self, envelope: Envelope, recipient: Recipient, refusal: Refuse) -> bool:
        """
        @return: whether it is as if the stage had said nothing.
        """
        answer = awaited(self._lifts(envelope, recipient, refusal))
        return await answer if isinstance(answer, Deferred) else answer


#: Nothing is lifted.
NO_PARDONS = Pardons(lambda *_: False, lambda stage: type(stage).__name__)


#: What the opinion so far, and what a stage says of a recipient, come to.
Together = Callable[[EnvelopeVerdict, Accept | Defer, Recipient], Accept | Defer]


def lastCounts(
    opinion: EnvelopeVerdict, verdict: Accept | Defer, recipient: Recipient
) -> Accept | Defer:
    """
    See L{askInTurn}.
    """
    return verdict


async def askInTurn(
    stages: Sequence[IEnvelopeStage],
    envelope: Envelope,
    recipient: Recipient,
    opinion: EnvelopeVerdict,
    together: Together = lastCounts,
    pardons: Pardons = NO_PARDONS,
) -> EnvelopeAnswer:
    """
    Ask further envelope stages about a recipient.  Each is told what the ones
    before have said (the recipient's route); a refusal ends it, and so do an
    expansion and what throws the message away; of the others the last one counts,
    unless C{together} says otherwise.

    What says that the recipient is an alias does not count where it is a member of
    that alias: it keeps a copy (L{Expand}).

    @param recipient: with the route of C{opinion}.
    @param pardons: lift refusals of senders that the recipient has let in.
    @return: an envelope verdict.
    @raise CancelledError: it is not waited for any longer.
    """
    for stage in stages:
        verdict = await _ask(stage, envelope, recipient)
        if verdict is None:
            continue
        if isinstance(verdict, Refuse):
            verdict = refusedBy(type(stage).__name__, verdict, pardons.useOf(stage))
            if await pardons.lift(envelope, recipient, verdict):
                continue
            return verdict
        if isinstance(verdict, Expand):
            if not _keeps(recipient, verdict):
                return verdict
            recipient = routed(recipient, verdict.route)
            known = Defer(why=opinion.why) if isinstance(opinion, Refuse) else opinion
            opinion = attrs.evolve(known, route=recipient.route)
            continue
        known = together(opinion, verdict, recipient)
        recipient = routed(recipient, verdict.route)
        if isinstance(verdict, Accept) and verdict.nowhere:
            return attrs.evolve(verdict, route=recipient.route)
        opinion = attrs.evolve(known, route=recipient.route)
    return opinion


async def _ask(
    stage: IEnvelopeStage, envelope: Envelope, recipient: Recipient
) -> EnvelopeAnswer | None:
    try:
        answer = awaited(stage.judgeRecipient(envelope, recipient))
        return _checked(await answer if isinstance(answer, Deferred) else answer)
    except CancelledError:
        _log.warn(
            "{transaction}: {stage} was not waited for any longer, for <{recipient}>",
            transaction=envelope.id,
            stage=type(stage).__name__,
            recipient=str(recipient),
        )
        raise
    except (Exception, SystemExit):  # a stage ends no process
        _log.raised(
            Failure(),
            "{transaction}: {stage} failed for <{recipient}>: {error}",
            transaction=envelope.id,
            stage=type(stage).__name__,
            recipient=str(recipient),
        )
        return Refuse(R451_LOCAL_ERROR, why=f"{type(stage).__name__} failed")


def _checked(verdict: EnvelopeAnswer | None) -> EnvelopeAnswer | None:
    """
    @raise StageError: it is no verdict, whatever its type promises.
    """
    if verdict is None or isinstance(verdict, _VERDICTS):
        return verdict
    raise StageError(f"it answered {safe_repr(verdict)[:200]}, which is no verdict")


def _keeps(recipient: Recipient, found: Expand) -> bool:
    """
    Whether it has been expanded already, and is a member of itself.
    """
    key = recipient.address.key
    if not recipient.aliases or recipient.aliases[-1].key != key:
        return False
    return any(member.key == key for member in found.members)


def routed(recipient: Recipient, route: Route | None) -> Recipient:
    """
    The recipient under C{route}; as it is, where there is none.
    """
    return recipient if route is None else recipient.routed(route)
