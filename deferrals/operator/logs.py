"""
The server's logs, wherever they are: a file with those that were rotated away before
it, also compressed; the journal; standard input.
"""

from __future__ import annotations

import bz2
import datetime
import glob
import gzip
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, TextIO

import attrs

from deferrals.errors import DeferralsError

_OPEN: dict[str, Callable[..., TextIO]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

#: What logrotate, and this server, put behind a name.
_ROTATED = re.compile(r"[.-][0-9][0-9-]{0,15}(?:\.(?:gz|bz2|xz))?")

_MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(?:Z|[+-][\d:]+)"

#: How a line of the plain log begins.
_STAMP = re.compile(rf"(?:\S+ +){{0,8}}?({_MOMENT}) (.*)")

#: What a journal or syslog puts before such a line, or before one of syslog's own: a
#: time, the machine, the program and its number.
_BEFORE = re.compile(
    rf"(?!{_MOMENT} \[)(?:({_MOMENT})|\S+(?: +\S+){{0,5}}) +\S+ [^\s\[\]:]+(?:\[\d+\])?:"
    rf" (?=\[|\{{|\s|{_MOMENT} )"
)

#: Whose line it is: the id of a transaction, behind the logger's name.
_ID = re.compile(r"(?:\[[^]]*\] )?([0-9A-HJKMNP-TV-Z]{13})(?![0-9A-Za-z])")


@attrs.frozen
class LogEntry:
    """
    One event of a log.

    @ivar when: seconds since the epoch.
    @ivar text: what it says, without its time; perhaps with lines behind it.
    """

    when: float
    text: str

    @property
    def id(self) -> str:
        """
        The transaction that it is about; empty, where it is about none.
        """
        found = _ID.match(self.text)
        return "" if found is None else found[1]


class Logs:
    """
    Logs that can be read several times.

    @param names: of files; C{-} is standard input.
    @param unit: the unit whose journal is read; C{None} for none.
    """

    def __init__(self, names: Sequence[str], unit: str | None = None) -> None:
        self._copies: list[BinaryIO] = []
        self._names = [one for name in names if name != "-" for one in _withRotated(name)]
        if "-" in names:
            self._copies.append(_copied(sys.stdin.buffer))
        if unit is not None:
            self._copies.append(_journal(unit))

    def close(self) -> None:
        """
        They are not read again.
        """
        for copy in self._copies:
            copy.close()

    def entries(self) -> Iterator[LogEntry]:
        """
        All events, file by file.

        @raise OSError: one of them cannot be read.
        """
        for name in self._names:
            opener = _OPEN.get(name[name.rfind(".") :], io.open)
            with opener(name, "rt", encoding="utf-8", errors="replace") as file:
                yield from entriesIn(file)
        for copy in self._copies:
            copy.seek(0)
            file = io.TextIOWrapper(copy, encoding="utf-8", errors="replace")
            yield from entriesIn(file)
            file.detach()


def _withRotated(name: str) -> list[str]:
    """
    A log, and what it was before.  Where it has been rotated a moment ago it may not
    be there.
    """
    found = glob.glob(f"{glob.escape(name)}[.-]*")
    before = sorted(one for one in found if _ROTATED.fullmatch(one.removeprefix(name)))
    return before if before and not os.path.exists(name) else [*before, name]


def _copied(source: BinaryIO) -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    shutil.copyfileobj(source, copy)
    return copy


def _journal(unit: str) -> BinaryIO:
    """
    @raise DeferralsError: there is no journal, or it says no.
    """
    command = ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--unit={unit}"]
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        done = subprocess.run(command, stdout=copy, stderr=subprocess.PIPE, check=False)
        why = done.stderr.decode("utf-8", "replace").strip() or f"exit status {done.returncode}"
    except OSError as error:
        copy.close()
        raise DeferralsError(f"journalctl: {error.strerror}: say where the log is, --log") from None
    if done.returncode:
        copy.close()
        raise DeferralsError(f"journalctl: {why}")
    return copy


def entriesIn(lines: Iterator[str] | TextIO) -> Iterator[LogEntry]:
    """
    @param lines: of a log of either kind.
    """
    last: LogEntry | None = None
    behind: list[str] = []
    for line in map(_unwrapped, lines):
        if last is not None and line.startswith("\t"):
            behind.append(f"\n{line.rstrip()}")
            continue
        if last is not None:
            yield LogEntry(last.when, "".join([last.text, *behind]))
        last, behind = _json(line) if line.lstrip().startswith("{") else _plain(line), []
    if last is not None:
        yield LogEntry(last.when, "".join([last.text, *behind]))


def _unwrapped(line: str) -> str:
    """
    @return: a line as the server wrote it; with syslog's time, where it has none.
    """
    before = _BEFORE.match(line)
    if before is None:
        return line
    text = line[before.end() :]
    if text[:1].isspace():
        return f"\t{text.lstrip()}"
    return f"{before[1]} {text}" if before[1] and text.startswith("[") else text


def _json(line: str) -> LogEntry | None:
    try:
        event = json.loads(line)
        when = datetime.datetime.fromisoformat(event["time"]).timestamp()
        lines = [str(event["text"]), *str(event.get("traceback", "")).splitlines()]
    except (ValueError, KeyError, TypeError):
        return None
    return LogEntry(when, "\n\t".join(lines))


def _plain(line: str) -> LogEntry | None:
    found = _STAMP.match(line.rstrip())
    if found is None:
        return None
    try:
        return LogEntry(datetime.datetime.fromisoformat(found[1]).timestamp(), found[2])
    except ValueError:
        return None
