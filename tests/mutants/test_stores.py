"""
Tests of L{tests.mutants.stores}.
"""

from __future__ import annotations

import os

from twisted.trial import unittest

from tests.mutants import stores
from tests.mutants.mutations import load
from tests.mutants.stores import StoreTests
from tests.zygote import ROOT


class StoreTestsTests(unittest.SynchronousTestCase):
    """
    L{StoreTests} and its list.
    """

    def test_list(self) -> None:
        """It is of what only a database can see; each may be seen by any of its tests."""
        self.assertTrue(os.path.exists(os.path.join(ROOT, stores.TESTS)))
        known = StoreTests(["a", "b"])
        for one in load(stores.LIST):
            self.assertEqual(os.path.dirname(one.file), "deferrals/spool/postgresql")
            self.assertEqual(known.tests(one), ["a", "b"])
        self.assertEqual(known.patience(["a"]), stores.SECONDS)
