"""
Tests of L{tests.mutants.running}.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from twisted.trial import unittest

from tests.mutants import running
from tests.mutants.running import FAULT, Late, inForks


class ForkTests(unittest.SynchronousTestCase):
    """
    What is told of a fork.
    """

    def told(self, *functions: Callable[[], list[str]], seconds: float = 60.0) -> list[str | Late]:
        found: dict[int, str | Late] = {}
        jobs = [
            (seconds, function, lambda text, number=number: found.update({number: text}))
            for number, function in enumerate(functions)
        ]
        inForks(jobs, 2)
        return [found[number] for number in sorted(found)]

    def test_lines(self) -> None:
        """What it says, whatever others say; nothing is an answer, too."""
        found = self.told(list, lambda: ["a", "b"], list, lambda: ["c"])
        self.assertEqual(found, ["", "a\nb", "", "c"])

    def test_fails(self) -> None:
        """One that raises, or dies, has not answered that nothing was seen."""

        def dies() -> list[str]:
            os.kill(os.getpid(), signal.SIGKILL)
            return []

        for text in self.told(lambda: [str(1 // 0)], dies):
            assert isinstance(text, str)
            self.assertTrue(text.startswith(FAULT), text)

    def test_busy(self) -> None:
        """One that never ends is told from one that waits, for a processor perhaps."""

        def works() -> list[str]:
            while True:
                pass

        def waits() -> list[str]:
            signal.pause()
            return []

        self.patch(running, "PATIENCE", 60.0)
        self.assertEqual(self.told(works, seconds=1.0), [Late.BUSY])
        self.patch(running, "PATIENCE", 0.1)
        self.assertEqual(self.told(waits, seconds=1.0), [Late.WAITING])
