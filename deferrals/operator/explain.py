"""
One message's story: what the logs and the spool's history say of it, in order.
"""

from __future__ import annotations

import bz2
import contextlib
import datetime
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from deferrals.model.selection import Shown

_OPEN: dict[str, Callable[..., TextIO]] = {".gz": gzip.open, ".bz2": bz2.open}

#: How a line of the plain log begins: 2026-11-23T16:00:00.123+0000 [logger] text
_STAMP = "%Y-%m-%dT%H:%M:%S.%f%z"


def story(number: str, found: Shown | None, logs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """
    @param number: the message's id.
    @param found: what L{IQueue.show<deferrals.interfaces.IQueue.show>} said.
    @param logs: names of files.
    @return: (moment, text), in order of time.
    """
    entries: list[tuple[float, str]] = []
    for name in logs:
        with _opened(name) as file:
            entries += _read(file, number)
    if not any(" to=<" in text and _isDelivery(text) for _, text in entries):
        # The log knows of every attempt; without it, the spool does.
        entries += list(_history(found))
    for when, text in sorted(entries, key=lambda entry: entry[0]):
        moment = datetime.datetime.fromtimestamp(when).astimezone()
        yield moment.isoformat(" ", "milliseconds"), text


def _isDelivery(text: str) -> bool:
    return any(f"> {word} by " in text for word in ("delivered", "failed", "retry"))


def _opened(name: str) -> contextlib.AbstractContextManager[TextIO]:
    if name == "-":
        return contextlib.nullcontext(sys.stdin)
    suffix = name[name.rfind(".") :]
    opener: Callable[..., TextIO] = _OPEN.get(suffix, io.open)
    return opener(name, "rt", encoding="utf-8", errors="replace")


def _read(file: TextIO, number: str) -> Iterator[tuple[float, str]]:
    for line in file:
        if number in line:
            entry = _json(line) if line.lstrip().startswith("{") else _plain(line)
            if entry is not None:
                yield entry


def _json(line: str) -> tuple[float, str] | None:
    try:
        event = json.loads(line)
        when = datetime.datetime.fromisoformat(event["time"]).timestamp()
        return when, str(event["text"])
    except (ValueError, KeyError, TypeError):
        return None


def _plain(line: str) -> tuple[float, str] | None:
    """
    The stamp of a journal may stand before it.
    """
    words = line.rstrip().split(" ")
    for index, word in enumerate(words[:8]):
        with contextlib.suppress(ValueError):
            when = datetime.datetime.strptime(word, _STAMP).timestamp()
            return when, " ".join(words[index + 1 :])
    return None


def _history(found: Shown | None) -> Iterator[tuple[float, str]]:
    if found is None:
        return
    for entry in found["history"]:
        said = " ".join(filter(None, (entry["host"], entry["reply"])))
        text = f"[spool] {found['id']} recipient {entry['seq']}: {entry['event']} {said}"
        yield entry["time"], text.rstrip()
