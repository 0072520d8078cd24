"""
What a spam score means for a cohort: its limits, its refusal, its marks; and
what the stages have in common that ask for one.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred

from deferrals.interfaces import IMessage
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.scoretext import ScoreSeen, scoreText
from deferrals.model.settings import Octets
from deferrals.model.verdict import (
    ACCEPT,
    NO_MARKS,
    Accept,
    ContentVerdict,
    Marks,
    Refuse,
)
from deferrals.stages.content.scanner import Scanner, ScannerSettings, tooLarge

_Key = TypeVar("_Key", bound=Hashable)
_Scan = TypeVar("_Scan")

#: So many symbols of a scan are named in the log, and so much of each.
MAX_NAMED = 200
MAX_SYMBOL = 100

DEFAULT_REPLY = "550 5.7.1 refused as spam"


class ScoreSettings(ScannerSettings, Protocol):
    """
    What the settings of each stage with a score have.
    """

    @property
    def refuse_score(self) -> float | None:
        """Refuse from this score on."""

    @property
    def mark_score(self) -> float | None:
        """Mark the copy from this score on."""

    @property
    def add_headers(self) -> bool:
        """Whether a copy says its score."""

    @property
    def subject_tag(self) -> str:
        """Put in front of the Subject of a marked copy."""

    @property
    def junk(self) -> bool:
        """Whether a marked copy is filed as junk."""

    @property
    def max_size(self) -> Octets:
        """Larger messages are accepted without a scan."""


@attrs.frozen
class ScoreLimits:
    """
    What one cohort thinks of scores; recipients with equal limits are alike.

    @ivar refuse: refuse from this score on; C{None}: what the scanner says;
        infinite: never.
    @ivar mark: likewise, for marking.
    """

    refuse: float | None = None
    mark: float | None = None


def limitsOf(stage: str, settings: ScoreSettings, recipient: Recipient) -> ScoreLimits | None:
    """
    A recipient's limits: its own, where it has some, otherwise its policy's.

    @return: C{None}, where it wants no spam filter.
    """
    if recipient.own(stage, "spam_filter") == 0:
        return None
    own = [recipient.own(stage, key) for key in ("refuse_score", "mark_score")]
    refuse, mark = (None if value is None else float(value) for value in own)
    return ScoreLimits(
        settings.refuse_score if refuse is None else refuse,
        settings.mark_score if mark is None else mark,
    )


def number(value: float) -> None:
    """
    For L{checked<deferrals.model.settings.checked>}.
    """
    if math.isnan(value):
        raise ValueError("a number, or inf")


def symbolsNamed(symbols: Iterable[str]) -> str:
    """
    A scan's symbols for the log: the first ones, of which none is long.
    """
    return " ".join(symbol[:MAX_SYMBOL] for symbol in itertools.islice(symbols, MAX_NAMED))


def decision(name: str, score: float, limits: ScoreLimits, action: str = "") -> str:
    """
    What decided, for the log.

    @param name: the stage's.
    @param action: what the scanner itself wants.
    """
    return scoreText(ScoreSeen(name, score, limits.refuse, limits.mark), action)


def refusal(reply: str, text: str = "", why: str = "", score: float | None = None) -> Refuse:
    """
    @param reply: the stage's setting.
    @param why: what decided.
    @param score: the score that did.
    @param text: what the scanner wants the sender to read instead of its text.
    """
    found = Reply.parseRefusal(reply)
    text = " ".join(text.split())[:300]
    return Refuse(attrs.evolve(found, text=text) if text else found, why=why, score=score)


def acceptance(
    settings: ScoreSettings,
    score: float,
    marked: bool,
    more: Marks,
    why: str,
    saysSpam: bool = True,
) -> ContentVerdict:
    """
    The copy of a cohort that accepts.  What a sender says about its own score
    is taken out.

    @param more: further marks, in front.
    @param why: what decided.
    @param saysSpam: whether a marked copy says C{X-Spam: Yes}.
    """
    headers: list[tuple[str, str]] = []
    removed: tuple[str, ...] = ()
    if settings.add_headers:
        removed = ("X-Spam", "X-Spam-Score")
        headers = [("X-Spam", "Yes")] if marked and saysSpam else []
        headers.append(("X-Spam-Score", f"{score:.1f}"))
    marks = more.plus(
        Marks(
            tuple(headers),
            removed,
            settings.subject_tag if marked else "",
            marked and settings.junk,
        )
    )
    return Accept(NO_MARKS if marks == NO_MARKS else marks, why=why)


def _scores(message: IMessage, name: str) -> Deferred[dict[str, float]]:
    """
    The scores that a stage has found for a message, by recipient.
    """
    return message.shared((__name__, "scores", name), lambda _: dict[str, float]())


async def scoreFor(message: IMessage, name: str, recipient: Recipient) -> float | None:
    """
    @param name: of a stage that the recipient has met already.
    @return: the score that it goes by for this recipient; C{None} where it has none.
    """
    return (await _scores(message, name)).get(recipient.address.key)


class ScoringStage(ABC, Generic[_Key, _Scan]):
    """
    A content stage whose scanner gives a score, and whose recipients may have
    limits of their own.
    """

    def __init__(self, settings: ScoreSettings, scanner: Scanner) -> None:
        self._limits = settings
        self._scanner = scanner

    def tooLarge(self) -> ContentVerdict:
        """
        @return: what it means that a message is too large for the scanner.
        """
        return tooLarge(self._scanner.name, "mark")

    def cohort(self, recipient: Recipient) -> Hashable:
        """
        The scan, and the limits; C{None} for recipients that want none.
        """
        limits = limitsOf(self._scanner.name, self._limits, recipient)
        return None if limits is None else (self.scanOf(recipient), limits)

    def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> ContentVerdict | Deferred[ContentVerdict]:
        """
        Scan once for all recipients of equal key, and decide by their limits.
        """
        limits = limitsOf(self._scanner.name, self._limits, recipients[0])
        if limits is None:
            return ACCEPT
        if message.size > self._limits.max_size:
            return self.tooLarge()
        key = self.scanOf(recipients[0])
        return self._scanner.judge(
            message,
            envelope,
            key,
            lambda: self.scan(message, envelope, key, recipients),
            lambda scan: self._decided(message, recipients, scan, limits),
        )

    def _decided(
        self,
        message: IMessage,
        recipients: Sequence[Recipient],
        scan: _Scan,
        limits: ScoreLimits,
    ) -> ContentVerdict:
        score = self.scoreOf(scan)
        if score is not None:
            found = dict.fromkeys((one.address.key for one in recipients), score)
            _scores(message, self._scanner.name).addCallback(lambda known: known.update(found))
        return self.decide(scan, limits)

    def scoreOf(self, scan: _Scan) -> float | None:
        """
        @return: the score that counts here; C{None} where there is none.
        """
        return None

    @abstractmethod
    def scanOf(self, recipient: Recipient) -> _Key:
        """
        @return: which scan a recipient needs: recipients with equal keys share
            it.
        """

    @abstractmethod
    async def scan(
        self, message: IMessage, envelope: Envelope, key: _Key, recipients: Sequence[Recipient]
    ) -> _Scan:
        """
        Make a scan.

        @param recipients: the ones it is made for.
        """

    @abstractmethod
    def decide(self, scan: _Scan, limits: ScoreLimits) -> ContentVerdict:
        """
        @return: what a scan means under these limits.
        """
