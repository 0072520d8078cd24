"""
How the log says what a score has decided, and how that is read again.
"""

from __future__ import annotations

import math
import re

import attrs

_NUMBER = r"-?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|inf)"

#: What L{scoreText} makes; several stand behind one another, with C{; } between them.
_SCORE = re.compile(
    rf"(?:^|; )([A-Za-z0-9_.-]+): score ({_NUMBER})(?:, refuse_score ({_NUMBER}))?"
    rf"(?:, mark_score ({_NUMBER}))?(?![^,;])",
    re.A,
)


@attrs.frozen
class ScoreSeen:
    """
    A score, and what it was held against.

    @ivar use: whose it is.
    @ivar refuse: from where on it refuses; C{None} where its scanner says that.
    @ivar mark: likewise, for a mark.
    """

    use: str
    score: float
    refuse: float | None = None
    mark: float | None = None


def scoreText(seen: ScoreSeen, action: str = "") -> str:
    """
    What decided, for the log.

    @param action: what the scanner itself wants.
    """
    known = {"refuse_score": seen.refuse, "mark_score": seen.mark}
    own = [f"{key} {limit:g}" for key, limit in known.items() if limit is not None]
    return ", ".join(filter(None, (f"{seen.use}: score {seen.score:g}", *own, action)))


def scoresIn(text: str) -> list[ScoreSeen]:
    """
    The scores that a line names.
    """
    found = []
    for use, score, refuse, mark in _SCORE.findall(text):
        seen = ScoreSeen(
            use, float(score), *(float(one) if one else None for one in (refuse, mark))
        )
        if math.isfinite(seen.score):
            found.append(seen)
    return found
