"""
How the log says what a score has decided.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.scoretext import ScoreSeen, scoresIn, scoreText

NUMBERS = st.floats(-1e6, 1e6).map(lambda one: float(f"{one:g}"))
LIMITS = st.none() | NUMBERS | st.just(float("inf"))
SEEN = st.builds(
    ScoreSeen, st.sampled_from(["rspamd", "spamassassin", "x-1"]), NUMBERS, LIMITS, LIMITS
)


class ScoreTextTests(SynchronousTestCase):
    """
    L{scoreText} and L{scoresIn}.
    """

    @given(st.lists(SEEN, max_size=4), st.sampled_from(["", "action add header"]))
    def test_roundTrip(self, seen: list[ScoreSeen], action: str) -> None:
        """What is written is read again, of several, too."""
        text = "; ".join(["clamav: clean", *(scoreText(one, action) for one in seen)])
        self.assertEqual(scoresIn(text), seen)

    def test_nothing(self) -> None:
        """Another text has no score."""
        for text in ("", "match: rule 3", "rspamd: score", "x: score 1e", "rspamd: score inf"):
            self.assertEqual(scoresIn(text), [], text)
        self.assertEqual(scoresIn("rspamd: score 5x"), [])
