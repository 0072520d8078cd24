"""
Faults that are put into servers of one queue on purpose, as those of
L{tests.crash.sabotage}: the rig of several machines has to scream at each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import succeed

from deferrals.spool import batch, outcomes, rules
from deferrals.spool.postgresql import owners, spool, writing
from deferrals.spool.postgresql.spool import PostgresqlSpool
from tests.crash import sabotage


def replyBeforeCommit() -> None:
    """A message is acknowledged before it is written."""

    def stage(original: Any, self: Any, envelope: Any, message: Any, addressees: Any) -> Any:
        original(self, envelope, message, addressees).addErrback(lambda _: None)
        return succeed(self._insertion(envelope, message, addressees).work)

    sabotage.patch(PostgresqlSpool, "stage", stage)


def unknownKept() -> None:
    """A message of which it is not known whether it was committed is not forgotten."""

    def isAway(original: Any, self: Any, failure: Any, one: Any) -> None:
        before = dict(one.removed)
        inserts, one.inserts = one.inserts, []
        original(self, failure, one)
        assert one.removed == before
        for insert in inserts:
            insert.done.errback(failure)

    sabotage.patch(batch.BatchWriter, "_isAway", isAway)


def deadNotFreed() -> None:
    """A dead owner's row is removed, and what it had is nobody's."""
    sabotage.patch(owners, "free", lambda original, db, dead: None)


def heartDeaf() -> None:
    """A process that was thought dead does not notice it."""

    known: list[Any] = []

    def beat(original: Any, db: Any, me: int, staged: int = 0) -> Any:
        found = original(db, me, staged)
        known[:] = [found or known[0]]
        return known[0]

    sabotage.patch(owners, "beat", beat)


def ownerNotAsked() -> None:
    """What has become of a recipient is written, whoever it is leased to."""
    sabotage.patch(rules, "isOurs", lambda original, row, owner: True)
    sabotage.patch(outcomes.Outcomes, "_mayDispose", lambda original, self, row, what: True)

    def statement(original: Any, *parts: bool) -> str:
        text: str = original(*parts)
        return text.replace(writing._OURS, "true")

    sabotage.patch(writing, "_statement", statement)


def heldKept() -> None:
    """A process that was thought dead, and knows it, goes on with what it had."""

    def woken(original: Any, self: Any, old: Any, new: Any) -> None:
        self._number(new.slot)

    sabotage.patch(PostgresqlSpool, "_woken", woken)
    sabotage.patch(PostgresqlSpool, "_isOurs", lambda original, self, work: True)


def insertsAnyhow() -> None:
    """Messages come in for an owner that is not there any longer."""

    def statement(original: Any, *parts: bool) -> str:
        text: str = original(*parts)
        return text.replace("SELECT id FROM owners WHERE id = %(me)s FOR KEY SHARE", _ANYHOW)

    sabotage.patch(writing, "_statement", statement)


_ANYHOW = "SELECT %(me)s::bigint AS id"


def neverRetried() -> None:
    """What could not be written while the database was away is forgotten."""
    sabotage.patch(batch.BatchWriter, "_keep", lambda original, self, one, failure: None)


def warningIgnored() -> None:
    """What no standby has is said to be safe, after a while."""

    def check(original: Any, db: Any) -> str:
        worth: str = original(db)
        db.execute("SET synchronous_commit = local")
        return worth

    sabotage.patch(spool, "durability", check)


CLUSTER_SABOTAGES: dict[str, Callable[[], None]] = {
    "cluster-reply-before-commit": replyBeforeCommit,
    "unknown-kept": unknownKept,
    "dead-not-freed": deadNotFreed,
    "heart-deaf": heartDeaf,
    "owner-not-asked": ownerNotAsked,
    "held-kept": heldKept,
    "inserts-anyhow": insertsAnyhow,
    "never-retried": neverRetried,
    "standby-not-waited-for": warningIgnored,
}

#: The kills that show a sabotage.
KINDS_OF_KILL = {
    "cluster-reply-before-commit": ("primary", "backends", "machine"),
    "unknown-kept": ("standby", "silence"),
    "dead-not-freed": ("machine", "sleeper"),
    "heart-deaf": ("sleeper",),
    "owner-not-asked": ("sleeper",),
    "held-kept": ("sleeper",),
    "inserts-anyhow": ("sleeper",),
    "never-retried": ("primary", "silence"),
    "standby-not-waited-for": ("standby", "failover"),
}
