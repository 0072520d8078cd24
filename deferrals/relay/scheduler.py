"""
Deliveries: fresh ones right after release, the others when they are due.

A message's recipients of one delivery and one destination make one attempt.
Fresh ones that may not begin now, since too much is under way, wait in memory, as many
as have room there (L{deferrals.relay.fresh}); what is left of them, and what goes to a
destination that is left alone, is put into the queue.

An outcome is recorded right after it is known, whatever becomes of the other
recipients: a crash in between repeats that one delivery.  While it cannot be
recorded (a full disk) its attempt keeps its slot, and is recorded later; so a
spool that cannot be written stops deliveries instead of repeating them.
"""

from __future__ import annotations

import functools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from deferrals.deferreds import isDeferred, promptly
from deferrals.interfaces import (
    INotes,
    IReportingDelivery,
    ISpool,
    Work,
)
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import (
    NotifyThenRemove,
    Reschedule,
    disposition,
    putBack,
)
from deferrals.model.limits import MAX_DELIVERING
from deferrals.model.portion import Portion
from deferrals.model.reply import Reply
from deferrals.model.status import Status
from deferrals.model.verdict import Outcome, Retry
from deferrals.relay.attempts import (
    NOWHERE,
    Attempt,
    Deliveries,
    attemptsOf,
    checked,
    complete,
    settled,
)
from deferrals.relay.deliverylog import DeliveryLog
from deferrals.relay.destinations import (
    FIRST_SECONDS,
    Destinations,
    HopReport,
    Sort,
    hopReport,
)
from deferrals.relay.duework import DueWork
from deferrals.relay.fresh import WAIT_SECONDS, FreshMail
from deferrals.relay.notices import Notifier
from deferrals.relay.recording import Recorder
from deferrals.relay.waiters import Waiters

_T = TypeVar("_T")

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

#: How often the leases of what takes long are renewed.
RENEW_SECONDS = 60.0

#: What a delivery reports before it has ended is recorded after so long, together
#: with what it has reported by then.
REPORTED_SECONDS = 0.1

#: So many things that are wrong with one answer are logged.
PROBLEMS = 10

_NO_SUCH_DELIVERY = Reply(451, "4.3.5", "the configuration has no such delivery any longer")


