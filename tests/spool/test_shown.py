"""
A queue as operators see it.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.ids import formatId
from deferrals.model.selection import Selection
from deferrals.spool import shown
from deferrals.spool.rows import HELD, HOLD, LEASED, QUEUED


class ShownTests(SynchronousTestCase):
    """
    What is made of rows; tests of the stores have the rest.
    """

    def test_damaged(self) -> None:
        """What cannot be read is shown as far as it can be."""
        row = (7, 0, 9, 5.0, "box", "?", "", 1, None, "?", None, None, 2.0, "?", 3, 1e9)
        found = shown.recipient(row, 10.0, False)
        self.assertEqual((found["id"], found["status"]), (formatId(7), "9"))
        self.assertEqual((found["age_seconds"], found["due_seconds"]), (8.0, -5.0))
        for name in ("sender", "recipient", "reply"):
            self.assertEqual(found[name], "(cannot be read)")

    def test_statusName(self) -> None:
        """What is to be held when its attempt has ended is held already."""
        self.assertEqual(shown.statusName(LEASED, None), "active")
        self.assertEqual(shown.statusName(LEASED, HOLD), "held")
        self.assertEqual(shown.recipient((*[0] * 16,), 0.0, True)["status"], "staged")

    def test_message(self) -> None:
        """Of a message that has left there is its history, if there is one."""
        self.assertIsNone(shown.message(7, None, [], []))
        history = shown.history([(0, 1.0, "delivered", None, None)])
        entry = {"seq": 0, "time": 1.0, "event": "delivered", "reply": "", "host": ""}
        gone = {"id": formatId(7), "gone": True, "history": [entry]}
        self.assertEqual(shown.message(7, None, [], history), gone)
        known = shown.ShownMessage(True, 1e9, "?", 3, b"\x01")
        found = shown.message(7, known, [], history)
        assert found is not None
        self.assertEqual((found["released"], found["sha256"]), (False, "01"))
        self.assertEqual(found["envelope"], "(cannot be read)")

    def test_numbers(self) -> None:
        """Recipients of one status are counted together, whatever delivers them."""
        groups = [("a", QUEUED, 2, 5.04), ("b", QUEUED, 1, 1.0), ("b", HELD, 4, 0.0)]
        found = shown.numbers(3, 7.06, groups)
        self.assertEqual(found["recipients"], {"queued": 3, "held": 4})
        self.assertEqual((found["messages"], found["oldest_seconds"]), (3, 7.1))
        self.assertEqual(shown.numbers(0, None, [])["oldest_seconds"], 0.0)

    def test_numbersOf(self) -> None:
        """What is no id is none of the messages that are asked about."""
        self.assertIsNone(shown.numbersOf(Selection()))
        self.assertEqual(shown.numbersOf(Selection(ids=(formatId(7), "?"))), [7])
