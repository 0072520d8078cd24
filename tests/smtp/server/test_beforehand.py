"""
What deliveries know of a message beforehand.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, NOWHERE
from deferrals.smtp.server.beforehand import SECONDS
from tests.harness import GREETING, Bench

NO = Reply(552, "5.3.4", "too large")


class BeforehandTests(SynchronousTestCase):
    """
    A delivery that is asked, and takes its time.
    """

    def start(self, **settings: Any) -> None:
        self.cancelled: list[Any] = []
        self.asked: Deferred[dict[int, Reply]] = Deferred(self.cancelled.append)
        self.bench = Bench(None, {"foresee": lambda *given: self.asked}, **settings)
        self.bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<one@x.test>")
        self.assertEqual(self.bench.say("DATA", "Subject: x", "", "text", ".")[1:], [])
        self.assertEqual(self.bench.content.asked, [])

    def said(self) -> list[str]:
        return [line[:9] for line in self.bench.take().decode().splitlines()]

    def test_refused(self) -> None:
        """What can never be delivered is refused, is in the log, and is not judged."""
        self.start()
        with capturedLogs() as logged:
            self.asked.callback({0: NO})
        self.assertEqual(self.said(), ["552 5.3.4"])
        self.assertEqual((self.bench.content.asked, self.bench.released), ([], []))
        found = [one["reply"] for one in logged if one.get("event") == "recipient"]
        self.assertEqual(found, [str(NO)])

    def test_nowhere(self) -> None:
        """What is thrown away for a recipient has no delivery that could refuse it."""
        self.asked = succeed({0: NO})
        self.bench = Bench(None, {"foresee": lambda *given: self.asked})
        self.bench.say(*GREETING, "MAIL FROM:<a@b.example>")
        self.bench.envelope.verdicts["one@x.test"] = NOWHERE
        self.bench.say("RCPT TO:<one@x.test>")
        self.assertEqual(self.bench.say("DATA", "", "text", ".")[1:][0][:3], "250")

    def test_nothing(self) -> None:
        """Where there is nothing to be said against it, the content is judged."""
        self.start()
        self.asked.callback({})
        self.bench.content.decide("one@x.test", ACCEPT)
        self.assertEqual(self.said(), ["250 2.6.0"])

    def test_late(self) -> None:
        """What is not known in time refuses nothing, and the client has time left."""
        for deadline, seconds in ((50.0, SECONDS), (8.0, 4.0)):
            self.start(reply_deadline=deadline)
            self.bench.clock.advance(seconds - 0.5)
            self.assertEqual(self.bench.content.asked, [])
            with capturedLogs():
                self.bench.clock.advance(0.5)
            self.assertEqual(len(self.cancelled), 1)
            self.bench.content.decide("one@x.test", ACCEPT)
            self.assertEqual(self.said(), ["250 2.6.0"])

    def test_fails(self) -> None:
        """A delivery's fault is in the log, and refuses nothing."""
        self.start()
        self.asked.errback(ValueError("on purpose"))
        self.bench.content.decide("one@x.test", ACCEPT)
        self.assertEqual(self.said(), ["250 2.6.0"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_clientGone(self) -> None:
        """The client is lost: it is not waited for any longer, and nothing is judged."""
        self.start()
        self.bench.lose()
        self.assertEqual(len(self.cancelled), 1)
        self.assertEqual((self.bench.content.asked, self.bench.released), ([], []))
