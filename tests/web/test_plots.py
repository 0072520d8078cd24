"""
Drawings.
"""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.template import flattenString

from deferrals.web.plots import WIDTH, Bar, LimitMark, bars, histogram

SCORES = st.floats(-1e9, 1e9) | st.just(math.inf) | st.just(-math.inf)


class PlotTests(SynchronousTestCase):
    """
    L{bars} and L{histogram}.
    """

    def test_bars(self) -> None:
        """Their names and numbers are there as text, whatever these are."""
        rows = [Bar("<script>", 3, "3"), Bar("none", 0, "0", "bad")]
        text = self.successResultOf(flattenString(None, bars("What & how", rows))).decode()
        drawn = ElementTree.fromstring(text)
        self.assertEqual(drawn.attrib["aria-label"], "What & how")
        self.assertIn("&lt;script&gt;", text)
        self.assertNotIn("style=", text)  # the policy of pages takes none
        self.successResultOf(flattenString(None, bars("", [])))

    @settings(max_examples=20, deadline=None)
    @given(
        st.lists(st.integers(0, 10**9), min_size=102, max_size=102),
        st.lists(st.builds(LimitMark, SCORES, st.just("x"), st.just("bad")), max_size=7),
    )
    def test_histogram(self, counts: list[int], marks: list[LimitMark]) -> None:
        """Whatever was counted, and whatever the limits: all is within the drawing."""
        text = self.successResultOf(
            flattenString(None, histogram("Scores", counts, -10, 0.5, marks))
        ).decode()
        ElementTree.fromstring(text)
        for number in re.findall(r' (?:x|x1|x2)="([^"]*)"', text):
            self.assertTrue(0 <= float(number) <= WIDTH, number)
        self.assertNotIn("nan", text)
