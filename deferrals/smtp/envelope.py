"""
The envelope: MAIL and RCPT, and the transaction that they make.

Traps of the base class, and how they are dealt with:

  - I{A late answer lands in the next transaction.}  An answer belongs to the
    L{Transaction} it was asked for; RSET and EHLO wait behind it, a lost
    connection cancels it.
  - I{Parameters are parsed and dropped.}  L{deferrals.model.extensions}.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from deferrals.errors import PeerError
from deferrals.model.envelope import Client, Envelope, Form, Parameters, Recipient
from deferrals.model.extensions import parseMail, parseRcpt
from deferrals.model.reply import (
    R250_SENDER,
    R421_TOO_MANY_MESSAGES,
    R451_LOCAL_ERROR,
    R552_TOO_LARGE,
    Reply,
)
from deferrals.model.transaction import Phase, Transaction
from deferrals.model.verdict import Accept, Defer, EnvelopeVerdict, Refuse
from deferrals.smtp import journal
from deferrals.smtp.base import SessionBase
from deferrals.waiting import CancelledError, withDeadline

_log = Logger(namespace="deferrals.session")


class Envelopes(SessionBase):
    """
    See the module.
    """

    _transactions = 0
    _refused = 0
    _idleSince = 0.0

    def mayOverlap(self, line: bytes) -> bool:
        """
        RCPTs in a row are judged side by side.
        """
        return line[:4].upper() == b"RCPT"

    def latest(self) -> float:
        """
        Without a transaction a client may not stay for ever, whatever it says.
        """
        if self._transaction is not None:
            return super().latest()
        return self._idleSince + self._limits.idleSeconds

    def do_MAIL(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.2; D-1, P-1.
        """
        sender, parameters = parseMail(rest, self._offered)
        if parameters.size is not None and parameters.size > self._limits.messageOctets:
            raise PeerError("too large", R552_TOO_LARGE)
        self._transactions += 1
        if self._transactions > self._limits.transactions:
            self.say(R421_TOO_MANY_MESSAGES)
            return self.close()
        parameters, client = self._asserted(parameters), self._sender(parameters)
        now = self._clock.seconds()
        number = self._intake.ids.next(now)
        envelope = Envelope(number, now, client, sender, parameters, self._settings.name)
        form = Form.LMTP if self._isLMTP else parameters.form
        extended = form in (Form.DEFERRALS, Form.PRDR)
        limit = self._limits.extensionRecipients if extended else self._limits.recipients
        self._transaction = Transaction(envelope, form, self._settings.mixed, limit)
        self._refused = 0
        self._phase = Phase.SENDER
        self.reply(R250_SENDER)

    def _asserted(self, parameters: Parameters) -> Parameters:
        """
        AUTH= is believed of nobody but the one who is authenticated as that
        (RFC 4954 §5).
        """
        if parameters.auth in (None, "<>", self._user):
            return parameters
        return attrs.evolve(parameters, auth="<>")

    def _sender(self, parameters: Parameters) -> Client:
        """
        The client, in the protocol that this transaction speaks (RFC 6531
        §4.3).
        """
        if not parameters.smtputf8:
            return self._client
        protocol = f"UTF8{self._client.protocol.removeprefix('E')}"
        return attrs.evolve(self._client, protocol=protocol)

    def do_RCPT(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.3.  Judged at once; answered in order.
        """
        assert self._transaction is not None
        envelope = self._transaction.envelope
        recipient = parseRcpt(rest, self._offered, envelope.parameters.smtputf8)
        began = self._clock.seconds()
        try:
            verdict = self._intake.envelope.judge(envelope, recipient)
        except Exception:
            verdict = fail()
        if not isinstance(verdict, Deferred) and not self.hasSlots:
            return self.reply(self._admit(_checked(verdict), recipient, began))
        slot = self.slot()
        if not isinstance(verdict, Deferred):
            return self._judged(_checked(verdict), slot, recipient, began)
        self.setTimeout(None)
        seconds = self._limits.envelopeSeconds
        slot.pending = withDeadline(self._clock, seconds, lambda: verdict)
        slot.pending.addErrback(self._envelopeFailed, envelope)
        slot.pending.addCallback(_checked)
        slot.pending.addCallback(self._judged, slot, recipient, began)

    def _envelopeFailed(self, failure: Failure, envelope: Envelope) -> EnvelopeVerdict:
        if not failure.check(CancelledError):
            _log.error(
                "{transaction}: envelope stage failed: {error}",
                transaction=envelope.id,
                error=f"{failure.type.__name__}: {failure.getErrorMessage()}",
            )
        return Refuse(R451_LOCAL_ERROR)

    def _judged(self, verdict: Any, slot: Any, recipient: Recipient, began: float) -> None:
        self.ready(slot, lambda: self._admit(verdict, recipient, began))

    def _admit(self, verdict: Any, recipient: Recipient, began: float) -> Reply:
        """
        It is this recipient's turn to be answered.
        """
        transaction = self._transaction
        assert transaction is not None
        cohort = None
        if isinstance(verdict, Accept | Defer):
            recipient = recipient.routed(verdict.route)
            try:
                cohort = self._intake.content.cohort(recipient, verdict)
            except Exception:
                _log.failure("{transaction}: no cohort", transaction=transaction.envelope.id)
                verdict = Refuse(R451_LOCAL_ERROR)
        reply = transaction.admit(recipient, verdict, cohort)
        if transaction.candidates:
            self._phase = Phase.RECIPIENTS
        if not (reply.code < 400 and isinstance(verdict, Defer)):
            named = transaction.cohortName(-1) if reply.isPositive else ""
            seconds = self._clock.seconds() - began
            journal.recipientVerdict(
                transaction.envelope, str(recipient), "envelope", named, reply, seconds
            )
        return reply

    def isHonest(self) -> bool:
        """
        Whether a refusal is what happens to honest clients, too: mail for many
        recipients has some wrong ones, but not many more of them than right
        ones.
        """
        if self._transaction is None or not self._transaction.candidates:
            return False
        self._refused += 1
        return self._refused <= len(self._transaction.candidates) + self._limits.errors


def _checked(verdict: Any) -> EnvelopeVerdict:
    """
    An envelope stage's answer; a temporary refusal, where it is none.
    """
    if isinstance(verdict, Refuse) and verdict.reply.code >= 400:
        return verdict
    if isinstance(verdict, Accept | Defer) and verdict.route is not None:
        return verdict
    _log.error("{verdict} is no verdict on a recipient", verdict=repr(verdict))
    return Refuse(R451_LOCAL_ERROR)
