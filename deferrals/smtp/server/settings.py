"""
What stands behind a session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import attrs
from twisted.internet.defer import Deferred

from deferrals.interfaces import (
    IAuthenticator,
    IContentJudge,
    IEnvelopeStage,
    IMessage,
    ISenderStage,
    ISpool,
    ITransactionObserver,
    Work,
)
from deferrals.model.completion import Submitter
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.ids import TransactionIds
from deferrals.model.status import Status
from deferrals.model.verdict import Outcome, Refuse
from deferrals.smtp.server.beforehand import Foresee
from deferrals.smtp.server.connectionlimits import ConnectionLimits
from deferrals.smtp.server.mixed import MixedPolicy

#: Is told of refusals: see L{Backend}.
Refused: TypeAlias = "Callable[[Envelope, Recipient, str, Refuse, IMessage | None], None]"


@attrs.frozen(kw_only=True)
class Backend:
    """
    What stands behind a session: stages, spool, and what all sessions share.

    @ivar ids: makes the numbers of transactions.
    @ivar senders: decide at MAIL FROM, in turn.
    @ivar observers: are told how transactions end.
    @ivar envelope: decides at RCPT TO.
    @ivar content: decides by the content.
    @ivar spool: makes messages durable.
    @ivar release: called with the L{Work} of a staged message right after its
        final reply was written: from here on it is ours.
    @ivar weigh: called with each message that is complete, and its envelope;
        fires with the message, or fails with
        L{PeerError<deferrals.errors.PeerError>}, whose reply refuses it.
    @ivar foresee: called with each message that is complete, its envelope, and the
        recipients that are in; gives the replies of those that can never be delivered,
        by their position.  C{None} where no delivery can know that.
    @ivar status: where events are counted.
    @ivar mixed: what a plain sender gets when its recipients differ.
    @ivar connectionLimits: counts connections and failed passwords.
    @ivar authenticator: who may log in; C{None} where no client can.
    @ivar findName: looks for the name that a client's address has in DNS: fires with
        it, or with empty text, and never fails; C{None} where it is not asked.
    @ivar submitter: the user who has logged in, as the author of a message on a
        submission listener; C{None} where there is none.
    @ivar refused: is told of each recipient that is refused: the transaction's envelope,
        the recipient, C{"envelope"} or C{"content"}, the refusal, and the message, once
        there is one.  It does not wait, and does not fail.
    @ivar binary: whether every delivery takes BODY=BINARYMIME as it is.
    @ivar attempt: instead of C{release}, where delivery comes before the reply
        (S-6): called with the L{Work} of a staged message, and whether the
        client keeps the recipients that are refused.  Returns a Deferred that
        fires with the outcomes that are known, by C{seq}, when there is nothing
        more to wait for, or when it is cancelled.
    """

    ids: TransactionIds
    senders: Sequence[ISenderStage] = ()
    observers: Sequence[ITransactionObserver] = ()
    envelope: IEnvelopeStage
    content: IContentJudge
    spool: ISpool
    release: Callable[[Work], None]
    weigh: Callable[[IMessage, Envelope], Deferred[IMessage]] | None = None
    foresee: Foresee | None = None
    status: Status
    mixed: MixedPolicy
    connectionLimits: ConnectionLimits
    authenticator: IAuthenticator | None = None
    findName: Callable[[str], Deferred[str]] | None = None
    submitter: Callable[[Envelope], Submitter | None] | None = None
    refused: Refused | None = None
    binary: bool = False
    attempt: Callable[[Work, bool], Deferred[dict[int, Outcome]]] | None = None
