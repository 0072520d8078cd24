"""
One DNS list, with a resolver without sockets.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import StageError
from deferrals.stages.envelope.listzone import LEAST_SECONDS, ListZone
from deferrals.testing import FakeServices
from tests.resolver import Resolver


class ListZoneTests(SynchronousTestCase):
    """
    L{ListZone}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.resolver = Resolver(
            {
                ("1.black.test", "A"): ["127.0.0.2", "127.0.0.4"],
                ("1.black.test", "TXT"): [[b"why", b" not"], [b"and more"]],
                ("2.black.test", "TXT"): [[b"no address"]],
                ("3.black.test", "A"): ["192.0.2.80"],
                ("loop.black.test", "CNAME"): ["loop.black.test"],
            }
        )
        self.services = FakeServices(reactor=self.clock, resolver=self.resolver)  # type: ignore[arg-type]
        self.list = ListZone("black", self.services, (), 5.0, 300.0)

    def addresses(self, name: str) -> Any:
        return self.successResultOf(self.list.addresses(f"{name}.black.test"))

    def problem(self, name: str) -> str:
        d = self.list.addresses(f"{name}.black.test")
        return self.failureResultOf(d, StageError).getErrorMessage()

    def text(self, name: str) -> bytes:
        return self.successResultOf(Deferred.fromCoroutine(self.list.text(f"{name}.black.test")))

    def test_answers(self) -> None:
        """Listed, with a text alone, and not there; each is asked for once."""
        for _ in range(3):
            self.assertEqual(self.addresses("1"), ["127.0.0.2", "127.0.0.4"])
            self.assertEqual(self.addresses("2"), [])
            self.assertEqual(self.addresses("9"), ())
            self.assertEqual((self.text("1"), self.text("9")), (b"why not", b""))
        asked = [name.partition(".")[0] + kind for name, kind in self.resolver.asked]
        self.assertEqual(asked, ["1A", "2A", "9A", "1TXT", "9TXT"])

    def test_noAnswer(self) -> None:
        """Without an answer, a name is not asked for again at once, and then it is."""
        self.resolver.broken.add("1.black.test")
        for name, problem in (
            ("1", "StageError: DNS has no answer: DNSServerError"),
            ("3", "NoAnswer: answers 192.0.2.80, which is no list's answer"),
            ("loop", "DNS has no answer now"),
        ):
            for _ in range(3):
                self.assertTrue(self.problem(name).endswith(problem), self.problem(name))
        self.assertEqual(len(self.resolver.asked), 3)
        self.resolver.broken.clear()
        self.clock.advance(LEAST_SECONDS + 1)
        self.assertEqual(self.addresses("1"), ["127.0.0.2", "127.0.0.4"])

    def test_together(self) -> None:
        """Whoever asks while there is no answer shares it; one who leaves ends nothing."""
        self.resolver.silent.add("1.black.test")
        waiting = [self.list.addresses("1.black.test") for _ in range(3)]
        waiting[0].cancel()
        self.failureResultOf(waiting[0], CancelledError)
        self.clock.advance(5)
        for one in waiting[1:]:
            self.failureResultOf(one, StageError)
        self.assertEqual(len(self.resolver.asked), 1)
        self.clock.advance(LEAST_SECONDS + 1)
        left = self.list.addresses("1.black.test")
        left.cancel()
        self.failureResultOf(left, CancelledError)
        self.resolver.silent.clear()
        self.assertEqual(self.addresses("1"), ["127.0.0.2", "127.0.0.4"])
