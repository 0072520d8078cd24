"""
From the end of the data to the final reply: the stages' Deferreds, the clock
and the spool on one side, the rules of L{deferrals.model.block} on the other.

Order of commitment: all verdicts are in, the message is staged (durable), the
final reply is written, the message is released.  Wherever this is cut short
before the final reply (the client is gone, the deadline is over, the spool
fails), what was staged is abandoned and the sender still owns the message
(D-15, D-21).

There is one deadline, set anew with each reply: when it is met, the recipients
that are due are refused for now (D-25).
"""

from __future__ import annotations

import enum
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from deferrals.errors import PeerError, StoreAway
from deferrals.interfaces import IBodyWriter, IMessage, Work
from deferrals.logger import Logger
from deferrals.model.block import Block, Resolution, lastReplies
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Form
from deferrals.model.listener import ListenerSettings
from deferrals.model.reply import (
    R250_CONTENT,
    R451_LOCAL_ERROR,
    R452_NO_STORAGE,
    Reply,
)
from deferrals.model.transaction import Transaction
from deferrals.model.verdict import ContentVerdict, Refuse, isNowhere
from deferrals.smtp.server import maillog
from deferrals.smtp.server.beforehand import Foresee, foreseen
from deferrals.smtp.server.deadline import Deadline
from deferrals.smtp.server.deliverfirst import Immediate
from deferrals.smtp.server.members import Members
from deferrals.smtp.server.mixed import Diversion, Resolved
from deferrals.smtp.server.observers import tellEnd
from deferrals.smtp.server.settings import Backend

_log = Logger(namespace="deferrals.transaction")


class Step(enum.Enum):
    """
    How far the message is.  Each step and what follows it::

        READING     complete: ASKING                      unreadable: DECIDING
        ASKING      all have been asked: DECIDING
        DECIDING    a verdict is overdue: ASKING          one recipient accepts: STAGING
                    all that accept throw it away: OVER
                    no one reply is exact: RESOLVING      nothing to store, or vetoed: OVER
        RESOLVING   resolved: DECIDING
        STAGING     stored: DURABLE, or DELIVERING        not stored: DECIDING (vetoed)
        DELIVERING  delivered, or not in time: DURABLE
        DURABLE     the positive end is written: OVER

    Whatever cuts a step short (a veto, a deadline, a lost client) leads to OVER.
    """

    READING = "the message is being completed"
    ASKING = "stages are being asked, or cancelled: what they say at once is gathered"
    DECIDING = "verdicts are waited for"
    RESOLVING = "the mixed policy decides for a plain sender"
    STAGING = "the message is being made durable"
    DELIVERING = "it is being delivered before the reply (S-6)"
    DURABLE = "it is stored, and only the positive end is missing"
    OVER = "the last reply is written, or there will be none"


#: Steps in which the content is not the spool's, and is dropped if they are the last.
_UNSTORED = {Step.READING, Step.ASKING, Step.DECIDING, Step.RESOLVING}


