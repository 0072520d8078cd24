"""
The numbers, as Prometheus reads them.
"""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.events import happened
from deferrals.model.status import Status
from deferrals.web.metrics import QUEUE_SECONDS, Metrics, QueueFigures, Sources


class MetricsTests(SynchronousTestCase):
    """
    L{Metrics}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.status = Status()
        self.asked = 0
        self.figures: Deferred[QueueFigures] = succeed(
            QueueFigures({("mx", "queued"): 3}, {"mx": 7.5})
        )
        sources = Sources(
            status=self.status,
            build={"version": "1", "python": "3", "twisted": "2"},
            sessions=lambda: {"tcp:25": 2},
            backedOff=lambda: 4,
            queue=self.queue,
        )
        self.metrics = Metrics(sources, self.clock)

    def queue(self) -> Deferred[QueueFigures]:
        self.asked += 1
        return self.figures

    def samples(self) -> dict[tuple[str, ...], float]:
        text = self.successResultOf(self.metrics.get()).decode()
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def test_counters(self) -> None:
        """What has happened, in the table's words."""
        for kind in ("recipients sent away", "filed", "one refusal for all"):
            self.status.count("mixed", kind)
        for action in ("failed", "expired", "delayed"):
            happened(self.status, "notice", {"action": action})
        happened(self.status, "delivery", {"use": "mx", "outcome": "retry", "seconds": 0.02})
        self.status.count("authentications", "not tried")
        self.status.count("submission", "held")
        self.status.count("submission", "over recipients")
        found = self.samples()
        for key in ("sent_away", "filed", "one_for_all"):
            self.assertEqual(found["deferrals_mixed_total", key], 1)
        self.assertEqual(found["deferrals_notices_total", "failed"], 2)
        self.assertEqual(found["deferrals_deliveries_total", "mx", "retry"], 1)
        self.assertEqual(found["deferrals_delivery_seconds_bucket", "mx", "0.005"], 0)
        self.assertEqual(found["deferrals_delivery_seconds_bucket", "mx", "0.025"], 1)
        self.assertEqual(found["deferrals_delivery_seconds_bucket", "mx", "+Inf"], 1)
        self.assertEqual(found["deferrals_authentications_total", "throttled"], 1)
        limits = [key for key in found if key[0] == "deferrals_limits_hit_total"]
        self.assertEqual(limits, [("deferrals_limits_hit_total", "recipients")])

    def test_gauges(self) -> None:
        """What is so now."""
        found = self.samples()
        self.assertEqual(found["deferrals_build_info", "3", "2", "1"], 1)
        self.assertEqual(found["deferrals_sessions_open", "tcp:25"], 2)
        self.assertEqual(found["deferrals_queue_recipients", "mx", "queued"], 3)
        self.assertEqual(found["deferrals_queue_oldest_seconds", "mx"], 7.5)
        self.assertEqual(found["deferrals_destinations_backed_off",], 4)
        self.assertGreater(found["process_cpu_seconds_total",], 0)

    def test_services(self) -> None:
        """A service has a state; what is none has none."""
        self.status.show("rspamd http://127.0.0.1:11333", lambda: {"state": "resting"})
        self.status.show("destinations", dict)
        self.status.count("rspamd http://127.0.0.1:11333", "failed", 5)
        found = self.samples()
        name = "rspamd http://127.0.0.1:11333"
        self.assertEqual(found["deferrals_service_state", name], 2)
        self.assertEqual(found["deferrals_service_requests_total", "failed", name], 5)
        self.assertEqual(found["deferrals_service_requests_total", "answered", name], 0)

    def test_seldom(self) -> None:
        """However often it is asked for: the text is made once a second, the queue counted less."""
        for _ in range(5):
            self.samples()
        self.status.count("transactions", "prdr")
        self.assertNotIn(("deferrals_transactions_total", "prdr"), self.samples())
        self.clock.advance(2)
        self.assertEqual(self.samples()["deferrals_transactions_total", "prdr"], 1)
        self.assertEqual(self.asked, 1)
        self.clock.advance(QUEUE_SECONDS)
        self.samples()
        self.assertEqual(self.asked, 2)

    def test_together(self) -> None:
        """Those who ask at once wait for one answer; one that leaves takes nothing along."""
        self.figures = Deferred()
        first, second = self.metrics.get(), self.metrics.get()
        first.cancel()
        self.failureResultOf(first)
        self.figures.callback(QueueFigures())
        self.assertIn(b"deferrals_build_info", self.successResultOf(second))
        self.assertEqual(self.asked, 1)
