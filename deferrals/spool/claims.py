"""
What is due: recipients are handed out, leased, from whatever store has them.

Everything here runs inside a transaction of the store.  What cannot be read is set
aside, one recipient or one message at a time; it never makes a claim fail as a whole.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import groupby

import attrs

from deferrals.interfaces import Turn, Work
from deferrals.model.delivery import Addressee
from deferrals.spool import rows, rules
from deferrals.spool.ledger import Ledger, Place, Stored
from deferrals.spool.message import Message
from deferrals.spool.rows import QueueRow

#: Leases that have run out, looked at per claim.
EXPIRED = 500

#: So many destinations are looked at per call, and so many recipients of each.
TURNS, LOOKED_AT = 200, 5

_DAMAGE = {errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}

#: A recipient, and what its sender is to be told.
_Told = tuple[QueueRow, str]


@attrs.define
class Claims:
    """
    One claim.

    @ivar endsLeases: whether it looks for leases that have run out.
    @ivar freed: what it has found of these; filled here.
    @ivar damaged: messages that cannot be read, as (number, why); filled here.
    @ivar later: messages that could not be read this time; filled here.
    """

    ledger: Ledger
    endsLeases: bool = True
    freed: list[QueueRow] = attrs.field(factory=list)
    damaged: list[tuple[int, str]] = attrs.field(factory=list)
    later: list[tuple[int, str]] = attrs.field(factory=list)

    def due(
        self,
        limit: int,
        shares: Mapping[str, int],
        share: int,
        only: Collection[str] | None = None,
    ) -> list[Work]:
        """
        See L{ISpool.claim<deferrals.interfaces.ISpool.claim>}.
        """
        self._endLeases()
        works: list[Work] = []
        names = self._ready(limit, shares, only)
        while rooms := _rooms(names, shares, share, limit - len(works)):
            works += self._lease(self.ledger.due(rooms))
            self.ledger.served([*rooms])
            names = names[len(rooms) :]
        return works

    def _ready(
        self, limit: int, shares: Mapping[str, int], only: Collection[str] | None
    ) -> list[str]:
        full = {name for name, share in shares.items() if share <= 0}
        if only is not None:
            return self.ledger.asked([name for name in only if name not in full])[:limit]
        found = self.ledger.ready(limit + len(full))
        return [name for name in found if name not in full][:limit]

    def turns(self, after: Place | None) -> tuple[list[Turn], Place]:
        """
        See L{ISpool.turns<deferrals.interfaces.ISpool.turns>}.
        """
        self._endLeases()  # what is due then has its turn, too
        first = after or (-math.inf, "")
        places = self.ledger.places(first, TURNS)
        turns = [Turn(name, self.ledger.kinds(name, LOOKED_AT)) for _, name in places]
        return turns, [first, *places][-1]

    def _endLeases(self) -> None:
        """
        What was leased for too long is due: its worker is dead.
        """
        if self.endsLeases:
            self.freed += self.ledger.endedLeases(EXPIRED)
            free(self.ledger, self.freed)

    def _lease(self, found: Iterable[QueueRow]) -> list[Work]:
        """
        Hand out some recipients, those of one message together.
        """
        ledger = self.ledger
        leased = [rules.leased(row, ledger.owner, ledger.now) for row in found]
        ledger.save(leased)
        stored = ledger.messages({row.message for row in leased})
        works: list[Work] = []
        for (number, _), some in groupby(leased, lambda row: (row.message, row.destination)):
            told = [(row, "") for row in some]
            work = self._work(number, stored.get(number), told, ledger.content)
            if work is not None:
                whole = stored[number].recipients == len(work.addressees)
                works.append(attrs.evolve(work, whole=whole))
        return works

    def _work(
        self,
        number: int,
        stored: Stored | None,
        told: list[_Told],
        content: Callable[[int, int, bytes], Message],
    ) -> Work | None:
        """
        @param content: finds the content by number, size and digest.
        """
        addressees: dict[Addressee, QueueRow] = {}
        for row, action in told:
            try:
                addressees[rows.addressee(row.addressee, action)] = row
            except ValueError as error:
                self._damaged(number, str(error), [row])
        if not addressees:
            return None
        try:
            if stored is None:
                raise ValueError("its envelope is missing")
            envelope = rows.envelope(stored.envelope)
            message = content(number, stored.size, stored.digest)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and not isDamage(error):
                self.later.append((number, str(error)))  # with the end of its lease
            else:
                self._damaged(number, str(error), list(addressees.values()))
            return None
        since, expires = stored.since, stored.expires
        return Work(
            envelope,
            message,
            tuple(addressees),
            ageSeconds=self.ledger.now - since,
            expireSeconds=None if expires is None else expires - since,
        )

    def _remains(self, number: int, size: int, digest: bytes) -> Message:
        """
        What there is of the content: a sender can be told without it.
        """
        try:
            return self.ledger.content(number, size, digest)
        except (ValueError, OSError):
            return Message(0, digest, b"", None, b"", False)

    def _damaged(self, number: int, why: str, found: list[QueueRow]) -> None:
        """
        A recipient that was set aside before, and about which the sender
        should be told now, is left to the operator: otherwise it would be found
        again and again.
        """
        self.damaged.append((number, why))
        self.ledger.save([rules.untellable(row, self.ledger.now) for row in found])

    def notices(self, limit: int, transaction: int | None) -> list[Work]:
        """
        See L{ISpool.notices<deferrals.interfaces.ISpool.notices>}.
        """
        numbers = self.ledger.telling(limit) if transaction is None else [transaction]
        works = [self._telling(number, transaction is not None) for number in numbers]
        return [work for work in works if work is not None]

    def _telling(self, number: int, anyway: bool) -> Work | None:
        """
        The recipients of a message about which the sender is to be told.
        """
        ledger = self.ledger
        found = [rules.told(row, ledger.owner, ledger.now, anyway) for row in ledger.rows(number)]
        told = [(row, action) for action, row in filter(None, found)]
        ledger.save([row for row, _ in told])
        return self._work(number, ledger.messages([number]).get(number), told, self._remains)


def _rooms(
    names: Sequence[str], shares: Mapping[str, int], share: int, room: int
) -> dict[str, int]:
    """
    How much destinations may have that have their turn together: as many as have room for
    all of their shares, or the first one as far as there is room.

    @param room: how much all of them may have.
    """
    rooms: dict[str, int] = {}
    for name in names:
        own = shares.get(name, share)
        if min(own, room) <= 0 or (own > room and rooms):
            break
        rooms[name] = min(own, room)
        room -= rooms[name]
    return rooms


def free(ledger: Ledger, found: Iterable[QueueRow]) -> None:
    """
    Leases have ended: what they were of is due.
    """
    freed = [rules.freed(row, ledger.now) for row in found]
    ledger.save(freed)
    ledger.waitFor({row.destination: ledger.now for row in freed})


def setAside(ledger: Ledger, number: int, seqs: Collection[int] | None = None) -> bool:
    """
    A message, or some of its recipients, cannot be read.

    @param seqs: the numbers of those recipients; C{None} for all.
    @return: whether any was not set aside or held already.
    """
    found = [rules.damaged(row, ledger.now) for row in ledger.rows(number, seqs)]
    aside = [row for row in found if row is not None]
    ledger.save(aside)
    return bool(aside)


def verify(message: Message) -> str:
    """
    Compare a message's content with what was stored.  Blocks: for a thread of
    the pool.

    @return: what is wrong; empty if nothing is.
    """
    size, digest = message.measured()
    if size != message.size:
        return f"its content has {size} octets, not {message.size}"
    if digest != message.digest:
        return "its content is not what was stored"
    return ""


def isDamage(error: BaseException) -> bool:
    """
    Whether an error is the content's own; otherwise (no more files may be
    open, no memory, no permission) it can be read another time.
    """
    return isinstance(error, OSError) and error.errno in _DAMAGE
