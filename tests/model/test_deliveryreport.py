"""
The lines of a delivery's results behind the final reply.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.deliveryreport import MAX_LINES, resultLine, shortened
from deferrals.model.reply import Reply
from deferrals.model.verdict import Failed

NEVER = Failed(Reply(550, "5.6.0", "no such content"))


class LineTests(SynchronousTestCase):
    """
    The lines.
    """

    def test_notify(self) -> None:
        """NOTIFY=NEVER means no notice."""
        self.assertNotIn("notice", resultLine("a@b.c", NEVER, frozenset({"NEVER"}), True))

    def test_many(self) -> None:
        """No client is asked to read thousands of lines."""
        lines = shortened([f"line {number}" for number in range(1000)])
        self.assertEqual((len(lines), lines[-1]), (MAX_LINES, "and 801 more recipients"))
        self.assertEqual(shortened(["one"]), ["one"])
