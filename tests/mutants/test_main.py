"""
Tests of L{tests.mutants.__main__}.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable

from twisted.trial import unittest

from tests.mutants import __main__ as program
from tests.mutants.__main__ import Judge
from tests.mutants.choosing import Recorded
from tests.mutants.mutations import Mutation
from tests.mutants.running import FAULT, Fate, Late, Told


class JudgeTests(unittest.SynchronousTestCase):
    """
    What becomes of a mutation, by what is told of its tests.
    """

    def fate(self, *answers: str | Late) -> Fate:
        """
        @param answers: what is told, with the sentence broken and with nothing broken.
        """
        left = list(answers)

        def inForks(
            jobs: Iterable[tuple[float, Callable[[], list[str]], Told]], count: int
        ) -> None:
            for _, _, told in jobs:
                told(left.pop(0))

        self.patch(program, "inForks", inForks)
        self.patch(sys, "stdout", io.StringIO())
        mutation = Mutation(__file__, "A sentence.", "__futur" + "e__", "x")
        known = Recorded({mutation.path: {7: ["a test"]}}, {})
        judge = Judge(known, 2, isLoud=False)
        judge.judge([mutation])
        self.assertEqual(left, [])
        (verdict,) = judge.verdicts
        return verdict.fate

    def test_told(self) -> None:
        """By the test that fails."""
        self.assertIs(self.fate(""), Fate.SURVIVED)
        self.assertIs(self.fate("tests/a.py::b\ntests/a.py::c"), Fate.KILLED)
        self.assertIs(self.fate(f"{FAULT} no tests"), Fate.UNKNOWN)

    def test_endless(self) -> None:
        """What uses a processor without end was seen."""
        self.assertIs(self.fate(Late.BUSY), Fate.ENDLESS)

    def test_crowded(self) -> None:
        """What only has not ended was seen where the same tests end with nothing broken."""
        self.assertIs(self.fate(Late.WAITING, ""), Fate.ENDLESS)
        self.assertIs(self.fate(Late.WAITING, Late.WAITING), Fate.UNKNOWN)
        self.assertIs(self.fate(Late.WAITING, "tests/a.py::b"), Fate.UNKNOWN)
