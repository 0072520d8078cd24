"""
What benchmarks say of what they have measured.
"""

from __future__ import annotations

import argparse
import os
import sysconfig

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import figures, growth
from benchmarks.figures import WIDTH, Figure
from benchmarks.peers import PEERS


class FiguresTests(SynchronousTestCase):
    """
    L{benchmarks.figures}.
    """

    FOUND = {
        "ours": {1: [Figure(100, 1.0), Figure(300, 3.0), Figure(200, 2.0)], 10: [Figure(9, 8.0)]},
        "theirs": {1: [Figure(50, 4.0)]},
    }

    def test_said(self) -> None:
        """The median, never the best, with the range."""
        self.assertEqual(figures.said([3.0, 1.0, 8.0]), "3 (1 to 8)")
        self.assertEqual(figures.said([1234.5]), "1,234 (1,234 to 1,234)")
        self.assertEqual(figures.ratio([1.0, 2.0, 9.0], [4.0]), 0.5)

    def test_growth(self) -> None:
        """Each server's rates and processor times; what was not asked is not there."""
        text = figures.growth("Things", "message", self.FOUND, (1, 10))
        self.assertIn("| ours | message/s | 200 (100 to 300) | 9 (9 to 9) |", text)
        self.assertIn("| ours | CPU ms per message | 2 (1 to 3) | 8 (8 to 8) |", text)
        self.assertIn("| theirs | message/s | 50 (50 to 50) | - |", text)

    def test_plot(self) -> None:
        """The least has one letter, the most all, and the same factor the same length."""
        lines = figures.plot("message", self.FOUND, (1, 10)).splitlines()
        self.assertEqual(lines[0], "CPU ms per message, from 2 to 8, logarithmic")
        bars = [line.count("#") for line in lines[1:]]
        self.assertEqual(bars, [1, WIDTH, 1 + round((WIDTH - 1) / 2)])
        self.assertEqual(figures.letters(5.0, 5.0, 5.0), 1)
        self.assertIn("from 1 to 1", figures.plot("message", {"ours": {}}, (1,)))

    def test_machine(self) -> None:
        """The interpreter's build and the processors are named."""
        text = figures.machine(os.curdir)
        self.assertIn(f"{os.cpu_count()} x ", text)
        for given, words in (
            ("'--enable-optimizations' '--with-lto'", "with PGO, with LTO"),
            ("", "without PGO, without LTO"),
        ):
            self.patch(sysconfig, "get_config_var", lambda name, given=given: given)
            self.assertTrue(figures.build().startswith(words))


class AxesTests(SynchronousTestCase):
    """
    L{growth.AXES}.
    """

    def test_sizes(self) -> None:
        """Each thing that grows is measured at four sizes at least, at servers that there are."""
        for axis in growth.AXES.values():
            self.assertGreaterEqual(len(axis.sizes), 4)
            self.assertLessEqual(set(axis.peers) - {growth.APART}, set(PEERS))
        self.assertGreaterEqual(len(growth.QUEUES), 4)

    def test_options(self) -> None:
        """All of them by default, and the longest only if that is said."""
        parser = argparse.ArgumentParser()
        growth.options(parser)
        arguments = parser.parse_args([])
        self.assertEqual(arguments.axes.split(","), [*growth.AXES, "queue"])
        self.assertFalse(arguments.long)
