"""
The power is cut: whatever was not synced may be missing, in part, in any order.

    DEFERRALS_RIGS=long python -m twisted.trial tests.crash.test_powerloss

looks at a thousand states instead of sixty.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

import attrs
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals import durable
from deferrals.interfaces import Work
from deferrals.model.disposition import Remove, Reschedule
from deferrals.model.ids import TransactionIds
from deferrals.spool.message import MEMORY_OCTETS
from deferrals.spool.sqlite import database
from deferrals.spool.sqlite.spool import SqliteSpool
from deferrals.testing import makeAddressees, makeEnvelope
from tests.crash.powerloss import Recorder, build, states
from tests.reactors import PumpedReactor
from tests.rigs import rig

#: How many states of the disk are built.
STATES = int(os.environ.get("DEFERRALS_STATES", rig(60, 200)))

MESSAGES = 12


def now(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
    """
    As a thread would, but at once.
    """
    d: Deferred[Any] = Deferred()
    try:
        d.callback(function(*args))
    except Exception:
        d.errback()
    return d


class PowerLossTests(SynchronousTestCase):
    """
    What was acknowledged is there, and whole.
    """

    def setUp(self) -> None:
        self.top = os.path.realpath(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.top)
        self.digests: dict[int, bytes] = {}

    def opened(self, directory: str) -> tuple[SqliteSpool, PumpedReactor]:
        reactor = PumpedReactor()
        spool = SqliteSpool(directory, reactor, now)
        self.assertIsNone(reactor.wait(spool.open()))
        return spool, reactor

    def run_(self, directory: str) -> Recorder:
        """
        Mail comes in, is tried again, and leaves.
        """
        recorder = Recorder(directory)
        with recorder.recording():
            spool, reactor = self.opened(directory)
            ids = TransactionIds(3)
            for number in range(MESSAGES):
                work = self.comeIn(recorder, spool, reactor, ids.next(1e9 + number), number)
                if number % 3 == 0:
                    recorder.note("gone", str(work.envelope.transaction))
                    self.leave(spool, reactor, work)
                elif number % 3 == 1:
                    waits = Reschedule("hop x", 0.0, 9e5, 0.0)
                    reactor.wait(spool.record(work, dict.fromkeys(work.addressees, waits)))
            reactor.wait(spool.close())
        return recorder

    def comeIn(
        self,
        recorder: Recorder,
        spool: SqliteSpool,
        reactor: PumpedReactor,
        transaction: int,
        number: int,
    ) -> Work:
        body = b"Subject: %d\r\n\r\n" % number + b"line %d\r\n" % number * (number * 20 + 1)
        if number % 2:
            body += os.urandom(MEMORY_OCTETS)
        self.digests[transaction] = hashlib.sha256(body).digest()
        writer = spool.newBody(transaction)
        for start in range(0, len(body), 100_000):
            writer.write(body[start : start + 100_000])
        message = reactor.wait(writer.finish())
        envelope = attrs.evolve(makeEnvelope(), transaction=transaction)
        work: Work = reactor.wait(spool.stage(envelope, message, makeAddressees("a@example.net")))
        recorder.note("said", str(transaction))
        spool.release(work, {})
        return work

    def leave(self, spool: SqliteSpool, reactor: PumpedReactor, work: Work) -> None:
        reactor.wait(spool.record(work, dict.fromkeys(work.addressees, Remove())))

    def lost(self, recorder: Recorder, seed: int, count: int) -> list[str]:
        """
        @return: what is wrong in some of the states.
        """
        wrong = []
        for cut, kept, files in states(recorder.events, seed, count):
            said = {int(e.path) for e in recorder.events[:cut] if e.kind == "said"}
            gone = {int(e.path) for e in recorder.events[:cut] if e.kind == "gone"}
            directory = os.path.join(self.top, f"state-{cut}")
            os.makedirs(directory, mode=0o700)
            build(files, directory)
            try:
                found = self.found(directory)
            except Exception as error:
                wrong.append(f"cut at {cut}, {kept} kept: {type(error).__name__}: {error}")
                continue
            finally:
                shutil.rmtree(directory)
            wrong += [f"cut at {cut}, {kept} kept: {one} is lost" for one in said - gone - {*found}]
            wrong += [
                f"cut at {cut}, {kept} kept: {one} is torn"
                for one, digest in found.items()
                if digest != self.digests.get(one)
            ]
        return wrong

    def found(self, directory: str) -> dict[int, bytes]:
        """
        What would be delivered, and its content.
        """
        spool, reactor = self.opened(directory)
        try:
            found = {}
            for work in reactor.wait(spool.claim(1000, {}, 1000)):
                check = spool.check(work)
                if check is not None and reactor.wait(check) is not None:
                    continue  # it is set aside, and not delivered
                with work.message.open() as file:
                    found[work.envelope.transaction] = hashlib.sha256(file.read()).digest()
            return found
        finally:
            reactor.wait(spool.close())

    def test_cuts(self) -> None:
        """Nothing that was acknowledged is lost, nothing torn is delivered."""
        recorder = self.run_(os.path.join(self.top, "spool"))
        self.assertEqual([], self.lost(recorder, 1, STATES))

    def test_noContentSync(self) -> None:
        """The rig sees that a content is not synced."""

        def sync(path: str) -> None:
            if os.path.isdir(path):
                durable_sync(path)

        durable_sync = durable.sync
        with mock.patch.object(durable, "sync", sync):
            recorder = self.run_(os.path.join(self.top, "spool"))
        self.assertNotEqual([], self.lost(recorder, 2, 60))
        self.flushLoggedErrors()

    def test_noNameSync(self) -> None:
        """The rig sees that a content's name is not synced."""

        def sync(path: str) -> None:
            if not path.endswith("bodies"):
                durable_sync(path)

        durable_sync = durable.sync
        with mock.patch.object(durable, "sync", sync):
            recorder = self.run_(os.path.join(self.top, "spool"))
        self.assertNotEqual([], self.lost(recorder, 3, 60))
        self.flushLoggedErrors()

    def test_noDatabaseSync(self) -> None:
        """The rig sees that the database is not synced."""
        with mock.patch.dict(database.SETTINGS, {"synchronous": "OFF"}):
            recorder = self.run_(os.path.join(self.top, "spool"))
        self.assertNotEqual([], self.lost(recorder, 4, 60))
        self.flushLoggedErrors()
