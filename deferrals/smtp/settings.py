"""
What a session is given: its limits, its listener's choices, and the house
behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from deferrals.model.delivery import Work
from deferrals.model.ids import TransactionIds
from deferrals.model.mixed import Mixed


@attrs.frozen
class Limits:
    """
    What one client may ask for.

    @ivar messageOctets: SIZE (RFC 1870); a longer message is 552 5.3.4.
    @ivar headerOctets: a longer header section is 552 5.3.4.
    @ivar recipients: per message; more are 452 4.5.3.
    @ivar extensionRecipients: the same, under DEFERRALS or PRDR (P-13).
    @ivar hops: Received fields; more are a loop, 554 5.4.6.
    @ivar errors: 5xx replies per session, before it is closed with 421.
    @ivar commandSeconds: the longest silence between commands
        (RFC 5321 §4.5.3.2.7).
    @ivar dataSeconds: the longest silence in the data.
    @ivar envelopeSeconds: how long an envelope stage may think.
    @ivar replyDeadlineSeconds: the longest silence after the data, and between
        two replies there; less than a minute (D-25).
    @ivar consolidationSeconds: how long 353 is held back in the hope of a
        unanimous answer (D-9, P-4, P-5).
    """

    messageOctets: int = 50 * 1024 * 1024
    headerOctets: int = 256 * 1024
    recipients: int = 1000
    extensionRecipients: int = 1000
    hops: int = 50
    errors: int = 20
    commandSeconds: float = 300.0
    dataSeconds: float = 300.0
    envelopeSeconds: float = 30.0
    replyDeadlineSeconds: float = 50.0
    consolidationSeconds: float = 2.0


@attrs.frozen
class ListenerSettings:
    """
    @ivar name: for the log.
    @ivar hostname: how the server introduces itself.
    @ivar protocol: C{"smtp"}, C{"submission"} or C{"lmtp"}.
    @ivar mixed: what a plain sender gets when its recipients differ.
    @ivar bareNewlines: C{"refuse"} or C{"normalise"}.
    """

    name: str
    hostname: str
    protocol: str = "smtp"
    mixed: Mixed = Mixed.SPLIT
    bareNewlines: str = "refuse"
    limits: Limits = Limits()


@attrs.frozen
class Intake:
    """
    The house behind a session.

    @ivar ids: makes the numbers of transactions.
    @ivar envelope: L{IEnvelopeStage<deferrals.interfaces.IEnvelopeStage>}.
    @ivar content: the judge of L{deferrals.stages.chain}: C{cohort} and
        C{judge}.
    @ivar spool: L{ISpool<deferrals.interfaces.ISpool>}.
    @ivar release: called with the L{Work} of a staged message right after its
        final reply was written: from here on it is ours.
    @ivar status: L{Status<deferrals.status.Status>}.
    @ivar mixed: L{MixedRung<deferrals.smtp.mixed.MixedRung>}.
    """

    ids: TransactionIds
    envelope: Any
    content: Any
    spool: Any
    release: Callable[[Work], None]
    status: Any
    mixed: Any
