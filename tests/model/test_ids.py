"""
Numbers of transactions, and how people see them.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.ids import TransactionIds, formatId, parseId


class IdTests(SynchronousTestCase):
    """
    L{TransactionIds}, L{formatId}, L{parseId}.
    """

    @given(st.integers(0, (1 << 63) - 1))
    def test_roundTrip(self, number: int) -> None:
        """Thirteen letters, which say the number again, in either case."""
        text = formatId(number)
        self.assertEqual(len(text), 13)
        self.assertEqual(parseId(text), number)
        self.assertEqual(parseId(text.lower()), number)

    @given(st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 63) - 1))
    def test_order(self, one: int, other: int) -> None:
        """They sort as the numbers do."""
        self.assertEqual(one < other, formatId(one) < formatId(other))

    def test_nonsense(self) -> None:
        """Other lengths, letters that are left out, and numbers that are too large."""
        for text in ("", "0" * 12, "0" * 14, "0" * 12 + "I", "0" * 12 + "-", "8" + "0" * 12):
            self.assertRaises(ValueError, parseId, text)

    def test_unique(self) -> None:
        """Within a millisecond, and of several workers, no two are the same."""
        makers = [TransactionIds(worker) for worker in range(4)]
        found = {maker.next(1e9) for maker in makers for _ in range(1000)}
        self.assertEqual(len(found), 4000)

    def test_later(self) -> None:
        """A later one is larger, whoever made it."""
        one, other = TransactionIds(255), TransactionIds(0)
        self.assertLess(one.next(1e9), other.next(1e9 + 0.001))

    def test_spool(self) -> None:
        """Two makers have two spools, until they are told which one theirs is."""
        one, other = TransactionIds(), TransactionIds()
        self.assertNotEqual(one.spool, other.spool)
        other.use(one.spool)
        self.assertEqual(one.spool, other.spool)
        for wrong in ("", "../x", "a b", "x" * 65, "\u00e4"):
            self.assertRaises(ValueError, one.use, wrong)

    def test_worker(self) -> None:
        """Of a larger number the last octet counts: it may be that of a process."""
        self.assertEqual(TransactionIds(0x1234).next(0) & 0xFF, 0x34)
