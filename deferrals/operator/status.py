"""
C{deferrals status}: what a running server says of itself, for people, for programs
and for monitoring; what is wrong comes first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from deferrals.errors import DeferralsError
from deferrals.model.json import JSON
from deferrals.model.selection import Shown
from deferrals.model.settings import parseSeconds
from deferrals.operator.control import QueueConnection
from deferrals.operator.output import say, sayJSON

#: What an operator has to see to: its level, what it is, and a sentence.
Alarm: TypeAlias = dict[str, str]

#: The exit statuses of C{--check}.
GOOD, WARNING, CRITICAL, UNKNOWN = range(4)

_STUCK = {
    "stuck": "{count} recipients are stuck: what became of their mail cannot be told to the"
    " sender (deferrals queue list --status stuck)",
    "damaged": "{count} recipients have mail that cannot be read (deferrals queue check)",
}

_REASONS = {
    "starting": "it is starting",
    "spool": "the spool cannot be written, or has no room: see the log",
    "listeners": "it does not listen everywhere",
    "stopping": "it is stopping",
    "workers": "none of its workers runs",
}


def alarms(found: Shown, oldest: float) -> list[Alarm]:
    """
    What an operator has to see to, the worst first.

    @param found: what the server says of itself, and of its queue.
    @param oldest: how old mail may be in the queue, in seconds.
    """
    return [*_critical(found), *_warnings(found, oldest)]


def _alarm(level: str, what: str, text: str) -> Alarm:
    return {"level": level, "what": what, "text": text}


def _critical(found: Shown) -> Iterator[Alarm]:
    if not found.get("running", True):
        yield _alarm("critical", "running", "the server does not run")
    if "unknown" in found["queue"]:
        yield _alarm("critical", "queue", f"the queue cannot be read: {found['queue']['unknown']}")
    for reason in found.get("reasons", ()):
        text = f"no mail is taken: {_REASONS.get(reason, reason)}"
        yield _alarm("critical", reason, text)


def _warnings(found: Shown, oldest: float) -> Iterator[Alarm]:
    queue = found["queue"]
    for what, text in _STUCK.items():
        count = queue.get("recipients", {}).get(what, 0)
        if count:
            yield _alarm("warning", what, text.format(count=count))
    for one in found.get("workers", ()):
        if one["state"] != "running" or one["worker"] in found.get("missing", ()):
            state = one["state"] if one["state"] != "running" else "not answering"
            yield _alarm("warning", "worker", f"worker {one['worker']} is {state}")
    for name, part in found.get("parts", {}).items():
        if isinstance(part, dict) and part.get("state") in ("resting", "probing"):
            text = f"{name} is left alone: {part.get('last_error', '')}"
            yield _alarm("warning", "service", text)
    age = queue.get("oldest_seconds", 0)
    if queue.get("messages") and age > oldest:
        yield _alarm("warning", "late", f"the oldest mail has waited for {short(age)}")


def level(found: list[Alarm]) -> int:
    """
    The exit status that alarms make.
    """
    levels = {alarm["level"] for alarm in found}
    return CRITICAL if "critical" in levels else WARNING if levels else GOOD


def status(connection: QueueConnection, arguments: argparse.Namespace) -> int:
    """
    C{deferrals status}: 1 if the server does not run; with C{--check} as its help says.
    """
    oldest = parseSeconds(arguments.oldest)
    try:
        found = _asked(connection)
    except (DeferralsError, OSError) as error:
        if not arguments.check:
            raise
        say(f"unknown: {error}")
        return UNKNOWN
    found["alarms"] = alarms(found, oldest)
    if arguments.json:
        sayJSON(found)
    elif arguments.check:
        say(_summary(found))
    else:
        for line in _lines(found):
            say(line)
    if arguments.check:
        return level(found["alarms"])
    return 0 if connection.running else 1


def _asked(connection: QueueConnection) -> Shown:
    found = {
        "running": connection.running,
        "queue": _numbers(connection),
        **connection.call("status"),
    }
    if connection.missing:
        found["missing"] = sorted(connection.missing)
    return found


def _numbers(connection: QueueConnection) -> dict[str, JSON]:
    """
    A server whose queue cannot be read, since its database is away, says all else.
    """
    try:
        numbers: dict[str, JSON] = connection.call("numbers")
        return numbers
    except DeferralsError as error:
        if not connection.running:
            raise
        return {"unknown": str(error)}


def _summary(found: Shown) -> str:
    """
    One line, as monitoring systems show it.
    """
    if found["alarms"]:
        first, *more = found["alarms"]
        rest = f" (and {len(more)} more)" if more else ""
        return f"{first['level']}: {first['text']}{rest}"
    return f"good: {found['queue']['messages']} messages in the queue"


def _lines(found: Shown) -> Iterator[str]:
    """
    The whole, for people.
    """
    for alarm in found["alarms"]:
        yield f"{alarm['level']}: {alarm['text']}"
    if found["running"]:
        since = short(found.get("uptime_seconds", 0))
        yield f"deferrals {found.get('version', '')} runs, for {since}"
        rates = found.get("rates", {})
        if rates:
            yield "per minute: " + ", ".join(f"{rate:g} {name}" for name, rate in rates.items())
    for one in found.get("workers", ()):
        yield _worker(one, isMissing=one["worker"] in found.get("missing", ()))
    yield from _shared(found.get("parts", {}).get("owner"))
    yield from _queue(found["queue"])
    for name, kinds in found.get("counters", {}).items():
        yield f"{name}: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"
    for name, part in found.get("parts", {}).items():
        yield from _submission(part) if name == "submission" else [f"{name}: {_words(part)}"]


def _worker(one: Shown, *, isMissing: bool) -> str:
    words = [f"worker {one['worker']}: {one['state']} for {short(one['seconds'])}"]
    words.append("no process" if one["pid"] is None else f"process {one['pid']}")
    if one["restarts"]:
        words.append(f"{one['restarts']} restarts")
    if isMissing:
        words.append("does not answer")
    return ", ".join(words)


def _shared(part: object) -> Iterator[str]:
    """
    @param part: what a process says of those that share a database; of several processes,
        those of each.
    """
    while isinstance(part, Mapping) and part and "machines" not in part:
        part = next(iter(part.values()))
    if isinstance(part, Mapping) and part:
        yield (
            f"{part['machine']} is one of {part['machines']} machines, with {part['owners']}"
            " processes, that share a database"
        )


def _queue(queue: Shown) -> Iterator[str]:
    if "unknown" in queue:
        return
    states = ", ".join(f"{count} {name}" for name, count in queue["recipients"].items())
    yield f"queue: {queue['messages']} messages; recipients: {states or 'none'}"
    if queue["messages"]:
        yield f"the oldest has been in it for {short(queue['oldest_seconds'])}"
    if queue.get("moved_aside"):
        yield f"{len(queue['moved_aside'])} set aside: `deferrals queue rescue` lists them"


def _words(part: object) -> str:
    """
    A part's state, in words where it is simple.
    """
    if not isinstance(part, Mapping):
        return json.dumps(part)
    if not part:
        return "none"
    return ", ".join(f"{name} {_word(one)}" for name, one in part.items())


def _word(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_word(one)}" for name, one in value.items())
    if isinstance(value, Sequence):
        return "; ".join(map(_word, value)) or "none"
    return json.dumps(value)


def short(seconds: float) -> str:
    """
    A time span in its largest unit.
    """
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def _submission(part: dict[str, Any]) -> Iterator[str]:
    """
    What users have sent within the hour.
    """
    if part["logins"]:
        yield f"submission: {part['logins']} logins have sent within the hour"
    for login, used in part["most_used"].items():
        words = [f"{amount} of {most} {name}" for name, (amount, most) in used.items()]
        yield f"  {login}: {', '.join(words)}"
