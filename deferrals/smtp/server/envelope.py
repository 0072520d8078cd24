"""
The envelope: MAIL and RCPT, and the transaction that they make.

Traps of the base class, and how they are dealt with:

  - I{A late answer lands in the next transaction.}  An answer belongs to the
    L{Transaction} it was asked for; RSET and EHLO wait behind it, a lost
    connection cancels it.
  - I{Parameters are parsed and dropped.}  L{deferrals.model.extensions}.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr

from deferrals.deferreds import (
    CancelledError,
    TimeoutError,
    awaited,
    errorText,
    timeOfDay,
    withDeadline,
)
from deferrals.errors import PeerError, StageError
from deferrals.logger import Logger
from deferrals.model.envelope import Envelope, Form, Parameters, Recipient
from deferrals.model.extensions import parseMail, parseRcpt
from deferrals.model.reply import (
    R250_SENDER,
    R421_TOO_MANY_MESSAGES,
    R451_LOCAL_ERROR,
    R452_TOO_MANY_RECIPIENTS,
    R552_TOO_LARGE,
    Reply,
)
from deferrals.model.transaction import Phase, Transaction
from deferrals.model.verdict import Accept, Defer, EnvelopeVerdict, Refuse
from deferrals.smtp.server import maillog
from deferrals.smtp.server.base import SessionBase
from deferrals.smtp.server.observers import tellEnd
from deferrals.smtp.server.replyqueue import Slot
from deferrals.smtp.server.senders import refusalOf

_log = Logger(namespace="deferrals.session")

_EXTENDED = (Form.DEFERRALS, Form.PRDR)

_TOO_MANY = Refuse(R452_TOO_MANY_RECIPIENTS)


@attrs.frozen
class _Judged:
    """
    A recipient that the envelope has judged.

    @ivar began: when it was named.
    @ivar cohort: its cohort, unless it is refused.
    """

    recipient: Recipient
    verdict: EnvelopeVerdict
    began: float
    cohort: Hashable = None

    @property
    def isIn(self) -> bool:
        """
        Whether the envelope lets it in.
        """
        return not isinstance(self.verdict, Refuse)


@attrs.define(eq=False)
class _RecipientSlot(Slot):
    """
    The reply to one RCPT TO.

    @ivar judged: what the envelope says of the recipient; C{None} while that is
        pending.
    """

    judged: _Judged | None = None


class Envelopes(SessionBase):
    """
    See the module.
    """

    _sentAwayBefore: frozenset[str] = frozenset()
    _transactions = 0
    _refused = 0
    _pardoned = 0
    _idleSince = 0.0

    def latest(self) -> float:
        """
        Without a transaction a client may not stay for ever, whatever it says.
        """
        if self.state.transaction is not None:
            return super().latest()
        return self._idleSince + self._limits.idle_timeout

    def do_MAIL(self, rest: str) -> Deferred[None] | None:
        """
        RFC 5321 §4.1.1.2; D-1, P-1.
        """
        sender, parameters = parseMail(rest, self.state.offered, self._settings.strict)
        if parameters.size is not None and parameters.size > self._limits.message_size:
            self.overLimit("message_size")
            raise PeerError("too large", R552_TOO_LARGE)
        self._transactions += 1
        if self._transactions > self._limits.transactions:
            self.overLimit("transactions")
            self.say(R421_TOO_MANY_MESSAGES)
            self.close()
            return None
        self._backend = self.latestBackend()
        parameters, client = self._asserted(parameters), self.state.clientOf(parameters)
        now = timeOfDay(self._clock)
        ids, listener = self._backend.ids, self._settings.name
        envelope = Envelope(ids.next(now), now, client, sender, parameters, listener, ids.spool)
        self.state.transaction = transaction = self._newTransaction(envelope)
        if self._backend.senders:
            return self._askSenders(transaction)
        return self._senderJudged(None, transaction)

    def _newTransaction(self, envelope: Envelope) -> Transaction:
        form = self._answerForm(envelope.parameters)
        isExtended = form in _EXTENDED
        limit = self._limits.extension_recipients if isExtended else self._limits.recipients  # P-13
        transaction = Transaction(envelope, form, limit, self._clock.seconds())
        transaction.sentAwayBefore = self._sentAwayBefore
        return transaction

    def _askSenders(self, transaction: Transaction) -> Deferred[None]:
        """
        Ask the stages that decide about senders.  The client waits.
        """
        envelope, seconds = transaction.envelope, self._limits.envelope_timeout
        d = withDeadline(self._clock, seconds, refusalOf, self._backend.senders, envelope)
        d.addErrback(self._notJudged, envelope, "the sender")
        return d.addCallback(self._senderJudged, transaction)

    def _senderJudged(
        self, refusal: Refuse | None, transaction: Transaction
    ) -> Deferred[None] | None:
        if self._closing or self.state.transaction is not transaction:
            return None  # nothing can be answered any longer
        if refusal is not None:
            self.state.transaction = None
            self._transactionEnded(transaction, "sender", 0, refusal.reply)
            self.reply(refusal.reply)
            return None
        recalled = self._backend.mixed.begin(transaction)
        if recalled is not None:
            return recalled.addCallback(self._mayName, transaction)
        self._mayName(None, transaction)
        return None

    def _mayName(self, _: None, transaction: Transaction) -> None:
        if self._closing or self.state.transaction is not transaction:
            return
        self._refused = 0
        self._outcome = "mail"
        self.state.phase = Phase.SENDER
        self.reply(R250_SENDER)

    def _transactionEnded(
        self, transaction: Transaction, rung: str, size: int, end: Reply | str
    ) -> None:
        """
        A transaction is over before its data was.

        @param end: the reply that ended it, or why there was none.
        """
        self._idleSince = self._clock.seconds()
        maillog.transactionEnd(
            self._backend.status,
            transaction.envelope,
            rung,
            len(transaction.candidates),
            0,
            len(transaction.sentAway),
            size,
            str(end),
            self._clock.seconds() - transaction.began,
        )
        final = end if isinstance(end, Reply) else None
        tellEnd(self._backend.observers, transaction.envelope, transaction.answers, final)

    def _answerForm(self, parameters: Parameters) -> Form:
        """
        How this transaction's sender can be told.  Courier understands EXDATA
        without asking for it: a client that was offered it is told so (X-3).
        """
        if self.state.isLMTP:
            return Form.LMTP
        if parameters.form is Form.PLAIN and Form.EXDATA.keyword in self.state.offered:
            return Form.EXDATA
        return parameters.form

    def _asserted(self, parameters: Parameters) -> Parameters:
        """
        AUTH= is believed only where it names the user that the client has
        authenticated as (RFC 4954 §5).
        """
        if parameters.auth in (None, "<>", self.state.user):
            return parameters
        return attrs.evolve(parameters, auth="<>")

    def do_RCPT(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.3.  Judged at once; answered in order.
        """
        transaction = self.state.transaction
        assert transaction is not None
        smtputf8 = transaction.envelope.parameters.smtputf8
        recipient = parseRcpt(rest, self.state.offered, smtputf8, self._settings.strict)
        began = self._clock.seconds()
        verdict = self._askStages(transaction, recipient)
        isNext = not (self.replies.slots or transaction.isUnled)
        if isNext and not isinstance(verdict, Deferred):
            return self.reply(self._admit(self._judge(verdict, recipient, began)))
        slot = _RecipientSlot()
        self.replies.enqueue(slot)
        if not isinstance(verdict, Deferred):
            return self._judged(verdict, slot, recipient, began)
        self.setTimeout(None)
        slot.pending = verdict.addCallback(self._judged, slot, recipient, began)

    def _askStages(
        self, transaction: Transaction, recipient: Recipient
    ) -> EnvelopeVerdict | Deferred[EnvelopeVerdict]:
        """
        What the envelope stages say of a recipient: at once, or within their
        deadline.  Whatever they do, there is a verdict.
        """
        if transaction.isFull:
            return _TOO_MANY
        envelope = transaction.envelope
        try:
            answer = awaited(self._backend.envelope.judgeRecipient(envelope, recipient))
            if not isinstance(answer, Deferred):
                return _checked(answer)
        except BaseException:
            return self._notJudged(Failure(), envelope, f"<{recipient}>")
        late = withDeadline(self._clock, self._limits.envelope_timeout, lambda: answer)
        d: Deferred[EnvelopeVerdict] = late.addCallback(_checked)
        return d.addErrback(self._notJudged, envelope, f"<{recipient}>")

    def _notJudged(self, failure: Failure, envelope: Envelope, about: str) -> Refuse:
        """
        A stage has raised, is late or has answered nonsense.
        """
        if failure.check(TimeoutError):
            maillog.late(self._backend.status, envelope, "envelope", about)
        elif not failure.check(CancelledError):
            _log.error(
                "{transaction}: envelope stage failed for {about}: {error}",
                transaction=envelope.id,
                about=about,
                error=errorText(failure),
            )
        return Refuse(R451_LOCAL_ERROR)

    def _judged(
        self, verdict: EnvelopeVerdict, slot: _RecipientSlot, recipient: Recipient, began: float
    ) -> None:
        if self._closing:
            return  # cancelled: the client is gone
        slot.judged = judged = self._judge(verdict, recipient, began)
        self.ready(slot, lambda: self._admit(judged))

    def _judge(self, verdict: EnvelopeVerdict, recipient: Recipient, began: float) -> _Judged:
        """
        What the envelope says of a recipient, and whose cohort it is in.
        """
        assert self.state.transaction is not None
        if isinstance(verdict, Refuse):
            return _Judged(recipient, verdict, began)
        if verdict.route is not None:
            recipient = recipient.routed(verdict.route)
        try:
            cohort = self._backend.content.cohort(recipient, verdict)
        except Exception:
            refusal = self._notJudged(Failure(), self.state.transaction.envelope, f"<{recipient}>")
            return _Judged(recipient, refusal, began)
        return _Judged(recipient, verdict, began, cohort)

    def maySettle(self, slots: Sequence[Slot]) -> bool:
        """
        Where recipients may come apart, those that came in one piece are
        answered together: they decide together who is let in.
        """
        transaction = self.state.transaction
        if transaction is None or not transaction.isUnled:
            return True
        if any(slot.settle is None for slot in slots):
            return False
        judged = [slot.judged for slot in slots if isinstance(slot, _RecipientSlot)]
        found = [one for one in judged if one is not None and one.isIn]
        transaction.lead([(one.recipient, one.cohort) for one in found])
        return True

    def _admit(self, judged: _Judged) -> Reply:
        """
        All recipients before this one have been answered.
        """
        transaction = self.state.transaction
        assert transaction is not None
        verdict = judged.verdict
        before = len(transaction.sentAway)
        reply = transaction.admit(judged.recipient, verdict, judged.cohort)
        if len(transaction.sentAway) > before:
            self._backend.status.count("mixed", "recipients sent away")
        if reply is R452_TOO_MANY_RECIPIENTS:
            self._tellFull(transaction)
        if transaction.candidates:
            self.state.phase = Phase.RECIPIENTS
        seconds = self._clock.seconds() - judged.began
        self._backend.status.measure("replies", "rcpt", seconds)
        if not (reply.code < 400 and isinstance(verdict, Defer)):
            named = transaction.cohortName(-1) if reply.isPositive else ""
            maillog.recipientVerdict(
                self._backend.status,
                transaction.envelope,
                str(judged.recipient),
                "envelope",
                named,
                reply,
                seconds,
            )
        return reply

    def _tellFull(self, transaction: Transaction) -> None:
        """
        A recipient is one too many; of a transaction it is told once.
        """
        if not transaction.isToldFull:
            transaction.isToldFull = True
            isExtended = transaction.form in _EXTENDED
            self.overLimit("extension_recipients" if isExtended else "recipients")

    def isHonest(self) -> bool:
        """
        Whether a refusal is what happens to honest clients, too: mail for many
        recipients has some wrong ones, but not many more of them than right
        ones; not in each transaction anew.
        """
        if self.state.transaction is None or not self.state.transaction.candidates:
            return False
        self._refused += 1
        if self._refused <= len(self.state.transaction.candidates):
            return True
        self._pardoned += 1
        return self._pardoned <= self._limits.errors


def _checked(verdict: EnvelopeVerdict | None) -> EnvelopeVerdict:
    """
    @raise StageError: it is no verdict, whatever its type promises.
    """
    if isinstance(verdict, Refuse):
        return verdict
    if isinstance(verdict, (Accept, Defer)) and verdict.route is not None:
        return verdict
    raise StageError(f"{safe_repr(verdict)[:200]} is no verdict on a recipient")
