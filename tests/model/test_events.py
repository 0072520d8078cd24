"""
What is counted of events.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.events import happened
from deferrals.model.status import Status
from tests.harness import GREETING, Bench


class EventTests(SynchronousTestCase):
    """
    L{happened}.
    """

    def test_unknown(self) -> None:
        """An event that nothing is said of here is counted by its name."""
        status = Status()
        happened(status, "backoff", {"destination": "mx.example"})
        self.assertEqual(status.kinds("events"), {"backoff": 1})

    def test_delivery(self) -> None:
        """A delivery, by its kind and what came of it, and how long it took."""
        status = Status()
        happened(status, "delivery", {"use": "mx", "outcome": "retry", "seconds": 3})
        self.assertEqual(status.kinds("deliveries"), {("mx", "retry"): 1})
        self.assertEqual(status.measured("deliveries")["mx"].total, 3)

    def test_notices(self) -> None:
        """What senders are told, and what they are not."""
        status = Status()
        happened(status, "notice", {"action": "failed"})
        happened(status, "untold", {"recipient": "a@b.example"})
        self.assertEqual(status.kinds("notices"), {"failed": 1, "untold": 1})


class SessionTests(SynchronousTestCase):
    """
    A session's events.
    """

    def test_mail(self) -> None:
        """Each verdict, the transaction and the session are counted once."""
        bench = Bench()
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>", "DATA")
        bench.say("text", ".", "MAIL FROM:<a@b.example>", "RSET", "QUIT")
        bench.lose()
        self.assertEqual(bench.status.kinds("transactions"), {"single": 1, "aborted": 1})
        self.assertEqual(sum(bench.status.kinds("verdicts").values()), 1)
        self.assertEqual([kind[1] for kind in bench.status.kinds("sessions")], ["mail"])
        replies = bench.status.measured("replies")
        self.assertEqual(
            {name: sum(one.counts) for name, one in replies.items()}, {"rcpt": 1, "final": 1}
        )

    def test_none(self) -> None:
        """A session without mail."""
        bench = Bench()
        bench.say(*GREETING, "QUIT")
        bench.lose()
        self.assertEqual([kind[1] for kind in bench.status.kinds("sessions")], ["none"])
