"""
What became of messages, counted.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import attrs

from benchmarks.mixed.traffic import MINUTE, Mail
from tests.mixed.senders import Silent
from tests.mixed.world import Server

#: What counts as never, in minutes: five days.
NEVER = 7200.0

#: Who has accepted in so many attempts in a row, and does not have it, never will.
_ENOUGH = 6

TITLES = (
    "extra attempts",
    "ordinary delayed",
    "ordinary p95 min",
    "mixed: accepters' median min",
    "p95 min",
    "wrong",
    "silent loss",
    "refused as one",
    "refuser untold",
    "extra copies",
    "filed",
    "DSNs",
)


@attrs.define
class Figures:
    """
    @ivar ordinary: minutes until the last recipient had it, of mail that all accept.
    @ivar mixed: minutes until each that accepts had it, of queues' mixed mail.
    @ivar wrongIn: the messages with a wrong answer.
    """

    messages: int = 0
    extra: int = 0
    delayed: int = 0
    wrong: int = 0
    silent: int = 0
    asOne: int = 0
    untold: int = 0
    copies: int = 0
    filed: int = 0
    notified: int = 0
    ordinary: list[float] = attrs.field(factory=list)
    mixed: list[float] = attrs.field(factory=list)
    wrongIn: list[str] = attrs.field(factory=list)

    def add(self, mail: Mail, server: Server, tells: bool) -> None:
        """
        One message is over.

        @param tells: whether refusers are told by DSN.
        """
        sender = mail.sender
        self.messages += 1
        self.extra += sender.attempts - 1
        has = {key: mail.copies(server, key) for key in mail.says}
        minutes = [_minutes(mail, key) for key in _accepters(mail)]
        if mail.isOrdinary:
            self.delayed += max(minutes) > 0
            self.ordinary.append(max(minutes))
        elif mail.isMixed and mail.kind.isQueue:
            self.mixed += minutes
        diverted = {key for key, one in mail.says.items() if one.last == "R"} & {*server.filed}
        isTold = tells and bool(sender.clients[0].spf)
        self.notified += len(diverted) * isTold
        self.filed += len(diverted) * (not isTold)
        for key, copies in has.items():
            self.copies += max(0, copies - 1)
            self._one(mail, key, copies > 0, key in diverted)

    def _one(self, mail: Mail, key: str, has: bool, isDiverted: bool) -> None:
        said, verdict = mail.sender.told.get(key), _verdict(mail, key)
        if verdict == "R":
            isTold = said == "5" or isDiverted or _sawError(mail, key)
            self.untold += not isTold
        if verdict == "A" and isDiverted:
            self.wrong += 1
        elif verdict == "A" and mail.kind.isQueue and (said == "5" or not has):
            self.wrong += 1
            self.wrongIn.append(f"{mail.sender.message.digest} ({mail.kind.name}, {key})")
        elif _isDropped(mail, key) and mail.says[key].last == "A":
            self.silent += 1
        elif verdict == "A" and not has:
            self.asOne += 1

    def row(self, name: str) -> str:
        """
        As a row of the table.
        """
        per = 1000 / self.messages
        counts = [self.wrong, self.silent, self.asOne, self.untold]
        rest = [self.copies, self.filed, self.notified]
        cells = [
            name,
            f"{self.extra * per:.0f}",
            f"{self.delayed * per:.1f}" if self.delayed else "0",
            f"{_percentile(self.ordinary, 0.95):.0f}",
            f"{_percentile(self.mixed, 0.5):.0f}",
            f"{_percentile(self.mixed, 0.95):.0f}",
            *(f"{count * per:.1f}" if count else "0" for count in [*counts, *rest]),
        ]
        return f"| {' | '.join(cells)} |"


def _percentile(figures: Sequence[float], part: float) -> float:
    if not figures:
        return 0.0
    if part == 0.5:
        return statistics.median(figures)
    return sorted(figures)[int(len(figures) * part)]


def _accepters(mail: Mail) -> list[str]:
    """Who accepts from the beginning."""
    return [key for key, one in mail.says.items() if one.last == "A" and not one.until]


def _minutes(mail: Mail, key: str) -> float:
    """
    Until it had the message.
    """
    arrived = mail.arrived.get(key)
    return NEVER if arrived is None else (arrived - mail.times[0]) / MINUTE


def _verdict(mail: Mail, key: str) -> str:
    """
    What is to become of a recipient: of one that refused for now, C{T} unless it
    has then said the same thing often enough.
    """
    one = mail.says[key]
    if not one.until:
        return one.last
    after = [now for now in mail.times if now >= one.until]
    return one.last if len(after) >= _ENOUGH else "T"


def _sawError(mail: Mail, key: str) -> bool:
    """
    Whether the caller of a program was told that it failed, by a reply that names
    who refuses.
    """
    return not mail.kind.isQueue and not _isDropped(mail, key)


def _isDropped(mail: Mail, key: str) -> bool:
    """
    Whether its sender has forgotten it, and reported success.
    """
    return isinstance(mail.sender, Silent) and mail.sender.told.get(key) == "-"
