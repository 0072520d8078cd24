"""
Envelope stages, asked in turn about a recipient.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import attrs
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.logger import Logger

from deferrals.deferreds import asDeferred
from deferrals.errors import StageError
from deferrals.interfaces import IEnvelopeStage
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.verdict import (
    Accept,
    Defer,
    EnvelopeVerdict,
    Refuse,
    Route,
)

_log = Logger(namespace="deferrals.stages")


@inlineCallbacks
def askInTurn(
    stages: Sequence[IEnvelopeStage],
    envelope: Envelope,
    recipient: Recipient,
    opinion: EnvelopeVerdict,
) -> Generator[Deferred[EnvelopeVerdict | None], EnvelopeVerdict | None, EnvelopeVerdict]:
    """
    Ask further envelope stages about a recipient that the rules let in.  Each
    is told what the ones before have said (the recipient's route); a refusal
    ends it; the last opinion counts.

    @param recipient: with the route of C{opinion}.
    @return: a Deferred of an envelope verdict with a route, or of a stage's
        failure; may be cancelled.
    """
    for stage in stages:
        judged: Deferred[EnvelopeVerdict | None] = asDeferred(stage.judge, envelope, recipient)
        verdict = yield judged
        if verdict is None:
            continue
        if isinstance(verdict, Refuse):
            return verdict
        if not isinstance(verdict, Accept | Defer):
            raise StageError(f"{type(stage).__name__} answered {verdict!r}, which is no verdict")
        recipient = routed(recipient, verdict.route)
        opinion = attrs.evolve(verdict, route=recipient.route)
    return opinion


def routed(recipient: Recipient, route: Route | None) -> Recipient:
    """
    The recipient under C{route}; as it is, where there is none.
    """
    return recipient if route is None else recipient.routed(route)
