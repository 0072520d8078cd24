"""
The memory of mixed mail, kept as notes in the spool.
"""

from __future__ import annotations

import attrs
from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.model.listener import ListenerSettings
from deferrals.model.mixed import LIFETIME_SECONDS, Memory, Mixed
from deferrals.server.mixed import MixedPolicies
from deferrals.server.services import Services
from deferrals.spool.memory import MemorySpool

SETTINGS = ListenerSettings(name="one", hostname="mx.example.net", mixed=Mixed.RETRY)


class MixedPoliciesTests(SynchronousTestCase):
    """
    L{MixedPolicies}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.spool = MemorySpool(self.clock)
        self.services = Services(self.clock, hostname="mx.example.net")

    def policies(self) -> MixedPolicies:
        """
        Those of a process that has just started.
        """
        policies = MixedPolicies(self.services, self.spool)
        self.successResultOf(policies.load())
        return policies

    def memory(self, policies: MixedPolicies | None = None, name: str = "one") -> Memory:
        """
        A listener's.
        """
        policies, settings = policies or self.policies(), attrs.evolve(SETTINGS, name=name)
        return policies.forListener(settings, lambda policy: None, bool).memory

    def learn(self, policies: MixedPolicies, fingerprint: str = "f") -> None:
        memory = self.memory(policies)
        memory.learn(fingerprint, "a@b.c", ["x"], ["y"], [], self.clock.seconds())

    def test_restart(self) -> None:
        """What was learnt is known after a restart."""
        self.learn(self.policies())
        memory = self.memory()
        self.assertEqual(memory.find("a@b.c", "y", self.clock.seconds()), ["f"])
        self.assertTrue(memory.holds("f", "y"))
        self.assertFalse(memory.holds("f", "x"))

    def test_answered(self) -> None:
        """A recipient with a final answer is forgotten for good."""
        policies = self.policies()
        self.learn(policies)
        self.memory(policies).answered("f", ["x", "y"])
        self.assertEqual(self.successResultOf(self.spool.notes()), {})

    def test_expired(self) -> None:
        """What has expired is not read again."""
        self.learn(self.policies())
        self.clock.advance(LIFETIME_SECONDS + 1)
        self.assertEqual(len(self.memory()), 0)

    def test_shared(self) -> None:
        """What one listener has learnt, the others know: a sender may come to either."""
        policies = self.policies()
        self.learn(policies)
        other = self.memory(policies, "two")
        self.assertEqual(other.find("a@b.c", "y", self.clock.seconds()), ["f"])

    def test_notRead(self) -> None:
        """A spool that is out of reach just now is no reason not to start."""
        self.patch(self.spool, "notes", lambda: fail(SpoolError("away")))
        self.assertEqual(len(self.memory()), 0)

    def test_unreadable(self) -> None:
        """Notes that cannot be read, and those of others, are left alone."""
        self.spool.note("mixed g", "{", 100)
        self.spool.note("other", "text", 100)
        self.learn(self.policies())
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
