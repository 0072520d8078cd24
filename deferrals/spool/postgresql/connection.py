"""
One connection to a PostgreSQL database behind one thread: functions go in, Deferreds
come out, and whoever waits is told within the time of a statement.

A connection that is lost, or whose peer has been silent for too long, is made again, in
growing distances, until it is there.  Meanwhile whoever asks is told so at once
(L{StoreAway}).  Nothing of C{libpq} notices a peer that swallows everything; so a
statement has a time, and then its socket is shut down.  As long the server waits for us
within a transaction.

A connection that the server will never let in (a wrong password, a database that there is
not) fails as what it finds there and cannot use does: with L{SpoolError
<deferrals.errors.SpoolError>}, and is tried again all the same: the operator may mend it.

What a failure says of what was asked for:

  - L{StoreAway}: it has not been done.
  - L{OutcomeUnknown}: it may have been done: the connection was lost while it was made
    durable, or it is durable on one server and not on the standby that was to have it.
  - any other L{SpoolError<deferrals.errors.SpoolError>}: the database has refused it;
    its C{__cause__} is the error of C{psycopg}.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.logger import Logger
from deferrals.model.backoff import Backoff
from deferrals.model.store import SpoolSettings
from deferrals.operatorfiles import readSecret
from deferrals.postgresql import Link
from deferrals.spool.postgresql.entrance import entered, textOf
from deferrals.threads import InThread

if TYPE_CHECKING:
    import psycopg

    Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

_log = Logger(namespace="deferrals.spool")

_T = TypeVar("_T")
_P = ParamSpec("_P")

#: How long it is left alone at first after a connection could not be made, and at most.
FIRST_SECONDS, LONGEST_SECONDS = 0.25, 5.0

#: How often it is said of one that stays away, in seconds.
SAID_SECONDS = 600.0

#: A command that was stopped within a transaction keeps what it has locked for so long.
COMMAND_IDLE = "60s"

#: Where the server says that it has committed, and that no standby may have it.  Its
#: text is in the server's language.
_NOT_REPLICATED = "SyncRepWaitForLSN"

#: The server is another one's standby by now: what it is asked for has to go elsewhere.
_READ_ONLY = "25006"

#: The class of its errors where the server lacks something.
_LACKS = "53"

#: No statement is prepared by the server because it has come often, but only where that is
#: asked for.
_NEVER = 1 << 30


@attrs.frozen
class Access:
    """
    How a database is reached.

    @ivar conninfo: as C{libpq} has it; several hosts are tried in their order.
    @ivar passwordFile: a file whose first line is the password, read at each connection.
    @ivar schema: where the tables are.
    @ivar seconds: how long a statement, or a connection, may take.
    """

    conninfo: str = attrs.field(repr=False)
    passwordFile: str | None = None
    schema: str = "deferrals"
    seconds: float = 5.0

    @classmethod
    def of(cls, settings: SpoolSettings, baseDir: str) -> Access:
        """
        As a configuration says.
        """
        path = settings.password_file
        return cls(
            settings.conninfo or "",
            None if path is None else os.path.join(baseDir, path),
            settings.schema,
            settings.timeout,
        )

    def connect(self, application: str) -> Connection:
        """
        In a thread.

        @param application: what the server's views show.
        @raise psycopg.Error: it cannot be had.
        @raise OSError: the password cannot be read.
        @raise ValueError: the same.
        """
        import psycopg
        from psycopg.conninfo import make_conninfo

        conninfo = make_conninfo(self.conninfo, fallback_application_name=application)
        if self.passwordFile is not None:
            conninfo = make_conninfo(conninfo, password=readSecret(self.passwordFile))
        return psycopg.connect(
            conninfo,
            autocommit=True,
            connect_timeout=max(2, round(self.seconds)),
            prepare_threshold=_NEVER,
        )

    def enter(self, application: str) -> Connection:
        """
        The same, for a program that can wait.

        @raise StoreAway: it cannot be had now.
        @raise SpoolError: it can never be had like that.
        """
        return entered(functools.partial(self.connect, application))


def opened(access: Access, application: str) -> Connection:
    """
    A connection for a command, which may wait.

    @raise StoreAway: it cannot be had.
    """
    db = None
    try:
        db = access.connect(application)
        _useSchema(db, access.schema)
        db.execute(
            "SELECT set_config('idle_in_transaction_session_timeout', %s, false)", (COMMAND_IDLE,)
        )
    except Exception as error:
        if db is not None:
            db.close()
        raise StoreAway(textOf(error)) from error
    return db


class StoreLink(Link[tuple[Any, ...]]):
    """
    @ivar isReplicated: whether no warning has said that a standby may not have what was
        committed last.
    """

    isReplicated = True


class Connector(Protocol):
    """
    Makes a connection, in a thread.
    """

    def __call__(self) -> Connection: ...


class Presence:
    """
    Whether a database is there: for all connections to it.  The log says when that changes,
    and now and then of one that stays away.

    @param clock: what time it is.
    @param whole: of all that this process has in the database, which says it then.
    @ivar watchers: are told when that changes.
    """

    def __init__(self, clock: IReactorTime, whole: Presence | None = None) -> None:
        self._clock = clock
        self._whole = whole
        self._lost: dict[object, str] = {}
        self._since = self._saidAt = 0.0
        self._said: set[str] = set()
        self.watchers: list[Callable[[bool], object]] = []

    @property
    def isThere(self) -> bool:
        """Whether it is, as far as is known."""
        return not self._lost

    @property
    def why(self) -> str:
        """What is wrong, for people."""
        return next(iter(self._lost.values()), "")

    def lost(self, connection: object, why: str, what: str = "is away") -> None:
        """
        A connection to it is lost, or could not be made.

        @param what: how the database is: away; or there, and none that can be used.
        """
        isNew, self._lost[connection] = not self._lost, why
        if self._whole is not None:
            self._whole.lost(self, why, what)
        else:
            self._news(isNew, why, what)
        if isNew:
            self._tell()

    def _news(self, isNew: bool, why: str, what: str) -> None:
        now = self._clock.seconds()
        if isNew:
            self._since = now
            self._said.clear()
        if what not in self._said or now - self._saidAt >= SAID_SECONDS:
            self._say(what, why, now)

    def _say(self, what: str, why: str, now: float) -> None:
        self._said.add(what)
        self._saidAt, seconds = now, round(now - self._since, 1)
        text = f"the database {what}: {{error}}"
        _log.error(text, event="store", state="away", seconds=seconds, error=why)

    def found(self, connection: object) -> None:
        """
        A connection is there.
        """
        if self._lost.pop(connection, None) is None or self._lost:
            return
        if self._whole is None:
            seconds = round(self._clock.seconds() - self._since, 1)
            _log.info("the database is back", event="store", state="back", seconds=seconds)
        else:
            self._whole.found(self)
        self._tell()

    def left(self, connection: object) -> None:
        """
        A connection is not wanted any longer: that says nothing of the database.
        """
        if self._lost.pop(connection, None) is None or self._lost:
            return
        if self._whole is not None:
            self._whole.left(self)

    def _tell(self) -> None:
        for watcher in self.watchers:
            watcher(self.isThere)


@attrs.define(eq=False)
class _Statement:
    """
    Something that a connection is asked for.

    @ivar run: does it, in the thread, and returns what tells its result in the reactor.
    @ivar fail: tells that it has failed.
    @ivar isOver: whether it is not waited for any longer.
    """

    run: Callable[[StoreLink], Callable[[], None]]
    fail: Callable[[Failure], None]
    isOver: Callable[[], bool]


class StoreConnection:
    """
    See the module.

    @param inThread: a thread of its own (L{OwnThread<deferrals.threads.OwnThread>}).
    @param clock: timers.
    @param presence: is told whether it is there.
    @param application: the connection's name in the server's views.
    @param connect: makes a connection; by default C{psycopg} does.
    @ivar begin: is called with each new connection, in the thread, before anything
        else: sees that the tables are there, takes back what has an unknown outcome.
    """

    def __init__(
        self,
        access: Access,
        inThread: InThread,
        clock: IReactorTime,
        presence: Presence,
        application: str = "deferrals",
        connect: Connector | None = None,
    ) -> None:
        self._connect = connect or functools.partial(access.enter, application)
        self._schema = access.schema
        self._inThread = inThread
        self._clock = clock
        self._seconds = access.seconds
        self._presence = presence
        self._backoff = Backoff(1, FIRST_SECONDS, LONGEST_SECONDS)
        self._link: StoreLink | None = None
        self._waiting: deque[_Statement] = deque()
        self._busy: _Statement | None = None
        self._isClosed = False
        self._beginning: StoreLink | None = None
        self._watched: StoreLink | None = None
        self._again: IDelayedCall | None = None
        self._idle: list[Deferred[None]] = []
        self._expecting: list[Deferred[None]] = []
        self.begin: list[Callable[[Connection], object]] = []

    @property
    def isThere(self) -> bool:
        """Whether there is a connection."""
        return self._link is not None

    def open(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when there is a connection, and fails where it
            cannot be made now: with L{StoreAway}, and then it is tried again; or with
            what C{begin} raises.
        """
        return Deferred.fromCoroutine(self._open())

    def there(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when there is a connection, however long that takes:
            L{open} has failed.  It fails with L{StoreAway} when this is closed.
        """
        if self._link is not None:
            return succeed(None)
        if self._isClosed:
            return fail(StoreAway("it is closed"))
        expecting: Deferred[None] = Deferred()
        self._expecting.append(expecting)
        return expecting

    def run(
        self,
        function: Callable[Concatenate[Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Deferred[_T]:
        """
        Run a function in a transaction.

        @param function: is called in the thread.
        @return: a Deferred of its result, which fires when it is committed.
        """
        return self._ask(functools.partial(_transact, lambda db: function(db, *args, **kwargs)))

    def alone(
        self,
        function: Callable[Concatenate[Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Deferred[_T]:
        """
        The same, where each of its statements is a transaction: one that is a single
        statement takes one round trip.
        """
        return self._ask(functools.partial(_alone, lambda db: function(db, *args, **kwargs)))

    def look(self) -> None:
        """
        Another connection is lost: see whether this one is there still, before somebody
        needs it.
        """
        if self._link is not None and self._busy is None:
            self.alone(_nothing).addErrback(lambda _: None)  # that is known then

    def close(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when all before it is done, or has failed, and the
            connection is closed.
        """
        return Deferred.fromCoroutine(self._close())

    # In the reactor.

    def _ask(self, run: Callable[[StoreLink], _T]) -> Deferred[_T]:
        if self._link is None:
            return fail(StoreAway(self._presence.why or "there is no connection"))
        done: Deferred[_T] = Deferred()

        def tells(link: StoreLink) -> Callable[[], None]:
            return functools.partial(done.callback, run(link))

        self._waiting.append(_Statement(tells, done.errback, lambda: done.called))
        self._next()
        return done

    def _next(self) -> None:
        if self._busy is not None:
            return
        while self._waiting and self._waiting[0].isOver():
            self._waiting.popleft()
        link = self._link
        if not self._waiting or link is None:
            idle, self._idle = self._idle, []
            for one in idle:
                one.callback(None)
            return
        self._busy = asked = self._waiting.popleft()
        watchdog = self._clock.callLater(self._seconds, link.cut)
        d: Deferred[Callable[[], None]] = self._inThread(asked.run, link)
        d.addBoth(_stopped, watchdog)
        d.addCallbacks(self._done, self._failed, errbackArgs=(asked,))

    def _done(self, tell: Callable[[], None]) -> None:
        self._busy = None
        self._next()  # the thread need not wait until it is told
        tell()

    def _failed(self, failure: Failure, asked: _Statement) -> None:
        self._busy = None
        if self._link is not None and self._link.connection.closed:
            self._lost(failure.getErrorMessage())
        self._next()
        asked.fail(failure)

    def _lost(self, why: str) -> None:
        """
        There is no connection any longer: what waits for it has not been done.
        """
        link, self._link = self._link, None
        if link is not None:
            self._inThread(link.close).addErrback(lambda _: None)
        self._presence.lost(self, why)
        self._connectLater()
        waiting, self._waiting = self._waiting, deque()
        for asked in waiting:
            if not asked.isOver():
                asked.fail(Failure(StoreAway(why)))

    def _connectLater(self) -> None:
        if self._again is None and not self._isClosed:
            seconds = self._backoff.failed(self._clock.seconds())
            self._again = self._clock.callLater(seconds or FIRST_SECONDS, self._connectNow)

    def _connectNow(self) -> None:
        self._again = None
        self.open().addErrback(self._notConnected)

    def _notConnected(self, failure: Failure) -> None:
        """
        It is tried again, and was logged; but for faults of this program.
        """
        if not failure.check(SpoolError):
            _log.failure("the database cannot be used", failure)

    async def _open(self) -> None:
        watchdog = LoopingCall(self._watchBegin)
        watchdog.clock = self._clock
        watchdog.start(self._seconds, now=False)
        try:
            link = await self._inThread(self._connected)
        except SpoolError as error:
            if self._isClosed:
                raise
            what = "is away" if isinstance(error, StoreAway) else "cannot be used"
            self._presence.lost(self, str(error), what)
            self._connectLater()
            raise
        finally:
            watchdog.stop()
            self._beginning = self._watched = None
        if self._isClosed:
            await self._inThread(link.close)
            return
        self._link = link
        self._backoff.succeeded()
        self._presence.found(self)
        self._next()
        expecting, self._expecting = self._expecting, []
        for one in expecting:
            one.callback(None)

    def _watchBegin(self) -> None:
        """
        A connection that has begun, and does not come to its end, is cut.
        """
        if self._watched is not None and self._watched is self._beginning:
            self._watched.cut()
        self._watched = self._beginning

    async def _close(self) -> None:
        self._isClosed = True
        again, self._again = self._again, None
        if again is not None:
            again.cancel()
        expecting, self._expecting = self._expecting, []
        for one in expecting:
            one.errback(StoreAway("it is closed"))
        if self._busy is not None or self._waiting:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        link, self._link = self._link, None
        self._presence.left(self)
        if link is not None:
            await self._inThread(link.close)

    # In the thread.

    def _connected(self) -> StoreLink:
        try:
            link = StoreLink(self._connect())
        except SpoolError:
            raise
        except Exception as error:
            raise StoreAway(textOf(error)) from error
        self._beginning = link
        try:
            _prepare(link, self._schema, self._seconds)
            for begin in self.begin:
                begin(link.connection)
        except Exception as error:
            explained = _explained(error, link.connection)
            link.close()
            raise explained from error
        return link


def _prepare(link: StoreLink, schema: str, seconds: float) -> None:
    """
    A process that is stopped, or whose machine is gone, cannot cut a connection.  What it
    has locked would stay so until the server notices, and it would not be found dead.
    """
    link.connection.add_notice_handler(functools.partial(_notice, link))
    _useSchema(link.connection, schema)
    link.connection.execute(
        "SELECT set_config('idle_in_transaction_session_timeout', %s, false)",
        (f"{max(1, round(1000 * seconds))}ms",),
    )


def _useSchema(db: Connection, schema: str) -> None:
    """
    What is set here is not set by options, since poolers do not pass them on.
    """
    db.execute(
        "SELECT set_config('search_path', quote_ident(%s), false),"
        " set_config('client_encoding', 'UTF8', false), set_config('timezone', 'UTC', false)",
        (schema,),
    )


def _notice(link: StoreLink, notice: psycopg.errors.Diagnostic) -> None:
    if notice.source_function == _NOT_REPLICATED:
        link.isReplicated = False


def _transact(function: Callable[[Connection], _T], link: StoreLink) -> _T:
    """
    Call a function in a transaction.
    """
    db = link.connection
    try:
        db.execute("BEGIN")
        result = function(db)
    except Exception as error:
        explained = _explained(error, db)
        _rollBack(db)
        raise explained from error
    _commit(lambda: db.execute("COMMIT"), link)
    return result


def _rollBack(db: Connection) -> None:
    with contextlib.suppress(Exception):  # it is lost: then that is so
        db.execute("ROLLBACK")


def _alone(function: Callable[[Connection], _T], link: StoreLink) -> _T:
    """
    Call a function whose statements are committed by themselves.
    """
    return _commit(lambda: function(link.connection), link)


def _commit(function: Callable[[], _T], link: StoreLink) -> _T:
    """
    @raise OutcomeUnknown: its answer was not heard, or a standby may not have it.
    """
    link.isReplicated = True
    try:
        result = function()
    except Exception as error:
        explained = _explained(error, link.connection)
        if isinstance(explained, StoreAway) and not _isRefused(error):
            explained = OutcomeUnknown(str(explained))
        raise explained from error
    if not link.isReplicated:
        raise OutcomeUnknown("it is committed on one server, and may be on no standby")
    return result


def _nothing(db: Connection) -> None:
    db.execute("SELECT 1")


def _isRefused(error: Exception) -> bool:
    """
    Whether the server said itself that it has not been done.
    """
    return getattr(error, "sqlstate", None) == _READ_ONLY


def isFull(error: SpoolError) -> bool:
    """
    Whether the database lacks something, for now: a disk's room, memory.
    """
    state = getattr(error.__cause__, "sqlstate", None) or ""
    return str(state).startswith(_LACKS)


@contextlib.contextmanager
def explained(db: Connection) -> Iterator[None]:
    """
    What goes wrong is told as L{StoreConnection} tells it, for one that waits.

    @raise SpoolError: see the module.
    """
    try:
        yield
    except Exception as error:
        raise _explained(error, db) from error


def _explained(error: Exception, db: Connection) -> Exception:
    """
    @return: what is told of an error.
    """
    import psycopg

    if not isinstance(error, psycopg.Error):
        return error
    if error.sqlstate == _READ_ONLY:
        db.close()
    return (StoreAway if db.closed else SpoolError)(textOf(error))


def _stopped(result: _T, watchdog: IDelayedCall) -> _T:
    if watchdog.active():
        watchdog.cancel()
    return result
