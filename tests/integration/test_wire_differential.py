"""
What a line of the envelope is answered, beside what Postfix and Exim answer.
"""

from __future__ import annotations

import os

from tests.integration.support import ROOT, IntegrationCase
from tests.integration.wirelines import REASONS, compared, reasonFor
from tests.rigs import rig


class DifferentialTests(IntegrationCase):
    """
    L{tests.integration.wirelines}.
    """

    def test_lines(self) -> None:
        """
        What both take is not refused for good, and what both refuse is not taken,
        but for the differences that docs/wire.md gives a reason for.
        """
        answers = list(compared(self, seed=26, count=rig(200, 500)))
        taken = sum(one.postfix < 300 and one.exim < 300 for one in answers)
        self.assertGreater(taken, len(answers) // 8)
        self.assertEqual([one for one in answers if one.difference and not reasonFor(one)], [])

    def test_reasons(self) -> None:
        """Each difference that stays is on the page."""
        with open(os.path.join(ROOT, "docs", "wire.md"), encoding="utf-8") as file:
            page = file.read()
        for name in REASONS:
            self.assertIn(f"\n| `{name}` |", page)
