"""
How a message's octets are written.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from deferrals.errors import SpoolError
from deferrals.spool.message import CONGESTED_OCTETS, MEMORY_OCTETS, BodyWriter


def _open() -> list[str]:
    """
    The descriptors of this process, but for the one that lists them.
    """
    found = os.listdir("/proc/self/fd")
    return [one for one in found if os.path.exists(f"/proc/self/fd/{one}")]


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

    def test_slow(self) -> Any:
        """Between writes no file is open, however long the message takes to come."""
        path = self.mktemp()
        writer = BodyWriter(path, deferToThread, lambda: None)
        writer.write(b"x" * (MEMORY_OCTETS + 1))

        def written(_: Any) -> Any:
            if writer._writing is not None:
                return deferToThread(lambda: None).addCallback(written)
            names = {os.readlink(f"/proc/self/fd/{one}") for one in _open()}
            self.assertNotIn(os.path.realpath(path), names)
            writer.write(b"y" * (MEMORY_OCTETS + 1) + b"end")
            return writer.finish()

        def finished(message: Any) -> None:
            with message.open() as file:
                self.assertEqual(file.read()[-5:], b"yyend")
            self.assertEqual(message.measured(), (message.size, message.digest))

        return deferToThread(lambda: None).addCallback(written).addCallback(finished)

    def test_otherFile(self) -> Any:
        """A file that is there is another message's: it stays what it is."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"another's")
        writer = BodyWriter(path, deferToThread, lambda: None)
        writer.write(b"x" * (MEMORY_OCTETS + 1))

        def failed(error: SpoolError) -> Any:
            writer.abort()
            return deferToThread(lambda: None)

        def aborted(_: Any) -> None:
            with open(path, "rb") as file:
                self.assertEqual(file.read(), b"another's")

        return self.assertFailure(writer.finish(), SpoolError).addCallback(failed).addBoth(aborted)

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
