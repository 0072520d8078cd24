"""
How a message's octets are written.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from deferrals.errors import SpoolError
from deferrals.spool.message import CONGESTED_OCTETS, MEMORY_OCTETS, BodyWriter


class WriterTests(TestCase):
    """
    Bodies on a real disk, with real threads.
    """

    def test_congestion(self) -> Any:
        """A writer that is behind says so, and says when it is not any longer."""
        path = self.mktemp()
        writer = BodyWriter(path, deferToThread, lambda: None)
        chunk = b"x" * (1024 * 1024)
        for _ in range(3):
            writer.write(chunk)
        self.assertTrue(writer.congested)

        def drained(_: Any) -> Any:
            self.assertFalse(writer.congested)
            writer.write(b"end")
            return writer.finish()

        def finished(message: Any) -> None:
            self.assertEqual(message.size, 3 * len(chunk) + 3)
            with message.open() as file:
                self.assertEqual(file.read(), chunk * 3 + b"end")

        self.assertGreater(3 * len(chunk), CONGESTED_OCTETS)
        return writer.drained().addCallback(drained).addCallback(finished)

    def test_noDisk(self) -> Any:
        """A file that cannot be written is a SpoolError at the end, and memory stays bounded."""
        writer = BodyWriter("/nonexistent/file", deferToThread, lambda: None)
        writer.write(b"x" * (MEMORY_OCTETS + 1))

        def more(_: Any) -> Any:
            if writer._failure is None:
                return deferToThread(lambda: None).addCallback(more)
            writer.write(b"x" * (2 * CONGESTED_OCTETS))
            self.assertFalse(writer.congested)
            return self.assertFailure(writer.finish(), SpoolError)

        return deferToThread(lambda: None).addCallback(more)
