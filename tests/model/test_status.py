"""
What an operator can see.
"""

import json

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.status import Status
from tests.harness import GREETING, Bench


class StatusTests(SynchronousTestCase):
    """
    L{Status}.
    """

    def test_snapshot(self) -> None:
        """Counters and parts, as JSON."""
        status = Status()
        status.count("transactions", "prdr")
        status.count("transactions", "prdr", 2)
        status.show("queue", lambda: {"messages": 5})
        snapshot = json.loads(json.dumps(status.snapshot()))
        self.assertEqual(
            snapshot,
            {"counters": {"transactions": {"prdr": 3}}, "parts": {"queue": {"messages": 5}}},
        )
        self.assertEqual(status.counted("nothing", "at all"), 0)

    def test_rungs(self) -> None:
        """Transactions are counted by how they were answered."""
        bench = Bench()
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>", "DATA")
        bench.say("text", ".")
        self.assertEqual(bench.status.counted("transactions", "single"), 1)
