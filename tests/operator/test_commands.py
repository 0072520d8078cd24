"""
Messages taken out of the queue.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import unittest.mock

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import DeferralsError
from deferrals.operator.commands import export_


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
