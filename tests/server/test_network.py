"""
Which addresses are ours, and which can be reached.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.server.network import isLocal, reachable


class NetworkTests(SynchronousTestCase):
    """
    Which addresses are our own.
    """

    def test_reachable(self) -> None:
        """A listener's address; all of this machine's, where it listens everywhere."""
        listening = [("0.0.0.0", 25), ("192.0.2.1", 2525)]
        self.assertTrue(reachable(listening, "127.0.0.1", 25))
        self.assertFalse(reachable(listening, "127.0.0.1", 2525))
        self.assertTrue(reachable(listening, "192.0.2.1", 2525))
        self.assertFalse(reachable(listening, "192.0.2.77", 25))
        self.assertTrue(isLocal("127.0.0.1"))
        self.assertFalse(isLocal("192.0.2.77"))
