"""
What all listeners share for mixed mail.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.listener import ListenerSettings
from deferrals.model.mixed import Mixed
from deferrals.server.mixed import MixedPolicies
from deferrals.server.services import Services


class MixedPoliciesTests(SynchronousTestCase):
    """
    L{MixedPolicies}.
    """

    def test_shared(self) -> None:
        """What one listener has learnt, the others know: a sender may come to either."""
        services = Services(Clock(), hostname="mx.example.net")
        policies = MixedPolicies(services)
        found = [
            policies.forListener(ListenerSettings(mixed=choice), lambda policy: None, bool)
            for choice in (Mixed.RETRY, Mixed.FILE)
        ]
        self.assertEqual([policy.choice for policy in found], [Mixed.RETRY, Mixed.FILE])
        self.assertEqual([policy.notes for policy in found], [services.notes] * 2)
        self.assertIs(found[0].fallback, Mixed.SPLIT)
