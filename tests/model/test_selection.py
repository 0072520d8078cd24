"""
What an operator selects of the queue.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.selection import Selection, exactly

ROW: dict[str, Any] = {
    "id": "A" * 13,
    "sender": "List@Example.com",
    "recipient": "lover@example.net",
    "destination": "mx.example.net",
    "status": "queued",
    "age_seconds": 100,
}


class SelectionTests(SynchronousTestCase):
    """
    L{Selection}.
    """

    def test_table(self) -> None:
        """Each condition alone: patterns are as in a shell, without case."""
        for conditions, wanted in (
            ({}, True),
            ({"ids": ("A" * 13, "B" * 13)}, True),
            ({"ids": ("B" * 13,)}, False),
            ({"sender": "list@*"}, True),
            ({"sender": ""}, False),
            ({"recipient": "*@EXAMPLE.net"}, True),
            ({"recipient": "example.net"}, False),
            ({"destination": "mx?example.net"}, True),
            ({"destination": "[a-l]*"}, False),
            ({"status": "queued"}, True),
            ({"status": "held"}, False),
            ({"olderSeconds": 100}, True),
            ({"olderSeconds": 101}, False),
            ({"newerSeconds": 100}, True),
            ({"newerSeconds": 99}, False),
        ):
            self.assertIs(Selection(**conditions).matches(ROW), wanted, conditions)

    def test_exactly(self) -> None:
        """What is meant as it is written is a pattern of nothing else."""
        for text in ("tcp:[::1]:25", "a*b?c[!d]e", "["):
            self.assertTrue(
                Selection(destination=exactly(text)).matches({**ROW, "destination": text})
            )
        found = Selection(destination=exactly("a*")).matches({**ROW, "destination": "ab"})
        self.assertFalse(found)

    def test_all(self) -> None:
        """All conditions have to be met."""
        self.assertTrue(Selection(sender="list@*", status="queued").matches(ROW))
        self.assertFalse(Selection(sender="list@*", status="held").matches(ROW))

    def test_tagged(self) -> None:
        """A sender is found as it is written, and as who it is."""
        row = {**ROW, "sender": "prvs=0123456789=Boss@shop.example"}
        for pattern in ("boss@shop.example", "prvs=*"):
            self.assertTrue(Selection(sender=pattern).matches(row))
        self.assertFalse(Selection(sender="boss@*").matches({**ROW, "sender": "other@x.example"}))

    def test_nullSender(self) -> None:
        """Bounces are found by an empty pattern."""
        self.assertTrue(Selection(sender="").matches({**ROW, "sender": ""}))

    def test_everything(self) -> None:
        """No condition is everything; an empty pattern is a condition."""
        self.assertTrue(Selection().isEverything)
        self.assertFalse(Selection(sender="").isEverything)

    def test_json(self) -> None:
        """On the line to the server it stays what it is; what is none is an error."""
        for selection in (Selection(), Selection(("A" * 13,), "a", "b", "c", "held", 1, 2)):
            line = json.dumps(selection.toJSON())
            self.assertEqual(Selection.fromJSON(json.loads(line)), selection)
        self.assertRaises(ValueError, Selection.fromJSON, {"colour": "red"})
