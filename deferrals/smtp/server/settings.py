"""
What is behind a session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from deferrals.interfaces import Work
from deferrals.model.ids import TransactionIds
from deferrals.smtp.server.connectionlimits import ConnectionLimits


@attrs.frozen
class Backend:
    """
    The house behind a session.

    @ivar ids: makes the numbers of transactions.
    @ivar envelope: L{IEnvelopeStage<deferrals.interfaces.IEnvelopeStage>}.
    @ivar content: the judge of L{deferrals.stages.content.judge}: C{cohort} and
        C{judge}.
    @ivar spool: L{ISpool<deferrals.interfaces.ISpool>}.
    @ivar release: called with the L{Work} of a staged message right after its
        final reply was written: from here on it is ours.
    @ivar status: L{Status<deferrals.model.status.Status>}.
    @ivar mixed: L{MixedPolicy<deferrals.smtp.server.mixed.MixedPolicy>}.
    @ivar guard: counts connections and failed passwords.
    @ivar gate: L{Authenticator<deferrals.smtp.server.auth.Authenticator>}: who may log in; L{None}
        where nobody can.
    @ivar binary: whether every delivery takes BODY=BINARYMIME as it is.
    @ivar attempt: instead of C{release}, where delivery comes before the reply
        (S-6): called with the L{Work} of a staged message, and whether those
        who are refused are the sender's again; returns an
        L{Expectation<deferrals.relay.board.Expectation>}.
    @ivar deliverySeconds: how long the reply waits for deliveries then.
    """

    ids: TransactionIds
    envelope: Any
    content: Any
    spool: Any
    release: Callable[[Work], None]
    status: Any
    mixed: Any
    guard: ConnectionLimits = attrs.field(factory=ConnectionLimits)
    gate: Any = None
    binary: bool = False
    attempt: Callable[[Work, bool], Any] | None = None
    deliverySeconds: float = 20.0
