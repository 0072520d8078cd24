"""
From the end of the data to the final reply: the stages' Deferreds, the clock
and the spool on one side, the rules of L{deferrals.model.block} on the other.

Order of commitment: all verdicts are in, the message is staged (durable), the
final reply is written, the message is released.  Wherever this is cut short
before the final reply (the client is gone, the deadline is over, the spool
fails), what was staged is abandoned and the sender still owns the message
(D-15, D-21).

There is one timer, started anew with each reply: when it ends, whoever is due
is refused for now (D-25).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from deferrals.deferreds import timeOfDay
from deferrals.interfaces import Work
from deferrals.model.block import Block, Resolution
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Form
from deferrals.model.limits import ReplyTimes
from deferrals.model.reply import (
    R250_CONTENT,
    R451_LOCAL_ERROR,
    R452_NO_STORAGE,
    Reply,
)
from deferrals.model.transaction import Transaction
from deferrals.model.verdict import NO_MARKS, Accept, ContentVerdict, Refuse
from deferrals.smtp.server import maillog
from deferrals.smtp.server.deliverfirst import Immediate
from deferrals.smtp.server.mixed import Diversion
from deferrals.smtp.server.settings import Backend

_log = Logger(namespace="deferrals.transaction")


class PostData:
    """
    The part of one transaction behind its data.

    @param clock: timers.
    @param times: when its replies are due.
    @param send: writes replies to the client, at once.
    @param done: called once, after the last reply was written, or when there
        will be none.
    """

    def __init__(
        self,
        transaction: Transaction,
        times: ReplyTimes,
        intake: Backend,
        clock: Any,
        send: Callable[[Sequence[Reply]], None],
        done: Callable[[], None],
    ) -> None:
        self._transaction = transaction
        self._envelope = transaction.envelope
        self._times = times
        self._intake = intake
        self._clock = clock
        self._send = send
        self._done = done
        self._block = Block(
            transaction.form,
            transaction.candidates,
            f"id {self._envelope.id}",
            bool(transaction.sentAway),
        )
        self._resolving = False
        self._diversions: dict[int, Diversion] = {}
        self._began = clock.seconds()
        self._message: Any = None
        self._writer: Any = None
        self._verdicts: list[tuple[int, Deferred[ContentVerdict]]] = []
        self._timer: Any = None
        self._window: Any = None
        self._committing = False
        self._work: Work | None = None
        self._immediate: Any = None
        self._turning = False
        self._over = False

    def refuse(self, reply: Reply) -> None:
        """
        The message as a whole cannot be taken, whatever its recipients say:
        too large, malformed, unreadable.
        """
        self._block.uncommitted(reply)
        self._turn()

    def start(self, writer: Any) -> None:
        """
        The data is complete.

        @param writer: the L{IBodyWriter<deferrals.interfaces.IBodyWriter>} that has it.
        """
        self._writer = writer
        self._setTimer()
        d = writer.finish()
        d.addCallback(self._intake.mixed.recognise, self._transaction)
        d.addCallbacks(self._judge, self._unreadable)

    def _unreadable(self, failure: Failure) -> None:
        _log.error(
            "{transaction}: {error}", transaction=self._envelope.id, error=failure.getErrorMessage()
        )
        if not self._over:
            self.refuse(R452_NO_STORAGE)

    def _judge(self, message: Any) -> None:
        """
        Ask the content stages about the deferred recipients, and only them
        (S-2).
        """
        self._message = message
        if self._over:
            return
        candidates = self._transaction.candidates
        deferred = [index for index, candidate in enumerate(candidates) if candidate.deferred]
        if deferred:
            asked = [(candidates[index].recipient, candidates[index].cohort) for index in deferred]
            verdicts = self._intake.content.judge(message, self._envelope, asked)
            self._verdicts = list(zip(deferred, verdicts, strict=True))
            self._turning = True
            for index, verdict in self._verdicts:
                verdict.addCallback(self._decided, index)
                verdict.addErrback(self._broken, index)
            self._turning = False
            if self._transaction.form in (Form.DEFERRALS, Form.PRDR):
                self._window = self._clock.callLater(
                    self._times.consolidation_window, self._windowOver
                )
        self._turn()

    def _broken(self, failure: Failure, index: int) -> None:
        """
        The judge promises not to fail: answer all the same.
        """
        _log.failure("{transaction}: judging", failure, transaction=self._envelope.id)
        self._decided(Refuse(R451_LOCAL_ERROR), index)

    def _decided(self, verdict: ContentVerdict, index: int) -> None:
        if self._over or not self._block.verdict(index, verdict):
            return
        latched = self._block.verdictOf(index)
        self._logVerdict(index, latched.reply if isinstance(latched, Refuse) else R250_CONTENT)
        self._turn()

    def _logVerdict(self, index: int, reply: Reply) -> None:
        candidate = self._transaction.candidates[index]
        maillog.recipientVerdict(
            self._envelope,
            str(candidate.recipient),
            "content",
            self._transaction.cohortName(index),
            reply,
            self._clock.seconds() - self._began,
        )

    def _windowOver(self) -> None:
        self._window = None
        self._block.windowOver()
        self._turn()

    def _setTimer(self) -> None:
        if self._timer is not None:
            self._timer.reset(self._times.reply_deadline)
        else:
            self._timer = self._clock.callLater(self._times.reply_deadline, self._late)

    def _late(self) -> None:
        """
        Nothing was said for as long as may be.
        """
        self._timer = None
        self._setTimer()
        if self._immediate is not None:
            self._immediate.end()
            return
        late = set(self._block.late())
        if not late or not self._verdicts:
            self._block.uncommitted(R452_NO_STORAGE)
        self._turning = True
        for index, verdict in self._verdicts:
            if index in late:
                verdict.cancel()
        self._turning = False
        self._turn()

    def _turn(self) -> None:
        """
        Say what can be said, commit when it is time, end when it is over.
        """
        if self._turning or self._over:
            return
        self._speak()
        if self._block.dilemma and not self._resolving:
            self._resolve()
        elif self._block.needsCommit and not self._committing:
            self._turning = True
            self._commit()
            self._turning = False
            self._speak()

    def _resolve(self) -> None:
        """
        A plain sender, and no one reply is exact.
        """
        self._resolving = True
        d = maybeDeferred(
            self._intake.mixed.resolve,
            self._transaction,
            self._block,
            self._message,
            timeOfDay(self._clock),
        )
        d.addErrback(self._unresolved)
        d.addCallback(self._resolved)

    def _unresolved(self, failure: Failure) -> tuple[Resolution, dict[int, Diversion]]:
        _log.failure("{transaction}: mixed", failure, transaction=self._envelope.id)
        return Resolution.LATER, {}

    def _resolved(self, resolved: tuple[Resolution, dict[int, Diversion]]) -> None:
        if not self._over:
            resolution, self._diversions = resolved
            self._block.resolve(resolution)
            self._turn()

    def _speak(self) -> None:
        replies = self._block.take()
        if not replies:
            return
        self._over = self._block.over
        self._send(replies)
        if self._over:
            self._end()
        else:
            self._setTimer()

    def _commit(self) -> None:
        """
        Make the message durable for those who take it: each mailbox once,
        however often it was named.
        """
        self._committing = True
        addressees: dict[tuple[str, Any], Addressee] = {}
        places: dict[int, int] = {}
        candidates = self._transaction.candidates
        for seq, index in enumerate(self._block.accepted()):
            recipient = candidates[index].recipient
            verdict = self._block.verdictOf(index)
            marks = verdict.marks if isinstance(verdict, Accept) else NO_MARKS
            addressee = Addressee(recipient, marks, seq)
            kept = addressees.setdefault((recipient.address.key, recipient.route), addressee)
            places[index] = kept.seq
        for index, diversion in self._diversions.items():
            diverted = diversion.addressee(candidates[index].recipient, len(candidates) + index)
            if diverted is not None:
                mailbox = (diverted.recipient.address.key, diversion)
                addressees.setdefault(mailbox, diverted)
        d = maybeDeferred(
            self._intake.spool.stage, self._envelope, self._message, list(addressees.values())
        )
        d.addCallbacks(self._staged, self._notStaged, callbackArgs=(places,))

    def _staged(self, work: Work, places: dict[int, int]) -> None:
        if self._over or not self._block.accepted():
            self._intake.spool.abandon(work)
            return
        if self._intake.attempt is not None:
            self._immediate = Immediate(self._transaction, self._intake, self._clock, work, places)
            self._immediate.start(self._attempted)
            return
        self._work = work
        self._block.committed()
        self._turn()

    def _attempted(self) -> None:
        """
        Delivery came first (S-6), as far as it came.
        """
        immediate, self._immediate = self._immediate, None
        if not self._over:
            self._block.committed(immediate.replies(), immediate.lines())
            self._turn()

    def _notStaged(self, failure: Failure) -> None:
        _log.error(
            "{transaction}: not durable: {error}",
            transaction=self._envelope.id,
            error=failure.getErrorMessage(),
        )
        self._committing = False
        if self._over:
            self._writer.abort()
        else:
            self.refuse(R452_NO_STORAGE)

    def _end(self) -> None:
        """
        The last reply has been written.
        """
        self._stopWaiting()
        final = self._block.final
        assert final is not None
        accepted = self._block.accepted()
        if self._work is not None:
            self._intake.release(self._work)
        elif self._writer is not None and not self._committing:
            self._writer.abort()
        rung = self._rung()
        if self._message is not None:
            now = timeOfDay(self._clock)
            self._intake.mixed.answered(self._transaction, self._block, self._message, now)
        self._intake.status.count("transactions", rung)
        self._logEnd(rung, len(accepted), str(final))
        self._done()

    def _rung(self) -> str:
        """
        How the sender was told, in the words of the ladder of answers.
        """
        form = self._transaction.form
        if form is Form.LMTP or self._block.enumerated:
            return form.value
        if self._resolving:
            return "mixed"
        return "single" if len(self._transaction.candidates) == 1 else "unanimous"

    def _logEnd(self, rung: str, accepted: int, reply: str) -> None:
        maillog.transactionEnd(
            self._envelope,
            rung,
            len(self._transaction.candidates),
            accepted,
            len(self._transaction.sentAway),
            0 if self._message is None else self._message.size,
            reply,
            self._clock.seconds() - self._transaction.began,
        )

    def giveUp(self, reply: Reply) -> None:
        """
        The connection is about to be closed: 4xx for what is outstanding
        (P-12).
        """
        if self._immediate is not None:
            self._immediate.end()  # it is ours, and being delivered
        elif not self._over:
            self.refuse(reply)

    def clientGone(self) -> None:
        """
        The connection is lost.  What was not answered stays the sender's.
        """
        if self._over:
            return
        self._over = True
        self._stopWaiting()
        if self._immediate is not None:
            self._immediate.end()
        if self._writer is not None and not self._committing:
            self._writer.abort()
        self._intake.status.count("transactions", "aborted")
        self._logEnd("aborted", 0, "the client was gone before the final reply")

    def _stopWaiting(self) -> None:
        for timer in (self._timer, self._window):
            if timer is not None and timer.active():
                timer.cancel()
        self._timer = self._window = None
        for _, verdict in self._verdicts:
            verdict.cancel()
