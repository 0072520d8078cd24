"""
Envelope stages, asked in turn about a recipient.

On an error: a stage that raises, or answers with something that is no verdict,
refuses temporarily for that recipient (451 4.3.0), and the failure is logged with
the transaction and the recipient.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr

from deferrals.deferreds import awaited
from deferrals.errors import StageError
from deferrals.interfaces import IEnvelopeStage
from deferrals.logger import Logger
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R451_LOCAL_ERROR
from deferrals.model.verdict import Accept, Defer, EnvelopeVerdict, Refuse, Route, refusedBy

_log = Logger(namespace="deferrals.stages")


async def askInTurn(
    stages: Sequence[IEnvelopeStage],
    envelope: Envelope,
    recipient: Recipient,
    opinion: EnvelopeVerdict,
) -> EnvelopeVerdict:
    """
    Ask further envelope stages about a recipient.  Each is told what the ones
    before have said (the recipient's route); a refusal ends it; the last opinion
    counts.

    @param recipient: with the route of C{opinion}.
    @return: an envelope verdict.
    @raise CancelledError: it is not waited for any longer.
    """
    for stage in stages:
        verdict = await _ask(stage, envelope, recipient)
        if verdict is None:
            continue
        if isinstance(verdict, Refuse):
            return refusedBy(type(stage).__name__, verdict)
        recipient = routed(recipient, verdict.route)
        opinion = attrs.evolve(verdict, route=recipient.route)
    return opinion


async def _ask(
    stage: IEnvelopeStage, envelope: Envelope, recipient: Recipient
) -> EnvelopeVerdict | None:
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


def _checked(verdict: EnvelopeVerdict | None) -> EnvelopeVerdict | None:
    """
    @raise StageError: it is no verdict, whatever its type promises.
    """
    if verdict is None or isinstance(verdict, (Accept, Refuse, Defer)):
        return verdict
    raise StageError(f"it answered {safe_repr(verdict)[:200]}, which is no verdict")


def routed(recipient: Recipient, route: Route | None) -> Recipient:
    """
    The recipient under C{route}; as it is, where there is none.
    """
    return recipient if route is None else recipient.routed(route)
