"""
The memory of mixed mail, kept as notes in the spool.
"""

from __future__ import annotations

import attrs
from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.app.mixed import MixedPolicies
from deferrals.config.tables import load
from deferrals.errors import SpoolError
from deferrals.model.listener import ListenerSettings
from deferrals.model.mixed import LIFETIME_SECONDS, Mixed
from deferrals.plugins.finding import stagePlugins
from deferrals.spool.memory import MemorySpool
from deferrals.testing import FakeServices

SETTINGS = ListenerSettings(name="one", hostname="mx.example.net", mixed=Mixed.RETRY)


class RungsTests(SynchronousTestCase):
    """
    L{MixedPolicies}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.spool = MemorySpool(self.clock)
        self.services = FakeServices(reactor=self.clock)
        self.config = load(None, stagePlugins())

    def rungs(self) -> MixedPolicies:
        """
        Those of a process that has just started.
        """
        rungs = MixedPolicies(self.config, self.services, self.spool)
        self.successResultOf(rungs.load())
        return rungs

    def learn(self, rungs: MixedPolicies, fingerprint: str = "f") -> None:
        memory = rungs.rung(SETTINGS, lambda policy: None, bool).memory
        memory.learn(fingerprint, "a@b.c", ["x"], ["y"], [], self.clock.seconds())

    def test_restart(self) -> None:
        """What was learnt is known after a restart."""
        self.learn(self.rungs())
        memory = self.rungs().rung(SETTINGS, lambda policy: None, bool).memory
        self.assertEqual(memory.find("a@b.c", "y", self.clock.seconds()), ["f"])
        self.assertTrue(memory.holds("f", "y"))
        self.assertFalse(memory.holds("f", "x"))

    def test_answered(self) -> None:
        """Who has a final answer is forgotten for good."""
        rungs = self.rungs()
        self.learn(rungs)
        rungs.rung(SETTINGS, lambda policy: None, bool).memory.answered("f", ["x", "y"])
        self.assertEqual(self.successResultOf(self.spool.notes()), {})

    def test_expired(self) -> None:
        """What has expired is not read again."""
        self.learn(self.rungs())
        self.clock.advance(LIFETIME_SECONDS + 1)
        self.assertEqual(len(self.rungs().rung(SETTINGS, lambda policy: None, bool).memory), 0)

    def test_shared(self) -> None:
        """What one listener has learnt, the others know: a sender may come to either."""
        rungs = self.rungs()
        self.learn(rungs)
        other = rungs.rung(attrs.evolve(SETTINGS, name="two"), lambda policy: None, bool)
        self.assertEqual(other.memory.find("a@b.c", "y", self.clock.seconds()), ["f"])

    def test_notRead(self) -> None:
        """A spool that is out of reach just now is no reason not to start."""
        self.patch(self.spool, "notes", lambda: fail(SpoolError("away")))
        self.assertEqual(
            len(self.rungs().rung(SETTINGS, lambda policy: None, lambda sender: None).memory), 0
        )

    def test_unreadable(self) -> None:
        """Notes that cannot be read, and those of others, are left alone."""
        self.spool.note("mixed g", "{", 100)
        self.spool.note("other", "text", 100)
        self.learn(self.rungs())
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
