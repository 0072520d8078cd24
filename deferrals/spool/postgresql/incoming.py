"""
Large contents that are put into the database while they are received: what is left behind
the last octet is the last piece, and the row of the message.

Each piece is read from this machine's file when the database is ready to take it: however
slow that is, no memory grows.  A content that is too far behind has its sender wait, as for
a slow disk (L{BodyWriter.congested<deferrals.spool.message.BodyWriter.congested>}), and not
for long: a database that is away, or does not take a piece in time, keeps up no
sender.  What it did not take is put there at the end; if it cannot be had then, the message
is not taken.

What is not wanted is removed in the background.  What could not be removed is found when
the database is back, and now and then, as what has no message and is not coming
(L{LargeContents.keepUp<deferrals.spool.postgresql.large.LargeContents.keepUp>}); what a
process that dies leaves is found by those that find it dead.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import errorText, withDeadline
from deferrals.errors import StoreAway
from deferrals.logger import Logger
from deferrals.model.ids import formatId
from deferrals.spool.postgresql import contents
from deferrals.spool.postgresql.connection import StoreConnection
from deferrals.spool.postgresql.owners import Owner

_log = Logger(namespace="deferrals.spool")

#: So many pieces may be complete, and not be in the database, before a sender waits.
BEHIND_PIECES = 2

#: So long a sender waits for one piece; others may come before it.
PIECE_SECONDS = 30.0


class IncomingContents:
    """
    All of a process.

    @param connection: to the database.
    @param me: whose they are.
    @param coming: messages that may be about to have their rows: those are among them, from
        their first pieces on.
    @param forget: removes a content; with who has begun to put it there.
    """

    def __init__(
        self,
        connection: StoreConnection,
        me: Owner,
        clock: IReactorTime,
        coming: set[int],
        forget: Callable[[int, int], object],
    ) -> None:
        self._connection = connection
        self._me = me
        self._clock = clock
        self._coming = coming
        self._forget = forget
        self._all: dict[int, Pieces] = {}

    def follow(self, number: int, path: str, caughtUp: Callable[[], None]) -> Pieces | None:
        """
        @return: what puts a content there; C{None} where this process is not an owner yet.
        """
        if self._me.row is None:
            return None

        def put(seq: int, octets: int) -> Deferred[None]:
            self._coming.add(number)
            return withDeadline(
                self._clock,
                PIECE_SECONDS,
                lambda: self._connection.alone(
                    contents.putFrom, number, seq, path, octets, one.owner
                ),
            )

        one = self._all[number] = Pieces(number, self._me.id, put, self._aborted, caughtUp)
        return one

    def _aborted(self, one: Pieces) -> None:
        self._all.pop(one.number, None)
        if one.hasBegun:  # removed behind what is under way: the connection does one at a time
            self._coming.discard(one.number)
            self._forget(one.number, one.owner)

    async def put(self, number: int, path: str, size: int) -> None:
        """
        Put there what is missing of a content that is whole: it belongs to the caller from
        now on.

        @raise SpoolError: that cannot be done.
        """
        owner, seq = self._me.id, 0
        one = self._all.pop(number, None)
        if one is not None:
            await one.taken()
            seq = one.there
        if one is not None and one.hasBegun and one.owner != owner:
            await self._connection.alone(contents.drop, number)  # if it is not gone already
            seq = 0
        while (left := size - seq * contents.PIECE_OCTETS) > 0:
            octets = min(left, contents.PIECE_OCTETS)
            await self._connection.alone(contents.putFrom, number, seq, path, octets, owner)
            seq += 1

    def close(self) -> None:
        """
        No more.
        """
        for one in self._all.values():
            one.close()


class Pieces:
    """
    Those of one content: see L{Follower<deferrals.spool.message.Follower>}.

    @param put: puts a piece there, by its number, with so many octets.
    @param aborted: is told when it is not wanted.
    @param caughtUp: is called when it is not behind any longer.
    @ivar number: the message's.
    @ivar owner: who this process was when it began: all pieces are that one's, or none.
    @ivar there: how many are in the database.
    @ivar hasBegun: whether some may be.
    """

    def __init__(
        self,
        number: int,
        owner: int,
        put: Callable[[int, int], Deferred[None]],
        aborted: Callable[[Pieces], None],
        caughtUp: Callable[[], None],
    ) -> None:
        self.number = number
        self.owner = owner
        self.there = 0
        self.hasBegun = False
        self._put = put
        self._onAborted = aborted
        self._caughtUp = caughtUp
        self._octets = 0
        self._isWhole = self._isOver = self._rests = self._hasFailed = False
        self._putting: Deferred[None] | None = None
        self._idle: Deferred[None] | None = None

    @property
    def _left(self) -> int:
        return self._octets - self.there * contents.PIECE_OCTETS

    @property
    def isBehind(self) -> bool:
        """Whether its sender is to wait: not for a database that did not take a piece."""
        isFree = self._rests or self._isOver
        return not isFree and self._left > BEHIND_PIECES * contents.PIECE_OCTETS

    def grew(self, octets: int) -> None:
        """
        @param octets: so many are on this machine.
        """
        self._octets = octets
        self._next()

    def ended(self) -> None:
        """
        All are: what was begun is put there to its end, while it is judged.
        """
        self._isWhole = True
        self._next()

    def _next(self) -> None:
        octets = min(self._left, contents.PIECE_OCTETS)
        isPiece = octets == contents.PIECE_OCTETS or (self._isWhole and self.hasBegun)
        if self._putting is None and octets > 0 and isPiece and not self._isStopped:
            self.hasBegun = True
            self._putting = self._put(self.there, octets)
            self._putting.addCallbacks(self._isPut, self._notPut)

    @property
    def _isStopped(self) -> bool:
        return self._isOver or self._hasFailed

    def _isPut(self, _: None) -> None:
        self._putting, self._rests = None, False
        self.there += 1
        self._next()
        self._tell()

    def _notPut(self, failure: Failure) -> None:
        """
        A database that is away is asked again with what comes next; anything else has its
        time when the message is taken.
        """
        self._putting, self._rests = None, True
        if not self._isOver and not failure.check(StoreAway):  # that was logged
            self._hasFailed = True
            _log.warn(
                "{transaction}: its content waits for its end: {error}",
                transaction=formatId(self.number),
                error=errorText(failure),
            )
        self._tell()

    def _tell(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None:
            idle.callback(None)
        if not self.isBehind:
            self._caughtUp()

    async def taken(self) -> None:
        """
        It is put there by another one from now on, behind what is under way.
        """
        self._isOver = True
        if self._putting is not None:
            self._idle = Deferred()
            await self._idle

    def abort(self) -> None:
        """
        The content is not wanted.
        """
        if not self._isOver:
            self.close()
            self._onAborted(self)

    def close(self) -> None:
        """
        No more.
        """
        self._isOver = True
        if self._putting is not None:
            self._putting.cancel()
