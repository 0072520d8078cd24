"""
A queue as operators see it: rows as C{deferrals queue} shows them, from whatever store
they come.  What is damaged is shown as far as it can be read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable

import attrs

from deferrals.model.ids import formatId, parseId
from deferrals.model.json import JSON
from deferrals.model.selection import Selection
from deferrals.spool import rows
from deferrals.spool.rows import HELD, HOLD, LEASED, QUEUED, STATUS_NAMES, Row


@attrs.frozen
class ShownMessage:
    """
    What a store has of a message, for operators.

    @ivar envelope: its text.
    """

    isStaged: bool
    received: float
    envelope: str
    size: int
    digest: bytes


#: The columns that L{recipient} reads, but for C{state}.
COLUMNS = (
    *("message", "seq", "status", "due", "delivery", "recipient", "destination", "attempts"),
    *("expires", "reply", "host", "action", "since", "envelope", "size", "received"),
)


def recipient(row: Row, now: float, isStaged: bool) -> dict[str, JSON]:
    """
    @param row: what a store has in L{COLUMNS}.
    @param now: the store's time.
    """
    number, seq, status, due, delivery, to, destination, attempts, expires = row[:9]
    reply, host, action, since, envelope, size, received = row[9:]
    return {
        "id": formatId(number),
        "seq": seq,
        "sender": tried(lambda: rows.envelope((number, received, envelope)).senderText),
        "recipient": tried(lambda: str(rows.recipient(to, delivery))),
        "status": "staged" if isStaged else statusName(status, action),
        "delivery": delivery,
        "destination": destination,
        "attempts": attempts,
        "age_seconds": round(now - since, 1),
        "due_seconds": round(due - now, 1),
        "expires_seconds": None if expires is None else round(expires - now, 1),
        "action": None if action == HOLD else action,
        "reply": tried(lambda: "" if reply is None else str(rows.reply(reply))),
        "host": host or "",
        "size": size,
    }


def statusName(status: int, action: str | None) -> str:
    """
    A status in a word; as it is, where it has none and the row is damaged.  What is to
    be held when its attempt has ended is held already for the operator.
    """
    if status == LEASED and action == HOLD:
        return STATUS_NAMES[HELD]
    return STATUS_NAMES[status] if status in range(len(STATUS_NAMES)) else str(status)


def tried(read: Callable[[], str]) -> str:
    """
    What can be read, or that it cannot.
    """
    try:
        return read()
    except Exception:
        return "(cannot be read)"


def history(found: Iterable[Row]) -> list[dict[str, JSON]]:
    """
    @param found: the columns C{seq}, C{at}, C{event}, C{reply} and C{host}.
    """
    return [
        {"seq": seq, "time": at, "event": event, "reply": reply or "", "host": host or ""}
        for seq, at, event, reply, host in found
    ]


def message(
    number: int,
    known: ShownMessage | None,
    recipients: list[dict[str, JSON]],
    entries: list[dict[str, JSON]],
) -> dict[str, JSON] | None:
    """
    See L{IQueue.show<deferrals.interfaces.IQueue.show>}.
    """
    if known is None:
        gone: dict[str, JSON] = {"id": formatId(number), "gone": True, "history": [*entries]}
        return gone if entries else None
    return {
        "id": formatId(number),
        "gone": False,
        "received": known.received,
        "released": not known.isStaged,
        "size": known.size,
        "sha256": known.digest.hex(),
        "envelope": _envelope(known.envelope),
        "recipients": [*recipients],
        "history": [*entries],
    }


def _envelope(text: str) -> JSON:
    try:
        found: JSON = json.loads(text)
    except ValueError:
        return "(cannot be read)"
    return found


#: The destinations that most recipients wait for; C{age} is an expression.  All rows are
#: read in their order (C{+ 0}): in that of an index each is looked for, which takes longer.
DESTINATIONS = (
    "WITH waiting AS (SELECT destination, COUNT(*) AS recipients, MIN(message) AS first"
    f" FROM recipients WHERE status + 0 = {QUEUED} GROUP BY destination"
    " ORDER BY recipients DESC, destination LIMIT 50)"
    " SELECT destination, recipients, {age} FROM waiting LEFT JOIN messages ON id = first"
    " ORDER BY recipients DESC, destination"
)


def numbers(
    messages: int,
    oldest: float | None,
    groups: Iterable[tuple[str, int, int, float]],
    destinations: Iterable[tuple[str, int, float | None]] = (),
) -> dict[str, JSON]:
    """
    See L{IQueue.numbers<deferrals.interfaces.IQueue.numbers>}.

    @param oldest: how old the oldest message is, in seconds.
    @param groups: of recipients of one delivery and status: these two, how many there
        are, and how old the oldest one's message is.
    @param destinations: those that most recipients wait for: the name, how many, and how
        old the oldest one's message is; C{None} where that has just gone.
    """
    counts: Counter[str] = Counter()
    deliveries: list[JSON] = []
    for delivery, status, count, age in groups:
        name = statusName(status, None)
        counts[name] += count
        deliveries.append(
            {
                "delivery": delivery,
                "status": name,
                "recipients": count,
                "oldest_seconds": round(age, 1),
            }
        )
    return {
        "messages": messages,
        "recipients": dict(counts),
        "deliveries": deliveries,
        "destinations": [
            {"destination": name, "recipients": count, "oldest_seconds": round(age or 0.0, 1)}
            for name, count, age in destinations
        ],
        "oldest_seconds": 0.0 if oldest is None else round(oldest, 1),
    }


def numbersOf(selection: Selection) -> list[int] | None:
    """
    @return: which messages are asked about; C{None} for all.
    """
    if not selection.ids:
        return None
    found = []
    for text in selection.ids:
        try:
            found.append(parseId(text))
        except ValueError:
            continue
    return found
