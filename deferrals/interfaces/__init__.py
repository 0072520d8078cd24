"""
The points at which C{deferrals} is extended.

A stage is given values and returns verdicts.  It never sees a protocol or a
transport and never writes a reply.  What its author may rely on:

  - All calls are made in the reactor's thread.  C{IMessage.open()}, and what it
    returns, may be used in another one.
  - C{judgeRecipient} is called once for each RCPT TO, and for several of one
    transaction at once where they come pipelined; C{judge} at most once for each
    message and cohort; C{deliver} only after the final reply, again after
    C{Retry}, and again after a crash.
  - One transaction has one L{Envelope<deferrals.model.envelope.Envelope>} object
    in all calls before its final reply.  It can be hashed and weakly referenced:
    a C{WeakKeyDictionary} holds what a stage learns of a transaction.
  - C{judge}, C{judgeRecipient}, C{judgeSender}, C{deliver} and the function of
    C{shared} may return a value, a Deferred or a coroutine.  C{cohort},
    C{destination}, C{refusal}, C{expect}, C{build} and C{ended} answer at once; a
    coroutine from them is an error.
  - What takes too long, or is not waited for any longer because the sender has
    gone, is cancelled: C{CancelledError} is raised where a coroutine awaits, and
    C{finally} runs.
  - A stage that raises, is late or answers nonsense refuses for now, only for the
    recipients that it was asked about.  It is logged with the transaction.
  - Stages are compared by identity, and can be hashed.
  - The marks of one recipient's copy never show in another's.
  - Interfaces that others implement never get another method; new ones come as
    new interfaces, which a stage may provide besides.

The interfaces that are called internal here belong to the server's own parts.
"""

from __future__ import annotations

from deferrals.interfaces.auth import IAuthenticator as IAuthenticator
from deferrals.interfaces.auth import IScramChecker, IScramCredentials
from deferrals.interfaces.auth import IScramShapes as IScramShapes
from deferrals.interfaces.message import IBodyWriter, IMessage, MaybeAwaitable
from deferrals.interfaces.refusals import IRefusalStore as IRefusalStore
from deferrals.interfaces.services import ILimits, INextHops, IServices
from deferrals.interfaces.services import INotes as INotes
from deferrals.interfaces.services import IReactor as IReactor
from deferrals.interfaces.services import ISealer as ISealer
from deferrals.interfaces.services import ISigner as ISigner
from deferrals.interfaces.spool import IQueue, ISpool, Work
from deferrals.interfaces.spool import MailKind as MailKind
from deferrals.interfaces.spool import Turn as Turn
from deferrals.interfaces.stages import (
    IAskableDelivery,
    IBinaryDelivery,
    IContentStage,
    IDeliveryStage,
    IEditingStage,
    IEnvelopeStage,
    IExpectingStage,
    IForeseeingDelivery,
    IForeseeingMessageDelivery,
    ILocalDelivery,
    INamedPlugin,
    IOnwardDelivery,
    IOutwardPlugin,
    IReportingDelivery,
    ISenderStage,
    ISharingDelivery,
    IStagePlugin,
    ITablePlugin,
    ITransactionObserver,
)
from deferrals.interfaces.stages import IContentJudge as IContentJudge
from deferrals.interfaces.stages import IMarkedDelivery as IMarkedDelivery
from deferrals.interfaces.tables import ITable

__all__ = [
    "IAskableDelivery",
    "IBinaryDelivery",
    "IBodyWriter",
    "IContentStage",
    "IDeliveryStage",
    "IEditingStage",
    "IEnvelopeStage",
    "IExpectingStage",
    "IForeseeingDelivery",
    "IForeseeingMessageDelivery",
    "ILimits",
    "ILocalDelivery",
    "IMessage",
    "INamedPlugin",
    "INextHops",
    "IOnwardDelivery",
    "IOutwardPlugin",
    "IQueue",
    "IReportingDelivery",
    "IScramChecker",
    "IScramCredentials",
    "ISenderStage",
    "IServices",
    "ISharingDelivery",
    "ISpool",
    "IStagePlugin",
    "ITable",
    "ITablePlugin",
    "ITransactionObserver",
    "MaybeAwaitable",
    "Work",
]
