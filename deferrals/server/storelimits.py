"""
Limits that hold for all machines which share a database.

What is spent (logins that fail, what users send) is counted in the database, and by this
machine, too: what is too much for one machine is too much for all, and is not asked for.
While the database is away, or does not answer in time, this machine's own count stands;
what was given back meanwhile is given back there when it answers again.

What is there at once:

  - C{connections} are divided by the machines that live: each of all connections would
    wait for the database otherwise.
  - What one key may have (C{connections_per_address}) is not: a sender may have turned to
    one machine alone.  A quarter is divided, and costs no question.  Who wants more than
    that shares the rest with all machines, in the database.

A machine that is alone asks nothing of what is there at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.interfaces import ILimits
from deferrals.logger import Logger
from deferrals.model.arrears import Arrears
from deferrals.model.windows import KEYS
from deferrals.server.company import Company
from deferrals.server.limits import KEYS_OF
from deferrals.spool.postgresql import spending
from deferrals.spool.postgresql.connection import StoreConnection

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

_log = Logger(namespace="deferrals")

_T = TypeVar("_T")
_P = ParamSpec("_P")

#: How long an answer may take, in seconds.
ANSWER_SECONDS = 2.0

#: One that has not answered is asked nothing for so long, in seconds: a login has several
#: questions, and waits for one of them.
REST_SECONDS = 5.0

#: What is divided by the machines.
DIVIDED = frozenset({"connections"})

#: This part of what a key may have is divided; the rest is for all.
QUARTER = 4

#: What does not count any longer, and what is too much, goes so often, in seconds; and after
#: so many that were spent.
TRIM_SECONDS, TRIM_SPENT = 60.0, 5_000


class _NothingSaid(Exception):
    """
    @ivar isMaybeDone: whether it may have been done all the same.
    """

    def __init__(self, isMaybeDone: bool = False) -> None:
        super().__init__()
        self.isMaybeDone = isMaybeDone


@implementer(ILimits)
class StoreLimits:
    """
    @param own: what this machine counts.
    @param connection: what is committed there need not be on a disk: it is visible.
    @param company: who else counts.
    """

    def __init__(
        self, own: ILimits, connection: StoreConnection, clock: IReactorTime, company: Company
    ) -> None:
        self._own = own
        self._connection = connection
        self._clock = clock
        self._company = company
        self._isAway = False
        self._common: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._asking: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._mine: dict[tuple[str, str], tuple[int, int]] = {}
        self._me = company.me
        self._unsettled: set[tuple[str, str]] = set()
        self._spent = 0
        self._rests = 0.0
        self._arrears = Arrears(KEYS)
        self._paying: IDelayedCall | None = None
        self._trimming = LoopingCall(self._trim)
        self._trimming.clock = clock
        company.watchers.append(self._others)

    def start(self) -> None:
        """
        Keep what is counted within its bounds.
        """
        self._trimming.start(TRIM_SECONDS, now=False)

    def stop(self) -> None:
        """
        The connection is about to be closed.
        """
        if self._trimming.running:
            self._trimming.stop()
        if self._paying is not None and self._paying.active():
            self._paying.cancel()

    def used(self, limit: str) -> dict[str, int]:
        """
        See L{ILimits.used}: what was spent at this machine.
        """
        return self._own.used(limit)

    # What is spent.

    def spend(self, limit: str, key: str, amount: int, most: int, seconds: float) -> Deferred[bool]:
        """
        See L{ILimits.spend}.
        """
        return Deferred.fromCoroutine(self._spend(limit, key, amount, most, seconds))

    async def _spend(self, limit: str, key: str, amount: int, most: int, seconds: float) -> bool:
        if not await self._own.spend(limit, key, amount, most, seconds):
            return False
        found = await self._spendForAll(limit, key, amount, most, seconds)
        if found is False and amount > 0:
            await self._own.spend(limit, key, -amount, most, seconds)
        self._spent += 1
        if self._spent >= TRIM_SPENT:
            self._trim()
        return found is not False

    async def _spendForAll(
        self, limit: str, key: str, amount: int, most: int, seconds: float
    ) -> bool | None:
        """
        @return: C{None} where there is no answer.
        """
        entry = limit, key
        rest = self._arrears.rest(entry, amount, seconds, self._clock.seconds())
        if rest == 0 and amount < 0:
            return None
        try:
            return await self._answer(spending.spend, limit, key, rest, most, seconds)
        except _NothingSaid as error:
            if rest < 0 or not error.isMaybeDone:
                self._arrears.missed(entry, rest, seconds, self._clock.seconds())
            if rest < 0:
                self._payLater()
            return None

    def _payLater(self) -> None:
        if self._paying is None or not self._paying.active():
            self._paying = self._clock.callLater(REST_SECONDS, self._pay)

    def _pay(self) -> None:
        """
        Give back what could not be given back when it was known.
        """
        for (limit, key), amount, seconds in self._arrears.owed(self._clock.seconds()):
            d = self._connection.alone(spending.spend, limit, key, amount, 0, seconds)
            d.addErrback(self._notPaid, (limit, key), amount, seconds)

    def _notPaid(
        self, failure: Failure, entry: tuple[str, str], amount: int, seconds: float
    ) -> None:
        """
        The database is away still; what may have been done is not done once more.
        """
        failure.trap(SpoolError)
        if failure.check(StoreAway):
            self._arrears.missed(entry, amount, seconds, self._clock.seconds())
            self._payLater()

    async def _asked(
        self,
        function: Callable[Concatenate[Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T | None:
        """
        @return: C{None} where there is no answer.
        """
        try:
            return await self._answer(function, *args, **kwargs)
        except _NothingSaid:
            return None

    async def _answer(
        self,
        function: Callable[Concatenate[Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """
        @raise _NothingSaid: there is none.
        """
        if self._clock.seconds() < self._rests:
            raise _NothingSaid
        asked = self._connection.alone(function, *args, **kwargs)
        try:
            found = await asked.addTimeout(ANSWER_SECONDS, self._clock)
        except DeferredTimeout:
            self._rests = self._clock.seconds() + REST_SECONDS
            self._say("it does not answer")
            raise _NothingSaid(isMaybeDone=True) from None
        except SpoolError as error:
            self._say(str(error))
            raise _NothingSaid(isMaybeDone=isinstance(error, OutcomeUnknown)) from None
        self._say("")
        return found

    def _say(self, why: str) -> None:
        """
        Once each time.
        """
        if self._isAway is not bool(why):
            self._isAway = bool(why)
            if why:
                _log.warn(
                    "limits are this machine's own for now: {error}",
                    event="limits",
                    state="away",
                    error=why,
                )
            else:
                _log.info("limits hold for all machines again", event="limits", state="back")

    # What is there at once.

    def enter(self, limit: str, key: str, most: int) -> Deferred[bool]:
        """
        See L{ILimits.enter}.
        """
        machines, entry = self._company.machines, (limit, key)
        if limit in DIVIDED:
            return self._own.enter(limit, key, max(1, most // machines))
        if machines == 1:
            return Deferred.fromCoroutine(self._enterOwn(entry, most, most))
        return Deferred.fromCoroutine(self._enter(entry, most))

    async def _enter(self, entry: tuple[str, str], most: int) -> bool:
        mine = self._quarter(most)
        if await self._enterOwn(entry, mine, most):
            return True
        me = self._company.me
        if me is None:
            return await self._enterOwn(entry, most, most)
        self._common[entry] += 1
        self._asking[entry] += 1
        try:
            common = most - mine * self._company.machines
            found = await self._asked(spending.enter, me, *entry, self._share(entry), common)
        except BaseException:  # who waited for it has gone
            self._leave(entry)
            raise
        finally:
            _less(self._asking, entry)
        if found is None:
            self._leave(entry)
            return await self._enterOwn(entry, most, most)
        if not found:
            _less(self._common, entry)
        return found

    async def _enterOwn(self, entry: tuple[str, str], part: int, most: int) -> bool:
        """
        @param part: how much this machine may have that the others are not asked about.
        @param most: how much all may have.
        """
        room = min(part, most - self._common.get(entry, 0))
        isIn = await self._own.enter(*entry, room)
        if isIn:
            count, _ = self._mine.get(entry, (0, 0))
            self._mine[entry] = count + 1, most
        return isIn

    def leave(self, limit: str, key: str) -> None:
        """
        See L{ILimits.leave}.
        """
        entry = limit, key
        if self._common.get(entry, 0) > self._asking.get(entry, 0):
            self._leave(entry)
            return
        self._own.leave(limit, key)
        count, most = self._mine.pop(entry, (0, 0))
        if count > 1:
            self._mine[entry] = count - 1, most
        if self._company.machines > 1 and count > self._quarter(most):
            self._settle(entry)

    def _quarter(self, most: int) -> int:
        return most // (QUARTER * self._company.machines)

    def _share(self, entry: tuple[str, str]) -> int:
        """
        How much the others know of: also what this machine has let in while it was alone.
        """
        count, most = self._mine.get(entry, (0, 0))
        return self._common.get(entry, 0) + max(0, count - self._quarter(most))

    def _leave(self, entry: tuple[str, str]) -> None:
        _less(self._common, entry)
        self._settle(entry)

    def _settle(self, entry: tuple[str, str]) -> None:
        """
        Let others know how much of it is this process's; what they cannot be told is told
        when it has been heard again.
        """
        me = self._company.me
        self._owe(entry)
        if me is None:
            return
        d = self._connection.alone(spending.settle, me, *entry, self._share(entry))
        d.addCallbacks(lambda _: self._unsettled.discard(entry), lambda _: self._owe(entry))

    def _owe(self, entry: tuple[str, str]) -> None:
        if len(self._unsettled) >= KEYS:
            self._unsettled.pop()
        self._unsettled.add(entry)

    def _others(self) -> None:
        """
        There are others; or this process is another one to them.
        """
        if self._company.me != self._me:
            self._me = self._company.me
            self._unsettled |= set(self._common)
        if self._company.machines > 1:
            for entry, (count, most) in self._mine.items():
                if count > self._quarter(most):
                    self._settle(entry)

    # Its bounds.

    def _trim(self) -> None:
        self._spent = 0
        for entry in list(self._unsettled):
            self._settle(entry)
        self._connection.run(spending.trim, KEYS_OF, KEYS).addErrback(_notTrimmed)


def _less(counts: dict[tuple[str, str], int], entry: tuple[str, str]) -> None:
    counts[entry] -= 1
    if not counts[entry]:
        del counts[entry]


def _notTrimmed(failure: Failure) -> None:
    """
    It is done the next time; that the database is away was logged.
    """
    if not failure.check(SpoolError):
        _log.error("limits are not trimmed: {error}", error=failure.getErrorMessage())
