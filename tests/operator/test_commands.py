"""
Messages taken out of the queue.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import unittest.mock
from contextlib import redirect_stdout
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import DeferralsError
from deferrals.operator.commands import alarms, export_, status


class ExportTests(SynchronousTestCase):
    """
    L{export_}.
    """

    def export(self, *parts: bytes | None) -> bytes:
        """
        @return: what is written of a message that is read in these parts.
        """
        found = [None if part is None else base64.b64encode(part).decode() for part in parts]
        queue = unittest.mock.Mock()
        queue.call = lambda name, number, offset: found.pop(0)
        out = io.TextIOWrapper(io.BytesIO())
        self.patch(sys, "stdout", out)
        self.assertEqual(export_(queue, argparse.Namespace(id="x")), 0)
        return out.buffer.getvalue()  # type: ignore[attr-defined, no-any-return]

    def test_export(self) -> None:
        """Part by part; one that is delivered meanwhile is never taken for a whole one."""
        self.assertEqual(self.export(b"a", b"b", b""), b"ab")
        self.assertRaises(DeferralsError, self.export, b"a", None)


class StatusTests(SynchronousTestCase):
    """
    L{status}.
    """

    FOUND = {
        "numbers": {"messages": 0, "recipients": {}},
        "status": {
            "counters": {"submission": {"held": 2}},
            "parts": {
                "submission": {
                    "logins": 2,
                    "most_used": {
                        "alice": {"messages": [5, 500], "recipients": [7, 2000], "octets": [9, 99]}
                    },
                },
                "other": {"a": 1},
            },
        },
    }

    def shown(self, isJSON: bool) -> str:
        connection: Any = unittest.mock.Mock(running=True)
        connection.call = lambda name: self.FOUND[name]
        with redirect_stdout(io.StringIO()) as out:
            self.assertEqual(status(connection, argparse.Namespace(json=isJSON)), 0)
        return out.getvalue()

    def test_submission(self) -> None:
        """How much each login has sent, in words, and for programs."""
        lines = self.shown(False).splitlines()
        self.assertIn("submission: 2 held", lines)
        self.assertIn("submission: 2 logins have sent within the hour", lines)
        self.assertIn("  alice: 5 of 500 messages, 7 of 2000 recipients, 9 of 99 octets", lines)
        self.assertIn('other: {"a": 1}', lines)
        found = json.loads(self.shown(True))
        self.assertEqual(
            found["parts"]["submission"]["most_used"]["alice"]["recipients"], [7, 2000]
        )


class AlarmTests(SynchronousTestCase):
    """
    L{alarms}.
    """

    def test_stuck(self) -> None:
        """What nobody can be told of is an alarm; so is what cannot be read."""
        self.assertEqual(alarms({"recipients": {"queued": 9, "stuck": 0}}), [])
        found = alarms({"recipients": {"stuck": 2, "damaged": 1}})
        self.assertEqual(
            [(one["level"], one["what"]) for one in found],
            [("warning", "stuck"), ("warning", "damaged")],
        )
        self.assertTrue(found[0]["text"].startswith("2 recipients are stuck"))
