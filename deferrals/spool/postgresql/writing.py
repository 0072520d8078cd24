"""
A batch, written into PostgreSQL by one statement.

Texts go as binary: psycopg looks for what is to be escaped in each, octet by octet, which
cost more than all the rest of a message.

Everything here runs in a thread that has a connection.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import attrs

from deferrals.errors import SpoolError
from deferrals.model.disposition import LEASE_SECONDS
from deferrals.spool.batch import Insert, Value

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

#: What is leased to an owner; or was to one that was thought dead, and to none since.
_OURS = "(owner = %(me)s OR (owner IS NULL AND status IN (0, 2)))"

#: New messages and recipients come in only while their owner lives.
_INSERTS = f"""
added AS (
    INSERT INTO messages (id, received, since, envelope, size, digest, body)
    SELECT v.id, to_timestamp(received), clock_timestamp(), envelope, size, digest, body
    FROM me, unnest(%(id)s::bigint[], %(received)s::float8[], %(envelope)b::text[],
        %(size)s::bigint[], %(digest)b::bytea[], %(body)b::bytea[])
        AS v (id, received, envelope, size, digest, body)
), leased AS (
    INSERT INTO recipients
        (message, seq, status, due, owner, delivery, recipient, marks, refusal)
    SELECT message, seq, 1, clock_timestamp() + make_interval(secs => {LEASE_SECONDS}), me.id,
        delivery, recipient, marks, refusal
    FROM me, unnest(%(message)s::bigint[], %(seq)s::integer[], %(delivery)b::text[],
        %(recipient)b::text[], %(marks)b::text[], %(refusal)b::text[])
        AS v (message, seq, delivery, recipient, marks, refusal)
)"""

_REMOVALS = f"""
gone AS (
    DELETE FROM recipients WHERE message = ANY(%(removed)s::bigint[]) AND {_OURS}
    RETURNING message
), emptied AS (
    DELETE FROM messages WHERE id IN (SELECT message FROM gone) AND NOT EXISTS
        (SELECT 1 FROM recipients WHERE message = id AND NOT coalesce({_OURS}, false))
    RETURNING id, body IS NULL AS isLarge
), emptiedPieces AS (
    DELETE FROM pieces WHERE message IN (SELECT id FROM emptied WHERE isLarge)
    RETURNING message, owner, seq
)"""

#: Contents are their owner's as long as it lives: who was thought dead since has lost those
#: that had no message.
_WHOLE = """
    AND NOT EXISTS (SELECT 1 FROM unnest(%(large)s::bigint[]) AS l (id) WHERE NOT EXISTS
        (SELECT 1 FROM pieces WHERE message = l.id AND owner = %(me)s))"""

#: What has left, and is in the directory of contents.
_FILES = "SELECT array_agg(ARRAY[message, owner]) FROM emptiedPieces WHERE seq < 0"


#: A content in the directory: its number, and whose it is.
File = tuple[int, int]


@attrs.frozen
class Batch:
    """
    @ivar owner: whose it is.
    @ivar inserts: messages that come in.
    @ivar removed: numbers of messages that leave.
    """

    owner: int
    inserts: Sequence[Insert] = ()
    removed: Collection[int] = ()


class Disowned(SpoolError):
    """
    The owner was thought dead: nothing can come in for it.
    """


def write(db: Connection, batch: Batch) -> list[File]:
    """
    Write it.

    @return: the files of what has left.
    @raise Disowned: the owner is not there any longer; what leaves has left.
    """
    values: dict[str, object] = {"me": batch.owner, "removed": [*batch.removed]}
    messages = [_message(insert) for insert in batch.inserts]
    recipients = [_recipient(row) for one in batch.inserts for row in one.recipients]
    for names, found in ((_MESSAGE, messages), (_RECIPIENT, recipients)):
        values.update((name, [row[place] for row in found]) for place, name in enumerate(names))
    values["large"] = large = [insert.number for insert in batch.inserts if insert.body is None]
    statement = _statement(bool(batch.inserts), bool(large), bool(batch.removed))
    row = db.execute(statement, values, prepare=True).fetchone()  # it is planned once
    if batch.inserts and (row is None or not row[0]):
        raise Disowned("this process was not heard for too long: others have its work")
    return [] if row is None else [(number, owner) for number, owner in row[1] or ()]


@functools.cache
def _statement(hasInserts: bool, hasLarge: bool, hasRemovals: bool) -> str:
    """
    What is not needed is not planned each time.
    """
    me = f"me AS (SELECT id FROM owners WHERE id = %(me)s{_WHOLE * hasLarge} FOR KEY SHARE)"
    parts = [me, *[_INSERTS] * hasInserts, *[_REMOVALS] * hasRemovals]
    files = _FILES if hasRemovals else "SELECT NULL"
    return f"WITH {', '.join(parts)} SELECT count(*), ({files}) FROM me"


_MESSAGE = ("id", "received", "envelope", "size", "digest", "body")

_RECIPIENT = ("message", "seq", "delivery", "recipient", "marks", "refusal")


def _message(insert: Insert) -> tuple[Value, ...]:
    number, _, received, envelope, size, digest, _ = insert.message
    return number, received, envelope, size, digest, insert.body


def _recipient(row: tuple[Value, ...]) -> tuple[Value, ...]:
    number, seq, _, _, _, *rest = row
    return (number, seq, *rest)
