"""
Tests of L{tests.mutants.mutations}.
"""

from __future__ import annotations

import os

import attrs
from twisted.trial import unittest

from tests.mutants import stores
from tests.mutants.mutations import ListError, Mutation, load, sample

MODULE = """\
import os

LIMIT = 5


def first(value):
    if (
        value
        and LIMIT
    ):
        return 1
    return 2


def second():
    return 3
"""


class MutationTests(unittest.SynchronousTestCase):
    """
    Where a mutation is.
    """

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(MODULE)

    def mutation(self, old: str, new: str) -> Mutation:
        return Mutation(self.path, "A sentence.", old, new)

    def test_applied(self) -> None:
        self.assertIn("return 4", self.mutation("return 3", "return 4").apply())

    def test_absent(self) -> None:
        """What is not there cannot be broken: the list is out of date."""
        self.assertRaises(ListError, self.mutation("return 9", "return 4").apply)

    def test_twice(self) -> None:
        """It must be known which one is meant."""
        self.assertRaises(ListError, self.mutation("return", "raise").apply)

    def test_noPython(self) -> None:
        """A text that cannot be compiled would be seen by any test."""
        self.assertRaises(ListError, self.mutation("return 3", "return (").apply)

    def test_unchanged(self) -> None:
        self.assertRaises(ListError, self.mutation("return 3", "return 3").apply)

    def test_lines(self) -> None:
        """Those of the statement, but not of what is in it; and those of the function."""
        found = self.mutation("value\n        and LIMIT", "value\n        or LIMIT").lines()
        self.assertEqual(({7, 8, 9, 10}, {7, 8, 9, 10, 11, 12}), found)

    def test_onlyChanged(self) -> None:
        """What a snippet has around the change is not changed."""
        found = self.mutation("return 1\n    return 2", "return 1\n    return 4").lines()
        self.assertEqual({12}, found[0])

    def test_constant(self) -> None:
        """Outside of functions it may be seen by whatever runs in the module."""
        statement, whole = self.mutation("LIMIT = 5", "LIMIT = 6").lines()
        self.assertEqual({3}, statement)
        self.assertTrue(whole >= set(range(1, 17)))

    def test_list(self) -> None:
        """A change of what the list breaks brings the list along; each snippet is there once."""
        self.assertGreaterEqual(len(load()), 250)
        self.assertGreaterEqual(len(load(stores.LIST)), 50)

    def test_sample(self) -> None:
        """The same ones, whatever else is listed."""
        listed = [self.mutation("return 3", f"return {n}") for n in range(10)]
        first = sample(listed, 3)
        self.assertEqual(first, sample(listed[::-1], 3))
        others = [attrs.evolve(one, old="return 2") for one in listed]
        self.assertEqual(
            sorted([*first, *sample(others, 3)], key=lambda one: one.order)[:3],
            sample([*listed, *others], 3),
        )
