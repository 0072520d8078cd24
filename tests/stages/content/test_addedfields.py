"""
What a service may put in front of a message.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.addedfields import MAX_FIELDS, MAX_FIELDS_OCTETS, fitting


class FittingTests(SynchronousTestCase):
    """
    L{fitting}.
    """

    def test_few(self) -> None:
        """What is usual is all taken over."""
        self.assertEqual(fitting([("A", "b"), ("A", "c" * 2000)]), (("A", "b"), ("A", "c" * 2000)))
        self.assertEqual(fitting([]), ())

    def test_many(self) -> None:
        """Neither too many fields, nor too long ones."""
        self.assertEqual(len(fitting([("A", "b")] * 1000)), MAX_FIELDS)
        self.assertEqual(fitting([("A", "b"), ("A", "c" * MAX_FIELDS_OCTETS)]), (("A", "b"),))
        self.assertEqual(fitting([("A", "\N{SNOWMAN}" * (MAX_FIELDS_OCTETS // 3 + 1))]), ())
        self.assertEqual(len(fitting([("A", "\ud800")])), 1)
