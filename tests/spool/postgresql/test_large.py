"""
Tests for L{deferrals.spool.postgresql.large}; those with a real server are in
L{tests.integration.test_bodies}.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.spool.message import Message
from deferrals.spool.postgresql.directory import MARKER, Directory
from deferrals.spool.postgresql.large import SharedDirectory
from tests.spool.postgresql.fakes import FakeThread

NUMBER = 0x123456789AB00


class SharedDirectoryTests(SynchronousTestCase):
    """
    L{SharedDirectory}.
    """

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        os.mkdir(self.path)
        self.files = Directory(self.path)
        self.files.use("q", self.files.begin("q", None, "one"))
        self.clock, self.thread = Clock(), FakeThread()
        self.directory = SharedDirectory(self.files, self.thread, self.clock)
        local = os.path.abspath(self.mktemp())
        with open(local, "wb") as file:
            file.write(b"content")
        digest = hashlib.sha256(b"content").digest()
        self.message = Message(7, digest, None, local, b"")
        self.said: list[Any] = []
        globalLogPublisher.addObserver(self.said.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.said.append)

    def started(self, waiting: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        return Deferred.fromCoroutine(waiting)

    def write(self, number: int = NUMBER) -> Deferred[Any]:
        return self.started(self.directory.write(1, number, self.message))

    def heard(self) -> list[tuple[str, str]]:
        """
        What the log says of the directory.
        """
        events = [one for one in self.said if one.get("event") == "bodies"]
        self.said.clear()
        self.flushLoggedErrors()
        return [(one["state"], formatEvent(one)) for one in events]

    def test_away(self) -> None:
        """
        That large mail cannot be taken is said once, and shown; so is that it can again.
        """
        self.assertEqual(self.directory.describe(), {"state": "working", "last_error": ""})
        os.rename(self.path, f"{self.path}.away")
        for _ in range(3):
            self.failureResultOf(self.write(), SpoolError)
        ((state, text),) = self.heard()
        self.assertEqual(state, "away")
        self.assertIn("large mail cannot be taken: spool.bodies: ", text)
        shown = self.directory.describe()
        self.assertEqual(shown["state"], "resting")
        self.assertIn("No such file", str(shown["last_error"]))
        os.rename(f"{self.path}.away", self.path)
        for _ in range(3):
            self.successResultOf(self.write())
        self.assertEqual(self.heard(), [("back", "large mail can be taken again")])
        self.assertEqual(self.directory.describe(), {"state": "working", "last_error": ""})

    def test_full(self) -> None:
        """A disk that is full says so, and is asked again each time."""

        def write(owner: int, number: int, content: Any) -> None:
            raise OSError(28, "No space left on device")

        with_ = self.patch(self.files, "write", write)
        failure = self.failureResultOf(self.write(), SpoolError)
        self.assertIn("No space left", failure.getErrorMessage())
        with_.restore()
        self.successResultOf(self.write())
        self.assertEqual([state for state, _ in self.heard()], ["away", "back"])

    def test_silent(self) -> None:
        """One that does not answer is not waited for: the more is given for what is large."""
        self.thread.isBusy = True
        self.message.size = 20 * 1024 * 1024
        first = self.write()
        self.clock.advance(49)
        self.assertNoResult(first)
        self.clock.advance(1)
        for one in (first, self.write(7)):
            failure = self.failureResultOf(one, SpoolError)
            self.assertIn("does not answer", failure.getErrorMessage())
        self.thread.work()
        self.thread.isBusy = False
        self.successResultOf(self.write(7))
        self.assertEqual([state for state, _ in self.heard()], ["away", "back"])

    def test_read(self) -> None:
        """What the directory has lost is damaged; where it is away nothing is known of that."""
        self.successResultOf(self.write())
        copy = os.path.abspath(self.mktemp())
        read = self.started(self.directory.read(1, NUMBER, 7, copy))
        self.assertEqual(self.successResultOf(read), "")
        self.assertEqual(self.successResultOf(self.missing(7)), "")
        self.assertEqual(
            self.successResultOf(self.missing(8)), "its content is not what was stored"
        )
        self.directory.removed([(NUMBER, 1)])
        read = self.started(self.directory.read(1, NUMBER, 7, f"{copy}2"))
        name = self.files.name(1, NUMBER)
        self.assertEqual(self.successResultOf(read), f"its content is missing: {name}")
        self.assertEqual(self.successResultOf(self.missing(7)), "its content is missing")
        os.unlink(os.path.join(self.path, MARKER))
        read = self.started(self.directory.read(1, NUMBER, 7, f"{copy}3"))
        self.failureResultOf(read, SpoolError)
        self.assertIn("cannot be looked for", self.successResultOf(self.missing(7)))

    def missing(self, size: int) -> Deferred[Any]:
        return self.started(self.directory.missing(1, NUMBER, size))