class PostData:
    """
    The part of one transaction behind its data.

    @param times: when its replies are due.
    @param clock: timers.
    @param deadline: the session's: here it is that of the next reply.
    @param send: writes replies to the client, at once.
    @param done: called once, after the last reply was written, or when there
        will be none.
    """

    def __init__(
        self,
        transaction: Transaction,
        times: ListenerSettings,
        backend: Backend,
        clock: IReactorTime,
        deadline: Deadline,
        send: Callable[[Sequence[Reply]], None],
        done: Callable[[], None],
    ) -> None:
        self._transaction = transaction
        self._envelope = transaction.envelope
        self._times = times
        self._backend = backend
        self._clock = clock
        self._deadline = deadline
        self._send = send
        self._done = done
        self._block = Block(
            transaction.form,
            transaction.candidates,
            self._envelope.reference,
            backend.mixed.isWatched(transaction),
            self._envelope.reference,
        )
        self._step = Step.READING
        self._began = clock.seconds()
        self._message: IMessage | None = None
        self._writer: IBodyWriter | None = None
        self._foreseeing: Deferred[Mapping[int, Reply]] | None = None
        self._verdicts: list[tuple[int, Deferred[ContentVerdict]]] = []
        self._coming: dict[Hashable, int] = {}  # verdicts, by cohort
        self._decidedNow: list[int] = []  # whose verdicts have come, and are to be logged
        self._window: IDelayedCall | None = None
        self._isMixed = False
        self._resolved: Resolved | None = None
        self._work: Work | None = None
        self._immediate: Immediate | None = None
        self._members = Members(transaction, backend, clock) if transaction.hasAliases else None

    # From outside.

    def start(self, writer: IBodyWriter, known: Deferred[None] | None = None) -> None:
        """
        The data is complete.

        @param writer: has it.
        @param known: fires when the envelope says all that it will say.
        """
        self._writer = writer
        self._startTimer()
        d = writer.finish()
        if known is not None:
            d.addCallback(lambda message: known.addCallback(lambda _: message))
        if self._backend.weigh is not None:
            d.addCallback(self._weigh, self._backend.weigh)
        if self._backend.foresee is not None:
            d.addCallback(self._foresee, self._backend.foresee)
        d.addCallbacks(self._ask, self._unreadable)
        d.addErrback(self._failed)

    def refuse(self, reply: Reply) -> None:
        """
        The message as a whole cannot be taken, whatever its recipients say:
        too large, malformed, unreadable.
        """
        self._block.uncommitted(reply)
        self._advance()

    def giveUp(self, reply: Reply) -> None:
        """
        The connection is about to be closed: 4xx for what is outstanding
        (P-12).
        """
        if self._immediate is not None:
            self._immediate.end()  # it is ours, and being delivered
        elif self._step is not Step.OVER:
            self.refuse(reply)  # P-12

    def clientGone(self) -> None:
        """
        The connection is lost.  What was not answered stays the sender's.
        """
        step, self._step = self._step, Step.OVER  # D-15, D-21
        if step is Step.OVER:
            return
        self._letGo(step)
        if self._immediate is not None:
            self._immediate.end()
        self._logEnd("aborted", 0, "the client was gone before the final reply")
        self._tellEnd([one.reply for one in self._transaction.candidates], None)

    # On the way.

    def _advance(self) -> None:
        """
        Say what can be said, and take the next step when it is time.
        """
        if self._step is Step.ASKING or self._step is Step.OVER or self._block.isPending:
            return
        if self._block.dilemma:
            self._resolve()
            return
        self._speak()
        if self._step is Step.DECIDING and self._block.needsCommit:
            self._stage()

    def _speak(self) -> None:
        replies = self._block.take()
        if not replies:
            return
        if self._block.over:
            self._end(replies)
        else:
            self._send(replies)
            self._startTimer()

    def _weigh(
        self, message: IMessage, weigh: Callable[[IMessage, Envelope], Deferred[IMessage]]
    ) -> IMessage | Deferred[IMessage]:
        """
        What is refused already, or will not be answered, does not count as sent.
        """
        return message if self._step is Step.OVER else weigh(message, self._envelope)

    def _foresee(self, message: IMessage, foresee: Foresee) -> Deferred[IMessage] | IMessage:
        """
        Ask what can never be delivered, before anything is said.
        """
        if self._step is Step.OVER:
            return message
        patience = self._times.reply_deadline
        asked = foreseen(foresee, message, self._transaction, self._clock, patience)
        self._foreseeing = asked
        return asked.addCallback(self._foreseen, message)

    def _foreseen(self, refusals: Mapping[int, Reply], message: IMessage) -> IMessage:
        if self._members is not None:
            refusals = self._members.foreseen(refusals)
        if self._step is Step.READING and refusals:
            self._block.foreseen(refusals)
            self._logVerdicts([i for i in refusals if self._block.verdicts[i] is not None])
        return message

    def _ask(self, message: IMessage) -> None:
        """
        Ask the content stages about the deferred recipients, and only them
        (S-2).
        """
        self._message = message
        if self._step is Step.OVER:
            return
        candidates = self._transaction.candidates
        # S-2
        undecided = self._block.verdicts
        deferred = [i for i, one in enumerate(candidates) if one.deferred and not undecided[i]]
        if deferred:
            self._step = Step.ASKING
            asked = [(candidates[index].recipient, candidates[index].cohort) for index in deferred]
            self._coming = Counter(cohort for _, cohort in asked)
            if self._members is None:
                verdicts = self._backend.content.judge(message, self._envelope, asked)
            else:
                verdicts = self._members.judge(message, self._envelope, deferred)
            self._verdicts = list(zip(deferred, verdicts, strict=True))
            for index, verdict in self._verdicts:
                verdict.addCallback(self._decided, index)
                verdict.addErrback(self._broken, index)
            if self._transaction.form in (Form.DEFERRALS, Form.PRDR):
                self._window = self._clock.callLater(
                    self._times.consolidation_window, self._windowOver
                )
        self._step = Step.DECIDING
        self._advance()

    def _unreadable(self, failure: Failure) -> None:
        """
        It cannot be had, or may not be.
        """
        refusal = failure.value.reply if isinstance(failure.value, PeerError) else R452_NO_STORAGE
        _log.error(
            "{transaction}: {error}", transaction=self._envelope.id, error=failure.getErrorMessage()
        )
        if self._step is not Step.OVER:
            self._step = Step.DECIDING
            self.refuse(refusal)

    def _decided(self, verdict: ContentVerdict, index: int) -> None:
        """
        The verdicts of a cohort come in a row, and are answered together.
        """
        cohort = self._transaction.candidates[index].cohort
        self._coming[cohort] -= 1
        if self._step is Step.OVER:
            return
        if self._block.verdict(index, verdict):
            self._decidedNow.append(index)
        if self._coming[cohort] <= 0:
            decided, self._decidedNow = self._decidedNow, []
            candidates = self._transaction.candidates
            self._logVerdicts([i for i in decided if not candidates[i].isPromised])
            self._advance()

    def _broken(self, failure: Failure, index: int) -> None:
        """
        The judge promises not to fail: answer all the same.
        """
        _log.failure("{transaction}: judging", failure, transaction=self._envelope.id)
        self._decided(Refuse(R451_LOCAL_ERROR), index)

    def _failed(self, failure: Failure) -> None:
        """
        Something of ours is broken: the message is refused for now.
        """
        _log.failure("{transaction}: failed", failure, transaction=self._envelope.id)
        if self._step is not Step.OVER:
            self._step = Step.DECIDING
            self.refuse(R451_LOCAL_ERROR)

    def _windowOver(self) -> None:
        self._window = None
        self._block.windowOver()
        self._advance()

    # When it takes too long.

    def _startTimer(self) -> None:
        due = self._clock.seconds() + self._times.reply_deadline
        self._deadline.until(due, self._late)

    def _late(self) -> None:
        """
        Nothing was said for as long as may be (D-25).
        """
        self._startTimer()
        if self._immediate is not None:
            self._immediate.late()
        elif self._step is Step.DECIDING:
            late = self._block.late()
            self._tellLate("content", late)
            self._cancel(set(late))  # D-25
            self._advance()
        else:
            isOurs = self._step is Step.RESOLVING
            self._tellLate("mixed" if isOurs else "spool")
            self.refuse(R451_LOCAL_ERROR if isOurs else R452_NO_STORAGE)

    def _tellLate(self, stage: str, late: Sequence[int] = ()) -> None:
        """
        @param late: whose verdicts are overdue; all, where none is named.
        """
        about = [str(self._transaction.candidates[index].recipient) for index in late]
        more = f" and {len(about) - 1} more" if len(about) > 1 else ""
        named = f"<{about[0]}>{more}" if about else "all"
        maillog.late(self._backend.status, self._envelope, stage, named)

    def _cancel(self, late: set[int]) -> None:
        """
        Verdicts that are cancelled come at once; they are answered together.
        """
        self._step = Step.ASKING
        for index, verdict in self._verdicts:
            if index in late:
                verdict.cancel()
        self._step = Step.DECIDING

    # A plain sender, and no one reply is exact.

    def _resolve(self) -> None:
        assert self._message is not None
        self._step = Step.RESOLVING
        self._isMixed = len(self._block.answers) > 1
        d = Deferred.fromCoroutine(
            self._backend.mixed.resolve(self._transaction, self._block, self._message)
        )
        d.addErrback(self._unresolved)
        d.addCallback(self._isResolved)
        d.addErrback(self._failed)

    def _unresolved(self, failure: Failure) -> Resolved:
        if not failure.check(StoreAway):  # that was logged
            _log.failure("{transaction}: mixed", failure, transaction=self._envelope.id)
        return Resolved(Resolution.LATER)

    def _isResolved(self, resolved: Resolved) -> None:
        if self._step is not Step.RESOLVING:
            return
        self._resolved = resolved
        self._step = Step.DECIDING
        self._block.resolve(resolved.resolution, resolved.has, resolved.reached)
        self._advance()

    # Durable, before the positive end.

    def _stage(self) -> None:
        assert self._message is not None
        addressees, seqs = self._addressees()
        if not addressees:  # all of those who take it throw it away
            self._block.committed()
            self._advance()
            return None
        self._step = Step.STAGING
        try:
            d = self._backend.spool.stage(self._envelope, self._message, addressees)
        except Exception:
            return self._notStaged(Failure())
        d.addCallbacks(self._staged, self._notStaged, callbackArgs=(seqs,))
        d.addErrback(self._failed)

    def _addressees(self) -> tuple[list[Addressee], dict[int, int]]:
        """
        The recipients that are stored: each mailbox once, however often it was named.

        @return: the addressees, and the number of the addressee of each
            candidate that accepts.
        """
        found: dict[Hashable, Addressee] = {}
        seqs: dict[int, int] = {}
        candidates = self._transaction.candidates
        accepted = self._block.accepted()
        for seq, index in enumerate(accepted):  # S-3
            if candidates[index].alias is not None:
                continue  # its members get it
            verdict = self._block.verdicts[index]
            if isNowhere(verdict):
                continue
            copy = Addressee.accepting(candidates[index].recipient, verdict, seq)
            mailbox = copy.recipient.address.key, copy.recipient.route
            seqs[index] = found.setdefault(mailbox, copy).seq
        for index, diversion in self._diversions.items():
            if candidates[index].alias is not None and not diversion.notify:
                continue  # likewise
            diverted = diversion.addressee(candidates[index].recipient, len(candidates) + index)
            if diverted is not None:
                found.setdefault((diverted.recipient.address.key, diversion), diverted)
        if self._members is not None:
            self._members.addTo(found, accepted, self._diversions, 2 * len(candidates))
        return list(found.values()), seqs

    @property
    def _diversions(self) -> Mapping[int, Diversion]:
        return {} if self._resolved is None else self._resolved.diversions

    def _staged(self, work: Work, seqs: dict[int, int]) -> None:
        if self._step is not Step.STAGING:
            self._backend.spool.abandon(work)
        elif self._backend.attempt is not None and self._members is None:
            self._step = Step.DELIVERING
            self._immediate = Immediate(
                self._transaction, self._backend, self._times, self._clock, work, seqs
            )
            self._immediate.start(self._attempted)  # S-6
        else:
            self._work = work
            self._step = Step.DURABLE
            self._block.committed()
            self._advance()

    def _attempted(self) -> None:
        """
        Delivery came first (S-6), as far as it came.
        """
        immediate, self._immediate = self._immediate, None
        if self._step is Step.DELIVERING and immediate is not None:
            self._step = Step.DURABLE
            self._block.committed(immediate.replies(), immediate.lines())
            self._advance()

    def _notStaged(self, failure: Failure) -> None:
        _log.error(
            "{transaction}: not durable: {error}",
            transaction=self._envelope.id,
            error=failure.getErrorMessage(),
        )
        if self._step is Step.STAGING:
            self._step = Step.DECIDING
            self.refuse(R452_NO_STORAGE)
        elif self._writer is not None:
            self._writer.abort()

    # The end.

    def _end(self, replies: Sequence[Reply]) -> None:
        """
        @param replies: the last ones.
        """
        step, self._step = self._step, Step.OVER
        final = self._block.final
        assert final is not None
        self._send(replies)
        self._letGo(step)
        if self._work is not None:
            self._backend.release(self._work)  # D-20, D-23, P-10, S-4
        self._tellDiscarded()
        if self._resolved is not None and self._block.veto is None:
            self._backend.mixed.answered(self._transaction, self._resolved)
        rung = self._rung()
        accepted = self._block.acceptedInTheEnd
        self._logEnd(rung, accepted, str(final), self._clock.seconds() - self._began)
        if self._backend.observers:
            self._tellEnd(lastReplies(self._block), final)
        self._done()

    def _tellEnd(self, replies: Sequence[Reply], final: Reply | None) -> None:
        """
        @param replies: the last ones about the candidates.
        """
        answers = self._transaction.answersWith(replies)
        tellEnd(self._backend.observers, self._envelope, answers, final)

    def _letGo(self, step: Step) -> None:
        """
        There is nothing more to be said: wait for nothing any longer, and drop
        what is not stored.

        @param step: the last one.
        """
        self._deadline.clear()
        window, self._window = self._window, None
        if window is not None:
            window.cancel()
        if self._members is not None:
            self._members.isOver = True
        for _, verdict in self._verdicts:
            if not verdict.called:
                verdict.cancel()
        if self._foreseeing is not None:
            self._foreseeing.cancel()
        if self._writer is not None and step in _UNSTORED:
            self._writer.abort()

    def _rung(self) -> str:
        """
        How the sender was told, in the words of the ladder of answers.
        """
        form = self._transaction.form
        if form is Form.LMTP or self._block.enumerated:
            return form.value
        if self._isMixed:
            return "mixed"
        return "single" if len(self._transaction.candidates) == 1 else "unanimous"

    def _logVerdicts(self, indexes: Sequence[int]) -> None:
        """
        @param indexes: of candidates whose verdicts count; those in a row that have the
            same one are logged together.
        """
        verdicts, candidates = self._block.verdicts, self._transaction.candidates
        seconds = self._clock.seconds() - self._began

        def said(index: int) -> tuple[int, str]:
            return id(verdicts[index]), self._transaction.cohortName(index)

        for (_, cohort), alike in itertools.groupby(indexes, said):
            some = list(alike)
            verdict = verdicts[some[0]]
            assert verdict is not None
            reply = verdict.reply if isinstance(verdict, Refuse) else R250_CONTENT
            maillog.recipientVerdicts(
                self._backend.status,
                self._envelope,
                [str(candidates[index].recipient) for index in some],
                "content",
                cohort,
                reply,
                seconds,
                verdict.why,
                maillog.isMarked(verdict),
            )
            if isinstance(verdict, Refuse):
                self._tellRefused(verdict, some)

    def _tellRefused(self, refusal: Refuse, indexes: Sequence[int]) -> None:
        """
        @param indexes: of candidates that all have it.  What was refused for the members
            of an alias is not told here.
        """
        tell = self._backend.refused
        if tell is None:
            return
        for index in indexes:
            candidate = self._transaction.candidates[index]
            if candidate.alias is None:
                tell(self._envelope, candidate.recipient, "content", refusal, self._message)

    def _tellDiscarded(self) -> None:
        """
        Who takes the message, and throws it away.
        """
        accepted = self._block.accepted()
        if self._members is not None:
            self._members.tellDiscarded(accepted)
        for index in accepted:
            verdict = self._block.verdicts[index]
            if verdict is not None and isNowhere(verdict):
                recipient = self._transaction.candidates[index].recipient
                maillog.discarded(self._backend.status, self._envelope, recipient, verdict.why)

    def _logEnd(self, rung: str, accepted: int, reply: str, answered: float | None = None) -> None:
        maillog.transactionEnd(
            self._backend.status,
            self._envelope,
            rung,
            len(self._transaction.candidates),
            accepted,
            len(self._transaction.sentAway),
            0 if self._message is None else self._message.size,
            reply,
            self._clock.seconds() - self._transaction.began,
            answered,
            self._transaction.messageId,
        )
