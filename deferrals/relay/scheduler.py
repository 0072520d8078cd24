"""
Deliveries: fresh ones right after release, the others when they are due.

A message's recipients of one delivery and one destination make one attempt.
Attempts that may not begin now (too much is under way, or the destination is
left alone) are put into the queue, so that memory stays bounded.

An outcome is recorded right after it is known, whatever becomes of the other
recipients: a crash in between repeats that one delivery.  While it cannot be
recorded (a full disk) its attempt keeps its slot, and is recorded later; so a
spool that cannot be written stops deliveries instead of repeating them.

A session may wait for the outcomes of a message (S-6): it has taken
responsibility for it, and tells its client what became of it.  Where the client
keeps every recipient that it is told to be refused (LMTP), those recipients
leave the queue.  Once the session no longer waits, everything goes its usual
way.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from deferrals.deferreds import TimeoutError, errorText, withDeadline
from deferrals.interfaces import (
    ILocalDelivery,
    INotes,
    IReportingDelivery,
    ISpool,
    MaybeAwaitable,
    Work,
)
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import (
    NotifyThenRemove,
    Remove,
    Reschedule,
    disposition,
    handedBack,
    putBack,
)
from deferrals.model.events import happened
from deferrals.model.limits import MAX_DELIVERING
from deferrals.model.reply import Reply
from deferrals.model.status import Status
from deferrals.model.verdict import Failed, Outcome, Retry
from deferrals.relay.attempts import NOWHERE, Attempt, Deliveries, attemptsOf, checked, complete
from deferrals.relay.destinations import Destinations, HopReport, Sort, hopReport
from deferrals.relay.notices import Notifier
from deferrals.relay.recording import Recorder

_log = Logger(namespace="deferrals.delivery")

#: How long one attempt may take, in seconds: delivery stages know better, and
#: this is for those that hang.  Longer than a server may take that answers each
#: of a hundred recipients in the last of its ten minutes (D-24).
DELIVERY_SECONDS = 86400.0

#: How long deliveries may take to end when the server stops: if a next hop is
#: silent for longer, the operator's init system would kill the server.
STOP_SECONDS = 30.0

#: How often due work is looked for when nothing else is the occasion.
EVERY_SECONDS = 5.0

#: How often recipients that have waited for too long are looked for.
NOTICES_SECONDS = 2.0

#: After an attempt has ended, the next work is looked for.
REFILL_SECONDS = 0.02

#: How often the leases of what takes long are renewed.
RENEW_SECONDS = 60.0

#: So many works of one destination are claimed at once before its own limit is
#: known.
SHARE = 20

#: What a delivery reports before it has ended is recorded after so long, together
#: with what it has reported by then.
REPORTED_SECONDS = 0.1

#: So many things that are wrong with one answer are logged.
PROBLEMS = 10

_NO_SUCH_DELIVERY = Reply(451, "4.3.5", "the configuration has no such delivery any longer")


class _Waiter:
    """
    A session that waits for the outcomes of one message.

    @ivar handsBack: whether its client keeps every recipient that it is told
        to be refused.
    @ivar done: fires with the outcomes that are known, by C{seq}, when all
        attempts have ended or it has been cancelled.
    """

    def __init__(self, work: Work, handsBack: bool, ended: Callable[[], object]) -> None:
        self.handsBack = handsBack
        self.done: Deferred[dict[int, Outcome]] = Deferred(lambda _: self._end())
        self._open = {addressee.seq for addressee in work.addressees}
        self._outcomes: dict[int, Outcome] = {}
        self._ended = ended

    def heard(self, outcomes: Mapping[Addressee, Outcome]) -> None:
        """
        What is known of an attempt's recipients; the others stay in the queue.
        """
        self._outcomes.update({one.seq: outcome for one, outcome in outcomes.items()})

    def attempted(self, addressees: Iterable[Addressee]) -> None:
        """
        An attempt is over, and the queue has no recipient any longer that its client
        keeps: one that is told to be refused before that would be the client's and
        ours, if we died now.

        @param addressees: its recipients.
        """
        self._open -= {one.seq for one in addressees}
        if not self._open:
            self._end()

    def _end(self) -> None:
        self._ended()
        self.done.callback(self._outcomes)


class Scheduler:
    """
    @param spool: the queue.
    @param clock: timers.
    @param deliveries: what the configuration says of them.
    @param notifier: tells senders.
    @param concurrency: attempts that are under way at once.
    @param chance: returns numbers from 0 to 1, for jitter.
    @param notes: keep what is known of next hops; C{None} where the process forgets it.
    @ivar destinations: what is known of next hops.
    """

    def __init__(
        self,
        spool: ISpool,
        clock: IReactorTime,
        deliveries: Deliveries,
        notifier: Notifier,
        *,
        concurrency: int = MAX_DELIVERING,
        chance: Callable[[], float] = random.random,
        notes: INotes | None = None,
        status: Status | None = None,
    ) -> None:
        self._status = status or Status()
        self._spool = spool
        self._clock = clock
        self._deliveries = deliveries
        self._notifier = notifier
        self._recorder = Recorder(spool, clock)
        self._chance = chance
        self.destinations = Destinations(clock, concurrency, chance, notes)
        self._attempts: dict[Attempt, None] = {}
        self._perMessage: Counter[int] = Counter()
        self._waiters: dict[int, _Waiter] = {}
        self._toTell: set[int] = set()
        self._idle: Deferred[None] | None = None
        self._stopping = False
        self._claiming = False
        self._more = True
        self._blocked: set[Sort] = set()
        self._refill: IDelayedCall | None = None
        self._loops = {
            LoopingCall(self._claim): EVERY_SECONDS,
            LoopingCall(self._renew): RENEW_SECONDS,
            LoopingCall(self._tellLate): NOTICES_SECONDS,
        }

    def start(self) -> None:
        """
        Look for due work now, and every so many seconds; never again after L{stop}.
        """
        if self._stopping:
            return
        for loop, seconds in self._loops.items():
            loop.clock = self._clock
            loop.start(seconds)

    def stop(self) -> Deferred[None]:
        """
        Begin nothing more.  What does not end in time is cancelled, and stays
        in the queue; what is known by then is recorded.

        @return: a Deferred that fires when what was begun has ended.
        """
        self._stopping = self._recorder.isStopping = True
        for attempt in list(self._attempts):
            self._recordReported(attempt)
        for loop in self._loops:
            if loop.running:
                loop.stop()
        if self._refill is not None and self._refill.active():
            self._refill.cancel()
        return self._ended().addCallback(lambda _: self._notifier.stop())

    def _ended(self) -> Deferred[None]:
        if not self._attempts:
            return succeed(None)
        idle: Deferred[None] = Deferred()
        self._idle = idle
        timer = self._clock.callLater(STOP_SECONDS, self._cancelAll)
        return idle.addCallback(lambda _: timer.cancel() if timer.active() else None)

    def _cancelAll(self) -> None:
        for attempt in list(self._attempts):
            if attempt.delivering is not None:
                _log.warn(
                    "{transaction}: delivery {delivery} does not end, and is given up for now",
                    transaction=attempt.work.envelope.id,
                    delivery=attempt.delivery,
                )
                attempt.delivering.cancel()
            elif not attempt.isOver:
                self._notBegun(attempt)  # its message is still being looked at

    def release(self, work: Work) -> None:
        """
        A message has become ours: deliver it now, or as soon as there is room.
        """
        attempts, later = self._admit(work)
        self._spool.release(work, later)
        self._beginAll(attempts)

    def hold(self, work: Work) -> None:
        """
        A message has become ours, and stays until an operator releases it.
        """
        later: dict[Addressee, Reschedule] = {}
        now = self._clock.seconds()
        for attempt in attemptsOf(work, self._deliveries, now):
            waits = attrs.evolve(putBack(attempt.queued(now, 0.0), None, ""), isHeld=True)
            later.update(dict.fromkeys(attempt.work.addressees, waits))
        self._spool.release(work, later)

    def releaseAndWait(self, work: Work, handsBack: bool) -> Deferred[dict[int, Outcome]]:
        """
        The same, for a session that waits for the outcomes (S-6).

        @param handsBack: whether its client keeps every recipient that it is
            told to be refused, for good or for now.
        @return: a Deferred that fires with the outcomes that are known, by
            C{seq}, when all attempts have ended; or at once, when it is
            cancelled.
        """
        number = work.envelope.transaction
        waiter = _Waiter(work, handsBack, lambda: self._waiters.pop(number))
        self._waiters[number] = waiter
        self.release(work)
        return waiter.done

    def take(self, work: Work) -> None:
        """
        Deliver what is leased to us and was ours before.
        """
        attempts, later = self._admit(work)
        if later:
            d = self._spool.record(work, later)
            d.addErrback(self._notPutBack)
        self._more = self._more or bool(attempts)
        self._beginAll(attempts)

    def _notPutBack(self, failure: Failure) -> None:
        _log.error("it waits for its lease: {error}", error=failure.getErrorMessage())

    def again(self) -> None:
        """
        An operator has put work into the queue that is due now, whatever its
        destination has done.
        """
        self.destinations.forget()
        self._more = True
        self._wake()

    def reloaded(self, concurrency: int) -> None:
        """
        The configuration has changed.
        """
        self.destinations.limit = concurrency
        self.again()

    def _admit(self, work: Work) -> tuple[list[Attempt], dict[Addressee, Reschedule]]:
        """
        @return: the attempts that begin now, and the recipients that wait.
        """
        begin: list[Attempt] = []
        later: dict[Addressee, Reschedule] = {}
        now = self._clock.seconds()
        for attempt in attemptsOf(work, self._deliveries, now):
            name, limit = attempt.destination, attempt.schedule.concurrency
            isLocal = self._isLocal(attempt)
            if not self._stopping and self.destinations.begin(
                name, limit, attempt.kind, isLocal=isLocal
            ):
                begin.append(attempt)
            else:
                last = self.destinations.lastReport(name)
                waits = putBack(attempt.queued(now, 0.0), last.reply, last.host)
                later.update(dict.fromkeys(attempt.work.addressees, waits))
                self._waits(self.destinations.sort(name, attempt.kind, isLocal=isLocal))
        return begin, later

    def _isLocal(self, attempt: Attempt) -> bool:
        """
        Whether it waits for no other machine.
        """
        stage = self._deliveries.stage(attempt.delivery)
        return attempt.destination == NOWHERE or stage is None or ILocalDelivery.providedBy(stage)

    def _waits(self, sort: Sort) -> None:
        """
        There is something in the queue that could not begin.  Where others of its
        kind are in the way, or servers that are silent, it is for them to make room:
        the queue may be full of the same, and would be gone through again and again.
        """
        if self.destinations.room > 0 and self.destinations.isBlocked(sort):
            self._blocked.add(sort)
        else:
            self._more = True

    def _lessBlocked(self) -> None:
        """
        An attempt has ended: perhaps others of some sort may begin.
        """
        found = {sort for sort in self._blocked if not self.destinations.isBlocked(sort)}
        self._blocked -= found
        self._more = self._more or bool(found)

    # Due work.

    def _claim(self) -> None:
        room = self.destinations.room
        if room <= 0 or self._claiming:
            return
        self._claiming = True
        share = 1 if self._blocked else SHARE  # most of it might only be put back
        d = self._spool.claim(room, self.destinations.shares(), share)
        d.addCallbacks(self._claimed, self._claimFailed)

    def _claimFailed(self, failure: Failure) -> None:
        self._claiming = False
        _log.error("cannot read the queue: {error}", error=failure.getErrorMessage())

    def _claimed(self, works: Sequence[Work]) -> None:
        self._claiming = False
        self._more = False
        underWay = {key for attempt in self._attempts for key in attempt.keys}
        for work in works:
            # Only a lease that could not be renewed brings back what is still under way.
            keys = {(work.envelope.transaction, addressee.seq) for addressee in work.addressees}
            if keys & underWay:
                self._more = True
            else:
                self.take(work)

    def _wake(self) -> None:
        """
        There is room again: perhaps due work waits for it.
        """
        refilling = self._refill is not None and self._refill.active()
        if self._more and not self._stopping and not refilling:
            self._refill = self._clock.callLater(REFILL_SECONDS, self._claim)

    def _renew(self) -> None:
        late = self._clock.seconds() - RENEW_SECONDS
        works = [work for one in self._attempts if one.began <= late for work in one.works]
        if works:
            self._spool.renew(works)

    # Notices.

    def _tellLate(self) -> Deferred[None]:
        """
        @return: a Deferred: the next sweep waits for this one.
        """
        return self._notifier.sweep().addCallback(self._takeAll)

    def _takeAll(self, notices: Sequence[Work]) -> None:
        for notice in notices:
            self.take(notice)

    # One attempt.

    def _beginAll(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self._attempts[attempt] = None
            self._perMessage[attempt.work.envelope.transaction] += 1
        for attempt in attempts:
            check = self._spool.check(attempt.work)
            if check is None:
                self._deliver(attempt)
            else:
                check.addCallback(lambda _, attempt: self._checked(attempt), attempt)
                check.addErrback(self._notAttempted, attempt)

    def _checked(self, attempt: Attempt) -> None:
        """
        A message is whole: it is delivered, unless the server has begun to stop meanwhile.
        """
        if self._stopping:
            self._notBegun(attempt)
        else:
            self._deliver(attempt)

    def _notAttempted(self, failure: Failure, attempt: Attempt) -> None:
        self._logFailure(failure, attempt)
        self._notBegun(attempt)

    def _notBegun(self, attempt: Attempt) -> None:
        """
        It is over before anything is known of it: its recipients stay in the queue.
        """
        attempt.over()
        if attempt in self._attempts:
            self._tell(attempt.work)
            self._end(attempt, None)

    def _logFailure(self, failure: Failure, attempt: Attempt) -> None:
        self._logProblem(attempt, f"failed: {errorText(failure)}")

    def _logProblem(self, attempt: Attempt, problem: str) -> None:
        stage = self._deliveries.stage(attempt.delivery)
        _log.error(
            "{transaction}: delivery {delivery} ({stage}) of {recipients} {problem}",
            transaction=attempt.work.envelope.id,
            delivery=attempt.delivery,
            stage="none" if stage is None else type(stage).__name__,
            recipients=attempt.recipients,
            problem=problem,
        )

    def _deliver(self, attempt: Attempt) -> None:
        attempt.delivering = d = self._asked(attempt)
        d.addCallbacks(self._answered, self._failed, (attempt,), errbackArgs=(attempt,))
        d.addCallback(self._delivered, attempt)
        d.addErrback(self._notAttempted, attempt)

    def _asked(self, attempt: Attempt) -> Deferred[Mapping[Addressee, Outcome]]:
        """
        @return: a Deferred of the stage's answer, whatever that is.
        """
        stage, work = self._deliveries.stage(attempt.delivery), attempt.work
        group = list(work.addressees)
        if attempt.destination == NOWHERE:
            return succeed({one: Failed(one.refusal) for one in group if one.refusal is not None})
        if stage is None:
            return succeed(dict.fromkeys(group, Retry(_NO_SUCH_DELIVERY)))

        def deliver() -> MaybeAwaitable[Mapping[Addressee, Outcome]]:
            if not IReportingDelivery.providedBy(stage):
                return stage.deliver(work.message, work.envelope, group)
            report = functools.partial(self._reported, attempt)
            return stage.deliverReporting(work.message, work.envelope, group, report)

        return withDeadline(self._clock, DELIVERY_SECONDS, deliver)

    def _reported(self, attempt: Attempt, addressee: Addressee, outcome: Outcome) -> None:
        """
        An outcome is known before the delivery has ended.
        """
        problem = attempt.heard(addressee, outcome)
        if problem:
            self._logProblem(attempt, problem)
        elif attempt.timer is None:
            self._recordSoon(attempt)

    def _recordSoon(self, attempt: Attempt) -> None:
        attempt.timer = self._clock.callLater(REPORTED_SECONDS, self._recordReported, attempt)

    def _recordReported(self, attempt: Attempt) -> None:
        """
        Record what is known of an attempt that has not ended.
        """
        if attempt.timer is None:
            return
        if attempt.timer.active():
            attempt.timer.cancel()
        attempt.timer = None
        outcomes = {
            one: attempt.outcomes[one] for one in attempt.work.addressees if one in attempt.outcomes
        }
        if attempt.work.envelope.transaction in self._waiters:
            self._recordSoon(attempt)  # the session is told of all of it together
        elif outcomes:
            self._record(attempt, outcomes)

    def _answered(
        self, answer: Mapping[Addressee, Outcome], attempt: Attempt
    ) -> Mapping[Addressee, Outcome]:
        heard = attempt.outcomes
        asked = [one for one in attempt.work.addressees if one not in heard]
        found = checked(answer, asked, heard)
        for problem in found.problems[:PROBLEMS]:
            self._logProblem(attempt, problem)
        return found.outcomes

    def _failed(self, failure: Failure, attempt: Attempt) -> Mapping[Addressee, Outcome]:
        if failure.check(TimeoutError):
            happened(self._status, "late", {"stage": "delivery"})
        self._logFailure(failure, attempt)
        return {}

    def _delivered(self, known: Mapping[Addressee, Outcome], attempt: Attempt) -> None:
        """
        A recipient of which the stage did not say an outcome is tried again.

        @param known: what the stage has said at its end.
        """
        attempt.over()
        attempt.outcomes.update(known)
        addressees = attempt.work.addressees
        said = {one: attempt.outcomes[one] for one in addressees if one in attempt.outcomes}
        outcomes = complete(self._answer(attempt, said), addressees)
        attempt.outcomes.update(outcomes)
        if outcomes:
            self._record(attempt, outcomes)
        else:
            self._recorded(attempt)

    def _record(self, attempt: Attempt, outcomes: Mapping[Addressee, Outcome]) -> None:
        """
        These outcomes stand.
        """
        queued = attempt.queued(self._clock.seconds(), self._chance())
        dispositions = {
            addressee: disposition(outcome, addressee, queued)
            for addressee, outcome in outcomes.items()
        }
        for addressee, outcome in outcomes.items():
            waits = isinstance(dispositions[addressee], Reschedule)
            self._logOutcome(attempt, addressee, outcome, waits)
            if dispositions[addressee] == Remove("expired", outcome.reply, outcome.host):
                self._logUntold(attempt, addressee)
        if any(isinstance(one, NotifyThenRemove) for one in dispositions.values()):
            self._toTell.add(attempt.work.envelope.transaction)
        part = attempt.part(outcomes)
        attempt.recording[part] = None
        self._recorder.record(part, dispositions).addCallback(
            lambda _: self._recorded(attempt, part)
        )

    def _recorded(self, attempt: Attempt, part: Work | None = None) -> None:
        """
        @param part: what was recorded.
        """
        if part is not None:
            del attempt.recording[part]
            self._tell(part)
        if attempt in self._attempts and attempt.isOver and not attempt.works:
            self._end(attempt, hopReport(attempt.outcomes.values()))

    def _answer(
        self, attempt: Attempt, outcomes: Mapping[Addressee, Outcome]
    ) -> Mapping[Addressee, Outcome]:
        """
        What the session that waits will be told, if there is one.

        @return: the outcomes for the queue.
        """
        waiter = self._waiters.get(attempt.work.envelope.transaction)
        if waiter is None:
            return outcomes
        waiter.heard(outcomes)
        if not waiter.handsBack:
            return outcomes
        return {addressee: handedBack(outcome) for addressee, outcome in outcomes.items()}

    def _tell(self, part: Work) -> None:
        waiter = self._waiters.get(part.envelope.transaction)
        if waiter is not None:
            waiter.attempted(part.addressees)

    def _logOutcome(
        self, attempt: Attempt, addressee: Addressee, outcome: Outcome, waits: bool
    ) -> None:
        """
        One recipient's outcome, with what no sender is told.

        @param waits: whether the recipient stays in the queue.
        """
        isExpired = isinstance(outcome, Retry) and not waits
        word = "expired" if isExpired else type(outcome).__name__.lower()
        stage = self._deliveries.stage(attempt.delivery)
        details, reply = outcome.details, "" if outcome.reply is None else str(outcome.reply)
        seconds = self._clock.seconds() - attempt.began
        more = details.line()
        _log.tell(
            self._status,
            "{transaction} to=<{recipient}> {outcome} by {delivery}{log_said}, {seconds} s",
            event="delivery",
            transaction=attempt.work.envelope.id,
            recipient=str(addressee),
            outcome=word,
            delivery=attempt.delivery,
            use="none" if stage is None else self._status.useOf(stage),
            destination=attempt.destination,
            attempt=addressee.attempts + 1,
            reply=reply,
            host=outcome.host,
            final="" if details.final is None else str(details.final),
            address=details.address,
            port=details.port,
            tls=details.tls,
            verified=details.verified,
            cause=details.cause,
            seconds=round(seconds, 3),
            log_said="".join((f" {reply}" if reply else "", f" ({more})" if more else "")),
        )

    def _logUntold(self, attempt: Attempt, addressee: Addressee) -> None:
        _log.tell(
            self._status,
            "{transaction} to=<{recipient}> expired, and the sender is not told",
            event="untold",
            level=LogLevel.error,
            transaction=attempt.work.envelope.id,
            recipient=str(addressee),
        )

    # What became of it.

    def _end(self, attempt: Attempt, report: HopReport | None) -> None:
        """
        @param report: what the attempt met; C{None} if it did not come so far.
        """
        seconds = self.destinations.ended(attempt.destination, report, attempt.kind, attempt.began)
        if seconds is not None:
            self._backOff(attempt.destination, seconds)
        del self._attempts[attempt]
        self._lessBlocked()
        self._endMessage(attempt.work.envelope.transaction)
        self._wake()
        if not self._attempts and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def _backOff(self, destination: str, seconds: float) -> None:
        if seconds:
            last = self.destinations.lastReport(destination)
            _log.tell(
                self._status,
                "{destination} is left alone for {seconds} s: {host} {reply} {cause}",
                event="backoff",
                level=LogLevel.warn,
                destination=destination,
                seconds=round(seconds),
                host=last.host,
                reply="" if last.reply is None else str(last.reply),
                cause=last.details.cause,
            )
        else:
            _log.tell(
                self._status,
                "{destination} works again",
                event="works",
                destination=destination,
            )
            self._more = True
        self._spool.backOff(destination, seconds)

    def _endMessage(self, number: int) -> None:
        """
        When nothing more of a message is under way, its sender is told of all
        recipients together whose outcome stands.
        """
        self._perMessage[number] -= 1
        if self._perMessage[number]:
            return
        del self._perMessage[number]
        if number in self._toTell:
            self._toTell.discard(number)
            self._notifier.tell(number).addCallback(self._takeAll)
