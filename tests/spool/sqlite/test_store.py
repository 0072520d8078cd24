"""
What the parts of the embedded spool share.
"""

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.sqlite.store import Incoming


class IncomingTests(SynchronousTestCase):
    """
    L{Incoming}.
    """

    def test_known(self) -> None:
        """A message is known while its content comes in; its end may be said twice."""
        incoming = Incoming()
        incoming.begin(1)
        self.assertIn(1, incoming)
        self.assertNotIn(2, incoming)
        for _ in range(2):
            incoming.end(1)
        self.assertNotIn(1, incoming)