class Scheduler:
    """
    @param spool: the queue.
    @param clock: timers.
    @param deliveries: what the configuration says of them.
    @param notifier: tells senders.
    @param concurrency: attempts that are under way at once.
    @param chance: returns numbers from 0 to 1, for jitter.
    @param notes: keep what is known of next hops; C{None} where the process forgets it.
    @param isShared: whether others have the same queue.  Then that knows better than this
        process which destinations are left alone.
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
        isShared: bool = False,
    ) -> None:
        self._spool = spool
        self._isShared = isShared
        self._clock = clock
        self._deliveries = deliveries
        self._notifier = notifier
        self._recorder = Recorder(spool, clock)
        self._logs = DeliveryLog(status or Status(), clock, deliveries)
        self._chance = chance
        self.destinations = Destinations(clock, concurrency, chance, notes)
        self._attempts: dict[Attempt, None] = {}
        self._perMessage: defaultdict[int, int] = defaultdict(int)
        self._waiters = Waiters()
        self._toTell: set[int] = set()
        self._idle: Deferred[None] | None = None
        self._stopping = False
        self._fresh = FreshMail()
        self._goingOn = self._isMoreRoom = False
        self._due = DueWork(spool, clock, self.destinations, deliveries, self._takeDue)
        self._loops = {
            LoopingCall(self._due.claim): EVERY_SECONDS,
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
        self._due.stop()
        self._putAway(math.inf)
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
        attempts, later = self._admit(work, self._mayBeginFresh, self._keep)
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
        outcomes = self._waiters.add(work, handsBack)
        self.release(work)
        return outcomes

    def take(self, work: Work) -> bool:
        """
        Deliver what is leased to us and was ours before.

        @return: whether any of it begins.
        """
        attempts, later = self._admit(work, self._mayBegin, lambda _: False)
        if later:
            self._putBack(work, later)
            self._leaveAlone({one.destination for one in later.values()})
        self._due.isMore = self._due.isMore or bool(attempts)
        self._beginAll(attempts)
        return bool(attempts)

    def _putBack(self, work: Work, later: Mapping[Addressee, Reschedule]) -> None:
        self._spool.release(work, later)

    def _leaveAlone(self, names: Iterable[str]) -> None:
        """
        What another process has met is not known to this queue, which would hand out the
        same again at once.  A queue that several share knows it, and more: another process
        has found that a destination works, or an operator wants it tried.
        """
        for name in names:
            seconds = self.destinations.remaining(name)
            if seconds > 0 and self._isShared:
                self.destinations.hasten(name)
            elif seconds > 0:
                self._spool.backOff(name, min(seconds, FIRST_SECONDS))

    def again(self) -> None:
        """
        An operator has put work into the queue that is due now, whatever its
        destination has done.
        """
        self.destinations.forget()
        self._due.again()

    def shareWith(self, portion: Portion) -> None:
        """
        Others deliver to the same destinations; what is under way goes on, and more room
        is seen when it is looked for due work next.

        @param portion: what this process has of what there may be at once.
        """
        self.destinations.shareWith(portion)

    def reloaded(self, concurrency: int) -> None:
        """
        The configuration has changed.
        """
        self.destinations.limitTo(concurrency)
        self._putAway(math.inf)
        self.again()

    def _admit(
        self, work: Work, mayBegin: Callable[[Attempt], bool], keep: Callable[[Attempt], bool]
    ) -> tuple[list[Attempt], dict[Addressee, Reschedule]]:
        """
        @param mayBegin: whether an attempt may begin now; then it has.
        @param keep: whether it waits in memory.
        @return: the attempts that begin now, and the recipients that wait in the queue.
        """
        begin: list[Attempt] = []
        later: dict[Addressee, Reschedule] = {}
        now = self._clock.seconds()
        for attempt in attemptsOf(work, self._deliveries, now):
            if not self._stopping and mayBegin(attempt):
                begin.append(attempt)
            elif self._stopping or not keep(attempt):
                later.update(self._waiting(attempt))
                continue
            self._perMessage[attempt.number] += 1
        return begin, later

    def _waiting(self, attempt: Attempt) -> dict[Addressee, Reschedule]:
        """
        @return: the recipients of an attempt that waits in the queue.
        """
        name = attempt.destination
        last = self.destinations.lastReport(name)
        waits = putBack(attempt.queued(self._clock.seconds(), 0.0), last.reply, last.host)
        self._due.waits(name, self._sortOf(attempt))
        return dict.fromkeys(attempt.work.addressees, waits)

    def _sortOf(self, attempt: Attempt) -> Sort:
        return self.destinations.sort(attempt.destination, attempt.kind, isLocal=attempt.isLocal)

    def _mayBegin(self, attempt: Attempt) -> bool:
        return self.destinations.begin(
            attempt.destination, attempt.limit, attempt.kind, isLocal=attempt.isLocal
        )

    def _mayBeginFresh(self, attempt: Attempt) -> bool:
        """
        Those that wait already come first; and while work is found in the queue, half of
        the slots are for that.
        """
        return not self._fresh.isWaiting(attempt) and self._mayFollow(attempt)

    def _keep(self, attempt: Attempt) -> bool:
        isTroubled = self.destinations.isTroubled(attempt.destination)
        return not isTroubled and self._fresh.keep(attempt)

    def _mayFollow(self, attempt: Attempt) -> bool:
        spare = self.destinations.limit // 2 if self._due.isFound else 0
        return self.destinations.room > spare and self._mayBegin(attempt)

    def _putAway(self, began: float) -> None:
        """
        Put the fresh mail into the queue that has waited in memory since then.
        """
        self._intoQueue(self._fresh.late(began))

    def putBack(self, numbers: Collection[int]) -> None:
        """
        An operator is about to change messages: what of them waits in memory is put into
        the queue.
        """
        self._intoQueue(self._fresh.of(numbers))

    def _intoQueue(self, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            self._putBack(attempt.work, self._waiting(attempt))
            self._endMessage(attempt.number)

    # Due work.

    def _takeDue(self, works: Sequence[Work]) -> bool:
        """
        @return: whether any of it begins.
        """
        underWay = {key for attempt in self._attempts for key in attempt.keys}
        begun = False
        for work in works:
            number, found = work.envelope.transaction, []
            for one in work.addressees:
                key = number, one.seq
                if key not in underWay and key not in self._fresh:
                    found.append(one)
            if len(found) < len(work.addressees):
                # Only a lease that could not be renewed brings back what is still under way.
                self._due.isMore = True
                work = attrs.evolve(work, addressees=tuple(found), whole=False)
            begun = (bool(found) and self.take(work)) or begun
        self._goOn(None)
        return begun

    def _goOn(self, line: Hashable) -> None:
        """
        There is room for fresh mail that waits.

        @param line: where an attempt has ended.
        """
        self._isMoreRoom = True
        if self._stopping or self._goingOn or not self._fresh:
            return
        self._goingOn = True
        while self._isMoreRoom:
            ready = list(self._fresh.ready(self._mayFollow, line))
            self._isMoreRoom = bool(ready) and self._fresh.isAskedInPart
            self._beginAll(ready)  # what ends at once makes room for the next
        self._goingOn = False

    def _renew(self) -> None:
        now = self._clock.seconds()
        self._putAway(now - WAIT_SECONDS)
        late = now - RENEW_SECONDS
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
        self._logs.failed(attempt, failure)
        self._notBegun(attempt)

    def _notBegun(self, attempt: Attempt) -> None:
        """
        It is over before anything is known of it: its recipients stay in the queue.
        """
        attempt.over()
        if attempt in self._attempts:
            self._waiters.tell(attempt.work)
            self._end(attempt, None)

    def _deliver(self, attempt: Attempt) -> None:
        """
        What is delivered at once, is over at once: no Deferred is made for it.
        """
        try:
            answer = self._asked(attempt)
        except BaseException:
            return self._settle(self._failed, Failure(), attempt)
        if not isDeferred(answer):
            return self._settle(self._answered, answer, attempt)
        attempt.delivering = answer
        answer.addCallbacks(
            lambda answer: self._settle(self._answered, answer, attempt),
            lambda failure: self._settle(self._failed, failure, attempt),
        )

    def _settle(
        self,
        known: Callable[[_T, Attempt], Mapping[Addressee, Outcome]],
        answer: _T,
        attempt: Attempt,
    ) -> None:
        """
        A delivery has ended.

        @param known: what its answer says.
        """
        try:
            self._delivered(known(answer, attempt), attempt)
        except BaseException:  # as with what its deliver raises
            self._notAttempted(Failure(), attempt)

    def _asked(
        self, attempt: Attempt
    ) -> Mapping[Addressee, Outcome] | Deferred[Mapping[Addressee, Outcome]]:
        """
        @return: the stage's answer, whatever that is.
        """
        stage, work = self._deliveries.stage(attempt.delivery), attempt.work
        group = list(work.addressees)
        if attempt.destination == NOWHERE:
            return {one: settled(one) for one in group}
        if stage is None:
            return dict.fromkeys(group, Retry(_NO_SUCH_DELIVERY))
        given = work.message, work.envelope, group
        if not IReportingDelivery.providedBy(stage):
            return promptly(self._clock, DELIVERY_SECONDS, stage.deliver, *given)
        report = functools.partial(self._reported, attempt)
        return promptly(self._clock, DELIVERY_SECONDS, stage.deliverReporting, *given, report)

    def _reported(self, attempt: Attempt, addressee: Addressee, outcome: Outcome) -> None:
        """
        An outcome is known before the delivery has ended.
        """
        problem = attempt.heard(addressee, outcome)
        if problem:
            self._logs.problem(attempt, problem)
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
        if attempt.number in self._waiters:
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
            self._logs.problem(attempt, problem)
        return found.outcomes

    def _failed(self, failure: Failure, attempt: Attempt) -> Mapping[Addressee, Outcome]:
        self._logs.failed(attempt, failure)
        return {}

    def _delivered(self, known: Mapping[Addressee, Outcome], attempt: Attempt) -> None:
        """
        A recipient of which the stage did not say an outcome is tried again.

        @param known: what the stage has said at its end.
        """
        attempt.over()
        attempt.outcomes.update(known)
        addressees, heard = attempt.work.addressees, attempt.outcomes
        said = {one: found for one in addressees if (found := heard.get(one)) is not None}
        outcomes = complete(self._waiters.answer(attempt.number, said), addressees)
        heard.update(outcomes)
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
        self._logs.outcomes(attempt, outcomes, dispositions)
        if NotifyThenRemove in map(type, dispositions.values()):
            self._toTell.add(attempt.number)
        part = attempt.part(outcomes)
        attempt.recording[part] = None
        self._recorder.record(part, dispositions, lambda: self._recorded(attempt, part))

    def _recorded(self, attempt: Attempt, part: Work | None = None) -> None:
        """
        @param part: what was recorded.
        """
        if part is not None:
            del attempt.recording[part]
            self._waiters.tell(part)
        if attempt in self._attempts and attempt.isOver and not attempt.works:
            self._end(attempt, hopReport(attempt.outcomes.values()))

    # What became of it.

    def _end(self, attempt: Attempt, report: HopReport | None) -> None:
        """
        @param report: what the attempt met; C{None} if it did not come so far.
        """
        name, destinations = attempt.destination, self.destinations
        wasKnown = attempt.isLocal or destinations.hasAnswered(name)
        seconds = destinations.ended(name, report, attempt.kind, attempt.began)
        if seconds is not None:
            self._leftAlone(name, seconds)
        del self._attempts[attempt]
        self._due.lessBlocked(name, hasAnswered=not wasKnown and destinations.hasAnswered(name))
        self._endMessage(attempt.number)
        self._goOn(attempt.line)
        self._due.wake()
        if not self._attempts and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def _leftAlone(self, destination: str, seconds: float) -> None:
        """
        @param seconds: for how long; 0 where it works again.
        """
        self._logs.leftAlone(destination, self.destinations.lastReport(destination), seconds)
        self._due.isMore = self._due.isMore or not seconds
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
