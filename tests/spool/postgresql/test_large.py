"""
Tests for L{deferrals.spool.postgresql.large}; those with a real server are in
L{tests.integration.test_bodies}.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.spool.message import Message
from deferrals.spool.postgresql import contents, large
from deferrals.spool.postgresql.directory import MARKER, Directory
from deferrals.spool.postgresql.large import SharedDirectory
from tests.spool.postgresql.fakes import FakeThread

NUMBER = 0x123456789AB00


class _Database:
    """
    What a sweep asks a database.

    @param living: the owners.
    @param kept: the contents that have a message.
    @ivar asked: the contents it was asked about, with their owners.
    """

    def __init__(self, living: set[int], kept: set[int]) -> None:
        self._living, self._kept = living, kept
        self.asked: list[tuple[int, list[int]]] = []

    def alone(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """See L{StoreConnection<deferrals.spool.postgresql.connection>}."""
        if function is contents.living:
            return succeed(self._living)
        owner, numbers, coming, _ = args
        self.asked.append((owner, numbers))
        return succeed([one for one in numbers if one not in self._kept | coming])


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

    def test_sweep(self) -> None:
        """
        What has no message goes, of this process and of the dead, and what is coming stays:
        in portions, between which mail has its turns.
        """
        self.patch(large, "_SLICE", 7)
        numbers = [leaf << 8 | one for leaf in range(6) for one in range(3)]
        for owner in (1, 2, 3):
            for number in numbers:
                self.files.write(owner, number, io.BytesIO(b"content"))
        steps: list[str] = []
        find, write = self.files.numbers, self.files.write

        def found(owner: int, leaf: str) -> list[int]:
            steps.append(f"{owner}/{leaf}")
            if len(steps) == 1:
                self.write(NUMBER)
            return find(owner, leaf)

        def written(*what: Any) -> None:
            steps.append("mail")
            write(*what)

        self.patch(self.files, "numbers", found)
        self.patch(self.files, "write", written)
        database: Any = _Database(living={1, 2}, kept=set(numbers[::2]))
        me, coming = mock.Mock(id=1), {numbers[1], NUMBER}
        sweep = self.directory.sweep(database, me, lambda: coming)
        self.successResultOf(self.started(sweep))
        self.assertEqual(steps[1], "mail")
        leaves = {f"{owner}/{leaf:02x}" for owner in (1, 3) for leaf in range(6)}
        self.assertLessEqual({*leaves, "mail"}, set(steps))
        self.assertEqual(len(set(steps)), len(steps))
        self.assertTrue(all(len(some) <= 7 for _, some in database.asked))
        self.assertEqual({owner for owner, _ in database.asked}, {1, 3})
        left = {owner: self.left(owner) for owner in (1, 2, 3)}
        kept = sorted({*numbers[::2], numbers[1]})
        self.assertEqual(left, {1: [*kept, NUMBER], 2: numbers, 3: kept})

    def left(self, owner: int) -> list[int]:
        files = Directory(self.path)
        return sorted(one for leaf in files.leaves(owner) for one in files.numbers(owner, leaf))

    def missing(self, size: int) -> Deferred[Any]:
        return self.started(self.directory.missing(1, NUMBER, size))
