"""
One scan per message, and what its failure means.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.reply import R451_STAGE_FAILED
from deferrals.model.settings import Seconds
from deferrals.model.verdict import ACCEPT, Accept, ContentVerdict, Marks, Refuse
from deferrals.stages.content.scanner import UNSCANNED, OnError, Scanner
from deferrals.testing import FakeServices, makeEnvelope, makeMessage


@attrs.frozen
class Settings:
    """
    The settings of a stage with a scanner.
    """

    timeout: Seconds = Seconds(10)
    on_error: OnError = "refuse-temporarily"
    concurrency: int = 2


class ScannerTests(SynchronousTestCase):
    """
    L{Scanner}.
    """

    def setUp(self) -> None:
        self.services = FakeServices()
        self.scanner = self.made()
        self.message = makeMessage()
        self.scans: list[Deferred[str]] = []

    def made(self, name: str = "spam", address: str = "tcp:x:1", **settings: Any) -> Scanner:
        return Scanner(name, address, Settings(**settings), self.services)

    def judge(
        self, scanner: Scanner | None = None, key: Hashable = None, message: Any = None
    ) -> Deferred[ContentVerdict]:
        async def scan() -> str:
            self.scans.append(Deferred())
            return await self.scans[-1]

        def decide(result: str) -> ContentVerdict:
            return Accept(Marks((("Scan", result),)))

        message = message or self.message
        return (scanner or self.scanner).judge(message, makeEnvelope(), key, scan, decide)

    def counted(self) -> Any:
        return self.services.status.snapshot()["counters"]

    def test_shared(self) -> None:
        """All who need the same scan of a message share it, and each decides."""
        first, second = self.judge(), self.judge(self.made())
        self.assertEqual(len(self.scans), 1)
        self.scans[0].callback("x")
        for d in (first, second, self.judge()):
            self.assertEqual(self.successResultOf(d), Accept(Marks((("Scan", "x"),))))
        self.assertEqual(self.counted()["scans"], {"spam": 1})

    def test_apart(self) -> None:
        """Another key, another scanner, or another message is another scan."""
        self.judge()
        self.judge(key="other")
        self.judge(self.made(address="tcp:y:1"))
        self.assertEqual(len(self.scans), 3)
        self.judge(self.made(name="virus"), message=makeMessage())
        self.assertEqual(len(self.scans), 4)

    def test_concurrency(self) -> None:
        """No more scans at once than may be; the next one waits for its turn."""
        for _ in range(3):
            self.judge(message=makeMessage())
        self.assertEqual(len(self.scans), 2)
        self.scans[0].callback("x")
        self.assertEqual(len(self.scans), 3)

    def test_onError(self) -> None:
        """What it means that there is no scan; each is counted."""
        for onError, wanted in (
            ("refuse-temporarily", Refuse(R451_STAGE_FAILED)),
            ("accept", Accept(Marks(((UNSCANNED, "spam"),)))),
            ("skip", ACCEPT),
        ):
            d = self.judge(self.made(on_error=onError), message=makeMessage())
            self.scans[-1].errback(ValueError("nonsense"))
            self.assertEqual(self.successResultOf(d), wanted)
            self.assertEqual(self.counted()["unscanned"][f"spam {onError}"], 1)

    def test_deadline(self) -> None:
        """A scan has a deadline: what it does is cancelled then."""
        d = self.judge()
        self.services.reactor.advance(9.9)
        self.assertNoResult(d)
        self.services.reactor.advance(0.2)
        self.assertEqual(self.successResultOf(d), Refuse(R451_STAGE_FAILED))
        self.assertTrue(self.scans[0].called)

    def test_cancel(self) -> None:
        """A cohort that is not waited for any longer leaves the scan to the others."""
        first, second = self.judge(), self.judge()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertFalse(self.scans[0].called)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertTrue(self.scans[0].called)
