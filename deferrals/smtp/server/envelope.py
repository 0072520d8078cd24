"""
The envelope: MAIL and RCPT, and the transaction that they make.

Traps of the base class, and how they are dealt with:

  - I{A late answer lands in the next transaction.}  An answer belongs to the
    L{Transaction} it was asked for; RSET and EHLO wait behind it, a lost
    connection cancels it.
  - I{Parameters are parsed and dropped.}  L{deferrals.model.extensions}.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from deferrals.deferreds import (
    CancelledError,
    TimeoutError,
    isDeferred,
    promptly,
    timeOfDay,
    withDeadline,
)
from deferrals.errors import PeerError
from deferrals.logger import Logger
from deferrals.model.alias import Alias, Member
from deferrals.model.block import isAsked
from deferrals.model.envelope import Envelope, Form, Parameters, Recipient
from deferrals.model.extensions import parseMail, parseRcpt
from deferrals.model.mixed import End
from deferrals.model.reply import (
    R250_SENDER,
    R421_TOO_MANY_MESSAGES,
    R451_LOCAL_ERROR,
    R452_TOO_MANY_RECIPIENTS,
    R552_TOO_LARGE,
    Reply,
)
from deferrals.model.text import word
from deferrals.model.transaction import Phase, Transaction
from deferrals.model.verdict import (
    Accept,
    Defer,
    EnvelopeAnswer,
    EnvelopeVerdict,
    Expand,
    Refuse,
)
from deferrals.smtp.server import maillog
from deferrals.smtp.server.base import SessionBase
from deferrals.smtp.server.expansion import Expansion, settled
from deferrals.smtp.server.members import tellMembers
from deferrals.smtp.server.observers import tellEnd
from deferrals.smtp.server.replyqueue import Slot
from deferrals.smtp.server.senders import refusalOf

_log = Logger(namespace="deferrals.session")

_EXTENDED = (Form.DEFERRALS, Form.PRDR)

#: So many senders and recipients are remembered, with their parameters: the same ones
#: come again and again.
MAX_REMEMBERED = 1024

_parsedMail = functools.lru_cache(MAX_REMEMBERED)(parseMail)
_parsedRcpt = functools.lru_cache(MAX_REMEMBERED)(parseRcpt)

#: What the envelope says of a recipient, or what it stands for.
_Said = EnvelopeVerdict | Alias

_TOO_MANY = Refuse(R452_TOO_MANY_RECIPIENTS)

#: So many members the aliases of one transaction have in all, before a further recipient
#: has to wait for the next: one command asks about all of an alias'.
MAX_MEMBERS = 10_000

_TOO_MANY_MEMBERS = Refuse(R452_TOO_MANY_RECIPIENTS, why="the members of aliases before it")

#: Of a recipient that is no address, so many characters are logged.
MAX_NAMED = 200


@attrs.define(eq=False)
class _Judged:
    """
    A recipient that the envelope has judged.

    @ivar began: when it was named.
    @ivar cohort: its cohort, unless it is refused.
    @ivar alias: what it stands for, where it is an alias.
    """

    recipient: Recipient
    verdict: EnvelopeVerdict
    began: float
    cohort: Hashable = None
    alias: Alias | None = None

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


class MailCommands:
    """
    See the module.

    @param session: whose client sends.
    """

    __slots__ = (
        *("_clock", "_limits", "_pardoned", "_refused"),
        *("_session", "_state", "_transactions"),
    )

    def __init__(self, session: SessionBase) -> None:
        self._session = session
        self._state = session.state
        self._limits = session.limits
        self._clock = session.clock
        self._transactions = 0
        self._refused = 0
        self._pardoned = 0

    def do_MAIL(self, rest: str) -> Deferred[None] | None:
        """
        RFC 5321 §4.1.1.2; D-1, P-1.
        """
        sender, parameters = _parsedMail(rest, self._state.offered, self._session.settings.strict)
        if parameters.size is not None and parameters.size > self._limits.message_size:
            self._session.overLimit("message_size")
            raise PeerError("too large", R552_TOO_LARGE)
        self._transactions += 1
        if self._transactions > self._limits.transactions:
            self._session.overLimit("transactions")
            self._session.say(self._refusedSender(rest, R421_TOO_MANY_MESSAGES))
            self._session.close()
            return None
        self._session.backend = self._session.latestBackend()
        parameters, client = self._asserted(parameters), self._state.clientOf(parameters)
        now = timeOfDay(self._clock)
        ids, listener = self._session.backend.ids, self._session.settings.name
        envelope = Envelope(ids.next(now), now, client, sender, parameters, listener, ids.spool)
        self._state.transaction = transaction = self._newTransaction(envelope)
        if self._session.backend.senders:
            return self._askSenders(transaction)
        return self._senderJudged(None, transaction)

    def _newTransaction(self, envelope: Envelope) -> Transaction:
        form = self._answerForm(envelope.parameters)
        isExtended = form in _EXTENDED
        limit = self._limits.extension_recipients if isExtended else self._limits.recipients  # P-13
        transaction = Transaction(envelope, form, limit, self._clock.seconds())
        transaction.sentAwayBefore = self._state.sentAwayBefore
        return transaction

    def _askSenders(self, transaction: Transaction) -> Deferred[None]:
        """
        Ask the stages that decide about senders.  The client waits.
        """
        envelope, seconds = transaction.envelope, self._limits.envelope_timeout
        d = withDeadline(self._clock, seconds, refusalOf, self._session.backend.senders, envelope)
        names = ", ".join(type(stage).__name__ for stage in self._session.backend.senders)
        d.addErrback(self._notJudged, envelope, "the sender", names)
        return d.addCallback(self._senderJudged, transaction)

    def _senderJudged(
        self, refusal: Refuse | None, transaction: Transaction
    ) -> Deferred[None] | None:
        if self._session.isClosing or self._state.transaction is not transaction:
            return None  # nothing can be answered any longer
        if refusal is not None:
            self._state.transaction = None
            reply = refusal.reply.referring(transaction.envelope.reference)
            self._ended(transaction, "sender", 0, reply)
            self._session.reply(reply)
            return None
        recalled = self._session.backend.mixed.begin(transaction)
        if recalled is not None:
            return recalled.addCallback(self._mayName, transaction)
        self._mayName(None, transaction)
        return None

    def _mayName(self, _: None, transaction: Transaction) -> None:
        if self._session.isClosing or self._state.transaction is not transaction:
            return
        self._refused = 0
        self._state.outcome = "mail"
        self._state.phase = Phase.SENDER
        self._session.reply(R250_SENDER)

    def abort(self, why: str, size: int, by: End | None) -> None:
        """
        Forget the transaction, if there is one.

        @param why: for the log.
        @param size: octets of its message that have come.
        @param by: how the client has ended it; C{None} where we do.
        """
        transaction, self._state.transaction = self._state.transaction, None
        if self._state.phase is not Phase.START:
            self._state.phase = Phase.READY
        if transaction is None:
            return
        self._state.sentAwayBefore = frozenset()
        self._ended(transaction, "aborted", size, why)
        # One that named all in one piece with DATA sees the 452 behind it.
        if by is not None and not size:
            self._session.backend.mixed.gaveUp(transaction, by)

    def _ended(self, transaction: Transaction, rung: str, size: int, end: Reply | str) -> None:
        """
        A transaction is over before its data was.

        @param end: the reply that ended it, or why there was none.
        """
        self._state.idleSince = self._clock.seconds()
        maillog.transactionEnd(
            self._session.backend.status,
            transaction.envelope,
            rung,
            len(transaction.candidates),
            0,
            len(transaction.sentAway),
            size,
            str(end),
            self._clock.seconds() - transaction.began,
            messageId=transaction.messageId,
        )
        final = end if isinstance(end, Reply) else None
        tellEnd(self._session.backend.observers, transaction.envelope, transaction.answers, final)

    def _answerForm(self, parameters: Parameters) -> Form:
        """
        How this transaction's sender can be told.  Courier understands EXDATA
        without asking for it: a client that was offered it is told so (X-3).
        """
        if self._state.isLMTP:
            return Form.LMTP
        if parameters.form is Form.PLAIN and Form.EXDATA.keyword in self._state.offered:
            return Form.EXDATA
        return parameters.form

    def _asserted(self, parameters: Parameters) -> Parameters:
        """
        AUTH= is believed only where it names the user that the client has
        authenticated as (RFC 4954 §5).
        """
        if parameters.auth in (None, "<>", self._state.user):
            return parameters
        return attrs.evolve(parameters, auth="<>")

    def do_RCPT(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.3.  Judged at once; answered in order.
        """
        transaction = self._state.transaction
        assert transaction is not None
        smtputf8 = transaction.envelope.parameters.smtputf8
        recipient = _parsedRcpt(rest, self._state.offered, smtputf8, self._session.settings.strict)
        began = self._clock.seconds()
        verdict = self._askStages(transaction, recipient)
        if isDeferred(verdict):
            self._session.setTimeout(None)
            slot = self._newSlot()
            slot.pending = verdict.addCallback(self._judged, slot, recipient, began)
        elif self._session.replies.slots or transaction.isUnled:
            self._judged(verdict, self._newSlot(), recipient, began)
        else:
            self._session.reply(self._admit(self._judge(verdict, recipient, began)))

    def _newSlot(self) -> _RecipientSlot:
        slot = _RecipientSlot()
        self._session.replies.enqueue(slot)
        return slot

    def refusedLine(self, line: bytes, reply: Reply) -> Reply:
        """
        A command line is refused as it stands, or since it may not come now.

        @return: what is said; where it was to name a recipient, as any other
            refusal of one.
        """
        transaction, text = self._state.transaction, line.strip(b" \t")
        verb, rest = text[:4].upper(), text[4:].decode("utf-8", "replace")
        if verb == b"MAIL" and reply.code >= 400:
            return self._refusedSender(rest, reply)
        if verb != b"RCPT" or transaction is None or reply.code < 400:
            return reply
        said = reply.referring(transaction.envelope.reference)
        maillog.recipientVerdict(
            self._session.backend.status,
            transaction.envelope,
            word(_path(rest), MAX_NAMED),
            "envelope",
            "",
            said,
            0.0,
        )
        return said

    def _refusedSender(self, rest: str, reply: Reply) -> Reply:
        """
        @param rest: what stands behind MAIL.
        @return: the reply, as it is: there is no transaction that it could refer to.
        """
        client, listener = self._state.client, self._session.settings.name
        maillog.senderRefused(self._session.backend.status, client, listener, _path(rest), reply)
        return reply

    def _askStages(self, transaction: Transaction, recipient: Recipient) -> _Said | Deferred[_Said]:
        """
        What the envelope stages say of a recipient: at once, or within their
        deadline.  Whatever they do, there is a verdict.
        """
        if transaction.isFull:
            return _TOO_MANY
        if transaction.expanded >= MAX_MEMBERS:
            return _TOO_MANY_MEMBERS
        envelope, stage = transaction.envelope, self._session.backend.envelope
        source = type(stage).__name__
        seconds = self._limits.envelope_timeout
        try:
            answer = promptly(self._clock, seconds, stage.judgeRecipient, envelope, recipient)
            if not isDeferred(answer) and type(answer) is not Expand:
                return settled(answer)
        except BaseException:
            return self._notJudged(Failure(), envelope, f"<{recipient}>", source)
        asked: Deferred[EnvelopeAnswer | None] = answer if isDeferred(answer) else succeed(answer)
        d: Deferred[_Said] = asked.addCallback(self._expanded, transaction, recipient)
        return d.addErrback(self._notJudged, envelope, f"<{recipient}>", source)

    def _notJudged(self, failure: Failure, envelope: Envelope, about: str, stage: str) -> Refuse:
        """
        A stage has raised, is late or has answered nonsense.
        """
        if failure.check(TimeoutError):
            maillog.late(self._session.backend.status, envelope, "envelope", about)
        elif not failure.check(CancelledError):
            _log.raised(
                failure,
                "{transaction}: {stage} failed for {about}: {error}",
                transaction=envelope.id,
                stage=stage,
                about=about,
            )
        return Refuse(R451_LOCAL_ERROR, why=f"{stage} failed")

    def _expanded(
        self, verdict: EnvelopeAnswer | None, transaction: Transaction, recipient: Recipient
    ) -> _Said | Deferred[_Said]:
        """
        What a recipient stands for, where it is an alias: it is waited for its members
        as long as for any other recipient.
        """
        if not isinstance(verdict, Expand):
            return settled(verdict)
        if transaction.expanded >= MAX_MEMBERS:
            return _TOO_MANY_MEMBERS
        transaction.expanded += len(verdict.members)
        stage = self._session.backend.envelope
        expansion = Expansion(stage, transaction.envelope, recipient, verdict)
        d: Deferred[_Said] = withDeadline(
            self._clock, self._limits.envelope_timeout, expansion.find
        )
        return d.addCallback(_counted, transaction, len(verdict.members))

    def _judged(
        self, verdict: _Said, slot: _RecipientSlot, recipient: Recipient, began: float
    ) -> None:
        if self._session.isClosing:
            return  # cancelled: the client is gone
        slot.judged = judged = self._judge(verdict, recipient, began)
        self._session.ready(slot, lambda: self._admit(judged))

    def _judge(self, verdict: _Said, recipient: Recipient, began: float) -> _Judged:
        """
        What the envelope says of a recipient, and whose cohort it is in.
        """
        if isinstance(verdict, Refuse):
            return _Judged(recipient, verdict, began)
        if isinstance(verdict, Alias):
            return self._judgeAlias(verdict, recipient, began)
        placed = self._placed(recipient, verdict)
        if isinstance(placed, Refuse):
            return _Judged(recipient, placed, began)
        recipient, cohort = placed
        return _Judged(recipient, verdict, began, cohort)

    def _placed(
        self, recipient: Recipient, verdict: Accept | Defer
    ) -> tuple[Recipient, Hashable] | Refuse:
        """
        @return: the recipient with its route, and its cohort; or a refusal, where a
            stage cannot say these.
        """
        try:
            if verdict.route is not None:
                recipient = recipient.routed(verdict.route)
            return recipient, self._session.backend.content.cohort(recipient, verdict)
        except Exception:  # what others wrote may have no hash
            assert self._state.transaction is not None
            envelope = self._state.transaction.envelope
            return self._notJudged(Failure(), envelope, f"<{recipient}>", "the content's cohort")

    def _judgeAlias(self, alias: Alias, recipient: Recipient, began: float) -> _Judged:
        """
        The same of an alias: it is a cohort made of its members' cohorts.
        """
        members = [self._placedMember(member) for member in alias.members]
        alias = attrs.evolve(alias, members=members)
        return _Judged(recipient, alias.verdict, began, alias.cohort, alias)

    def _placedMember(self, member: Member) -> Member:
        if isinstance(member.verdict, Refuse):
            return member
        placed = self._placed(member.recipient, member.verdict)
        if isinstance(placed, Refuse):
            return attrs.evolve(member, verdict=placed)
        return attrs.evolve(member, recipient=placed[0], cohort=placed[1])

    def maySettle(self, slots: Sequence[Slot]) -> bool:
        """
        Where recipients may come apart, those that came in one piece are
        answered together: they decide together who is let in.
        """
        transaction = self._state.transaction
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
        transaction = self._state.transaction
        assert transaction is not None
        verdict = judged.verdict
        status = self._session.backend.status
        before, isFull = len(transaction.sentAway), transaction.isFull
        alias = judged.alias
        reply = transaction.admit(judged.recipient, verdict, judged.cohort, alias)
        if len(transaction.sentAway) > before:
            status.count("mixed", "recipients sent away")
        if isFull:
            self._tellFull(transaction)
        if transaction.candidates:
            self._state.phase = Phase.RECIPIENTS
        seconds = self._clock.seconds() - judged.began
        status.measure("replies", "rcpt", seconds)
        isOpen = reply.code < 400 and isinstance(verdict, Defer)
        if alias is not None and reply.code < 400:
            isOpen = isAsked(transaction.candidates[-1])
        if alias is not None and (reply.code < 400 or isinstance(verdict, Refuse)):
            tellMembers(self._session.backend, transaction, alias, seconds)
        tell = self._session.backend.refused
        if tell is not None and alias is None and isinstance(verdict, Refuse):
            tell(transaction.envelope, judged.recipient, "envelope", verdict, None)
        if not isOpen:
            named = transaction.cohortName(-1) if reply.code < 300 else ""
            maillog.recipientVerdict(
                status,
                transaction.envelope,
                str(judged.recipient),
                "envelope",
                named,
                reply,
                seconds,
                verdict.why,
            )
        return reply

    def _tellFull(self, transaction: Transaction) -> None:
        """
        A recipient is one too many; of a transaction it is told once.
        """
        if not transaction.isToldFull:
            transaction.isToldFull = True
            isExtended = transaction.form in _EXTENDED
            self._session.overLimit("extension_recipients" if isExtended else "recipients")

    def isHonest(self) -> bool:
        """
        Whether a refusal is what happens to honest clients, too: mail for many
        recipients has some wrong ones, but not many more of them than right
        ones; not in each transaction anew.
        """
        if self._state.transaction is None or not self._state.transaction.candidates:
            return False
        self._refused += 1
        if self._refused <= len(self._state.transaction.candidates):
            return True
        self._pardoned += 1
        return self._pardoned <= self._limits.errors


def _counted(said: _Said, transaction: Transaction, known: int) -> _Said:
    """
    An alias is expanded: what came of those within it counts, too.

    @param known: so many have been counted.
    """
    if isinstance(said, Alias):
        transaction.expanded += max(len(said.members) - known, 0)
    return said


def _path(rest: str) -> str:
    """
    Whom a line names that is refused, in whatever form.
    """
    path = rest.partition(":")[2].strip(" \t")
    return path.partition("> ")[0].strip("<>")
