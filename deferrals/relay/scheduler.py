"""
Deliveries: fresh ones right after release, the others when they are due.

A message's recipients of one delivery and one destination make one attempt.
Attempts that may not begin now (too much is under way, or the destination is
left alone) are put into the queue, so that memory stays bounded.

An outcome is recorded right after it is known: a crash in between repeats that
one delivery.  While it cannot be recorded (a full disk) its attempt keeps its
slot, and is recorded later; so a spool that cannot be written stops deliveries
instead of repeating them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from deferrals.deferreds import withDeadline
from deferrals.interfaces import Work
from deferrals.model.delivery import Addressee, Ended, Gone, Standing, Waits
from deferrals.model.dsn import isWanted
from deferrals.model.reply import R451_LOCAL_ERROR, Reply
from deferrals.model.schedule import Schedule
from deferrals.model.verdict import Delivered, Failed, Outcome, Retry
from deferrals.relay.destinations import Destinations, isAlive

_log = Logger(namespace="deferrals.delivery")

#: How long one attempt may take, in seconds: delivery stages know better, and
#: this is for those that hang.  Longer than a server may take that answers each
#: of a hundred recipients in the last of its ten minutes (D-24).
DELIVERY_SECONDS = 86400.0

#: How long deliveries may take to end when the server stops: if a next hop is
#: silent for longer, whoever stops the server would kill it.
STOP_SECONDS = 30.0

#: How often due work is looked for when nothing else is the occasion.
EVERY_SECONDS = 5.0

#: After an attempt has ended, the next work is looked for.
REFILL_SECONDS = 0.02

#: How often the leases of what takes long are renewed.
RENEW_SECONDS = 60.0

#: So many works of one destination are claimed at once before its own limit is
#: known.
SHARE = 20

#: How long to wait before an outcome is recorded again; twice as long each time.
RECORD_SECONDS, RECORD_LONGEST_SECONDS = 1.0, 60.0

_NO_SUCH_DELIVERY = Reply(451, "4.3.5", "the configuration has no such delivery any longer")

#: Where those go who refuse what was accepted for all (L{Addressee.refusal}).
_NOWHERE = "nowhere: refused"


@attrs.define(eq=False)
class Attempt:
    """
    @ivar work: the message, for these addressees.
    @ivar delivery: the name of the delivery.
    @ivar destination: where it goes.
    @ivar schedule: what applies to it.
    @ivar began: when it was handed to us.
    @ivar delivering: the delivery's Deferred, while it is under way.
    """

    work: Work
    delivery: str
    destination: str
    schedule: Schedule
    began: float
    delivering: Deferred[Any] | None = None


class Scheduler:
    """
    @param spool: L{ISpool<deferrals.interfaces.ISpool>}.
    @param delivery: finds the
        L{IDeliveryStage<deferrals.interfaces.IDeliveryStage>} by the name that
        a recipient's route gives; L{None} where there is none.
    @param schedule: finds a delivery's L{Schedule} by its name.
    @param clock: timers.
    @param concurrency: attempts that are under way at once.
    @param chance: returns numbers from 0 to 1, for jitter.
    @ivar tell: called with the number of a message when senders are to be told
        of some of its recipients.
    """

    def __init__(
        self,
        spool: Any,
        delivery: Callable[[str], Any],
        schedule: Callable[[str], Schedule],
        clock: Any,
        concurrency: int = 100,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._spool = spool
        self._delivery = delivery
        self._schedule = schedule
        self._clock = clock
        self._chance = chance
        self.destinations = Destinations(clock, concurrency, chance)
        self.tell: Callable[[int], object] = lambda number: None
        self._attempts: dict[Attempt, None] = {}
        self._perMessage: Counter[int] = Counter()
        self._toTell: set[int] = set()
        self._idle: Deferred[None] | None = None
        self._stopping = False
        self._claiming = False
        self._more = True
        self._refill: Any = None
        self._loops = (LoopingCall(self._claim), LoopingCall(self._renew))
        for loop in self._loops:
            loop.clock = clock

    def start(self) -> None:
        """
        Look for due work now, and every so many seconds.
        """
        claiming, renewing = self._loops
        claiming.start(EVERY_SECONDS)
        renewing.start(RENEW_SECONDS, False)

    def stop(self) -> Deferred[Any]:
        """
        Begin nothing more.  What does not end in time is cancelled, and stays
        in the queue.

        @return: a Deferred that fires when what was begun has ended.
        """
        self._stopping = True
        for loop in self._loops:
            if loop.running:
                loop.stop()
        if self._refill is not None and self._refill.active():
            self._refill.cancel()
        if not self._attempts:
            return succeed(None)
        self._idle = idle = Deferred()
        timer = self._clock.callLater(STOP_SECONDS, self._cancelAll)
        return idle.addCallback(lambda _: timer.active() and timer.cancel())

    def _cancelAll(self) -> None:
        for attempt in list(self._attempts):
            if attempt.delivering is not None:
                _log.warn(
                    "{transaction}: delivery {delivery} does not end, and is given up for now",
                    transaction=attempt.work.envelope.id,
                    delivery=attempt.delivery,
                )
                attempt.delivering.cancel()

    def release(self, work: Work) -> None:
        """
        A message has become ours: deliver it now, or as soon as there is room.
        """
        attempts, later = self._admit(work)
        self._spool.release(work, later)
        self._beginAll(attempts)

    def take(self, work: Work) -> None:
        """
        The same, for what is leased to us and was ours before.
        """
        attempts, later = self._admit(work)
        if later:
            d = self._spool.record(work, later)
            d.addErrback(self._notPutBack)
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

    # What may begin.

    def _admit(self, work: Work) -> tuple[list[Attempt], dict[Addressee, Standing]]:
        """
        @return: the attempts that begin now, and the recipients that wait.
        """
        begin, later = [], {}
        for attempt in self._attemptsOf(work):
            name, limit = attempt.destination, attempt.schedule.concurrency
            if not self._stopping and self.destinations.begin(name, limit):
                begin.append(attempt)
            else:
                reply, host = self.destinations.said(name)
                waits = _waits(attempt, 0.0, reply, host, False)
                later.update(dict.fromkeys(attempt.work.addressees, waits))
        self._more = self._more or bool(later)
        return begin, later

    def _attemptsOf(self, work: Work) -> list[Attempt]:
        groups: dict[tuple[str, str], list[Addressee]] = {}
        for addressee in work.addressees:
            route = addressee.recipient.route
            name = "" if route is None else route.delivery
            where = self._destination(name, addressee) if addressee.refusal is None else _NOWHERE
            groups.setdefault((name, where), []).append(addressee)
        now = self._clock.seconds()
        attempts = []
        for (name, destination), group in groups.items():
            part = work
            if len(groups) > 1:
                part = attrs.evolve(work, addressees=tuple(group), whole=False)
            attempts.append(Attempt(part, name, destination, self._schedule(name), now))
        return attempts

    def _destination(self, name: str, addressee: Addressee) -> str:
        stage = self._delivery(name)
        if stage is None:
            return f"no delivery {name}"
        try:
            return str(stage.destination(addressee.recipient))
        except Exception:
            _log.failure("delivery {delivery} has no destination", delivery=name)
            return f"delivery {name}"

    # Due work.

    def _claim(self) -> None:
        room = self.destinations.room
        if self._stopping or room <= 0 or self._claiming:
            return
        self._claiming = True
        d = self._spool.claim(room, self.destinations.shares(), SHARE)
        d.addCallbacks(self._claimed, self._claimFailed)

    def _claimFailed(self, failure: Failure) -> None:
        self._claiming = False
        _log.error("cannot read the queue: {error}", error=failure.getErrorMessage())

    def _claimed(self, works: Sequence[Work]) -> None:
        self._claiming = False
        self._more = bool(works)
        under = {
            (attempt.work.envelope.transaction, addressee.seq)
            for attempt in self._attempts
            for addressee in attempt.work.addressees
        }
        for work in works:
            # Only a lease that could not be renewed brings back what is still under way.
            keys = {(work.envelope.transaction, addressee.seq) for addressee in work.addressees}
            if not keys & under:
                self.take(work)

    def _wake(self) -> None:
        """
        There is room again: perhaps somebody waits for it.
        """
        if self._more and not self._stopping and (self._refill is None or self._refill.called):
            self._refill = self._clock.callLater(REFILL_SECONDS, self._claim)

    def _renew(self) -> None:
        late = self._clock.seconds() - RENEW_SECONDS
        works = [attempt.work for attempt in self._attempts if attempt.began <= late]
        if works:
            self._spool.renew(works)

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
                check.addCallback(lambda _, attempt: self._deliver(attempt), attempt)
                check.addErrback(self._broken, attempt)

    def _broken(self, failure: Failure, attempt: Attempt) -> None:
        """
        There was no attempt.
        """
        self._say(attempt, failure)
        if attempt in self._attempts:
            self._end(attempt, None)

    def _say(self, attempt: Attempt, failure: Failure) -> None:
        _log.error(
            "{transaction}: delivery {delivery} failed: {error}",
            transaction=attempt.work.envelope.id,
            delivery=attempt.delivery,
            error=f"{failure.type.__name__}: {failure.getErrorMessage()}",
        )

    def _deliver(self, attempt: Attempt) -> None:
        stage, work = self._delivery(attempt.delivery), attempt.work
        group = list(work.addressees)
        d: Deferred[Any]
        if attempt.destination == _NOWHERE:
            d = succeed({one: Failed(one.refusal) for one in group if one.refusal is not None})
        elif stage is None:
            d = succeed(dict.fromkeys(group, Retry(_NO_SUCH_DELIVERY)))
        else:
            d = withDeadline(
                self._clock, DELIVERY_SECONDS, stage.deliver, work.message, work.envelope, group
            )
        attempt.delivering = d
        d.addErrback(self._failed, attempt)
        d.addCallback(self._delivered, attempt)
        d.addErrback(self._broken, attempt)

    def _failed(self, failure: Failure, attempt: Attempt) -> dict[Addressee, Outcome]:
        self._say(attempt, failure)
        return {}

    def _delivered(self, outcomes: Mapping[Addressee, Outcome], attempt: Attempt) -> None:
        attempt.delivering = None
        chance = self._chance()
        complete: dict[Addressee, Outcome] = {}
        standings: dict[Addressee, Standing] = {}
        for addressee in attempt.work.addressees:
            outcome = outcomes.get(addressee) if isinstance(outcomes, Mapping) else None
            if not isinstance(outcome, Delivered | Failed | Retry):
                outcome = Retry(R451_LOCAL_ERROR)
            complete[addressee] = outcome
            standings[addressee] = self._standing(attempt, addressee, outcome, chance)
            self._logOutcome(attempt, addressee, outcome)
            if standings[addressee] == Gone("expired", outcome.reply, outcome.host):
                _log.error(
                    "{transaction} to=<{recipient}> expired, and nobody is to be told",
                    event="untold",
                    transaction=attempt.work.envelope.id,
                    recipient=str(addressee),
                )
        first = next(iter(complete.values()))
        alive = isAlive(complete.values())
        self._record(attempt, standings, (alive, (first.reply, first.host)), RECORD_SECONDS)

    def _standing(
        self, attempt: Attempt, addressee: Addressee, outcome: Outcome, chance: float
    ) -> Standing:
        """
        What an outcome makes of a recipient.
        """
        tells = attempt.work.envelope.sender is not None
        notify = addressee.recipient.notify
        if isinstance(outcome, Delivered):
            if notify is None or outcome.action == "passed":
                return Gone("delivered", outcome.reply, outcome.host)
            action = "relayed" if outcome.action == "relayed" else "delivered"
            if tells and isWanted(notify, action):
                return Ended(action, outcome.reply, outcome.host)
            return Gone("delivered", outcome.reply, outcome.host)
        action = "failed"
        if isinstance(outcome, Failed) and outcome.told:
            return Gone(action, outcome.reply, outcome.host)
        if isinstance(outcome, Retry):
            age = attempt.work.ageSeconds + self._clock.seconds() - attempt.began
            if age < attempt.schedule.expire:
                attempts = addressee.attempts + 1
                seconds = attempt.schedule.wait(attempts, outcome.after, chance)
                return _waits(attempt, seconds, outcome.reply, outcome.host, True)
            action = "expired"
        if tells and isWanted(notify, action):
            return Ended(action, outcome.reply, outcome.host)
        return Gone(action, outcome.reply, outcome.host)

    def _logOutcome(self, attempt: Attempt, addressee: Addressee, outcome: Outcome) -> None:
        word = type(outcome).__name__.lower()
        _log.info(
            "{transaction} to=<{recipient}> {outcome} by {delivery} {reply}",
            event="delivery",
            transaction=attempt.work.envelope.id,
            recipient=str(addressee),
            outcome=word,
            delivery=attempt.delivery,
            destination=attempt.destination,
            attempt=addressee.attempts + 1,
            reply="" if outcome.reply is None else str(outcome.reply),
            host=outcome.host,
        )

    # What became of it.

    def _record(
        self,
        attempt: Attempt,
        standings: Mapping[Addressee, Standing],
        ended: tuple[bool, tuple[Reply | None, str]],
        again: float,
    ) -> None:
        if any(isinstance(standing, Ended) for standing in standings.values()):
            self._toTell.add(attempt.work.envelope.transaction)
        d = self._spool.record(attempt.work, standings)
        d.addCallbacks(
            lambda _: self._end(attempt, ended),
            self._notRecorded,
            errbackArgs=(attempt, standings, ended, again),
        )

    def _notRecorded(
        self,
        failure: Failure,
        attempt: Attempt,
        standings: Mapping[Addressee, Standing],
        ended: tuple[bool, tuple[Reply | None, str]],
        again: float,
    ) -> None:
        _log.error(
            "{transaction}: an outcome could not be recorded {consequence}: {error}",
            transaction=attempt.work.envelope.id,
            consequence="and its delivery will be repeated" if self._stopping else "yet",
            error=failure.getErrorMessage(),
        )
        if self._stopping:
            self._end(attempt, ended)
            return
        longer = min(2 * again, RECORD_LONGEST_SECONDS)
        self._clock.callLater(again, self._record, attempt, standings, ended, longer)

    def _end(self, attempt: Attempt, ended: tuple[bool, tuple[Reply | None, str]] | None) -> None:
        alive, said = (None, (None, "")) if ended is None else ended
        wait = self.destinations.ended(attempt.destination, alive, said)
        if wait is not None:
            self._backOff(attempt.destination, wait)
        del self._attempts[attempt]
        self._endMessage(attempt.work.envelope.transaction)
        self._wake()
        if not self._attempts and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def _backOff(self, destination: str, seconds: float) -> None:
        if seconds:
            reply, host = self.destinations.said(destination)
            _log.warn(
                "{destination} is left alone for {seconds} s: {host} {reply}",
                event="backoff",
                destination=destination,
                seconds=round(seconds),
                host=host,
                reply="" if reply is None else str(reply),
            )
        else:
            _log.info("{destination} works again", event="works", destination=destination)
            self._more = True
        self._spool.backOff(destination, seconds)

    def _endMessage(self, number: int) -> None:
        """
        When nothing more of a message is under way, its sender is told of all
        who are ready for that together.
        """
        self._perMessage[number] -= 1
        if self._perMessage[number]:
            return
        del self._perMessage[number]
        if number in self._toTell:
            self._toTell.discard(number)
            self.tell(number)


def _waits(
    attempt: Attempt, seconds: float, reply: Reply | None, host: str, attempted: bool
) -> Waits:
    schedule = attempt.schedule
    return Waits(
        attempt.destination, seconds, schedule.expire, schedule.warn, reply, host, attempted
    )
