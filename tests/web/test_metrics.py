"""
The numbers, as Prometheus reads them.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.model.events import happened
from deferrals.model.status import Status
from deferrals.web.metrics import (
    ANSWER_SECONDS,
    COUNTERS,
    HISTOGRAMS,
    QUEUE_SECONDS,
    WAIT_SECONDS,
    Metrics,
    QueueFigures,
    Sources,
    _owners,
)

#: The labels of each, as docs/monitoring.md has them.
TABLE = {
    "deferrals_sessions": ("listener", "outcome"),
    "deferrals_transactions": ("rung",),
    "deferrals_verdicts": ("stage", "policy", "code"),
    "deferrals_judgements": ("use", "outcome"),
    "deferrals_deadlines_missed": ("stage",),
    "deferrals_reply_seconds": ("reply",),
    "deferrals_mixed": ("what",),
    "deferrals_mixed_last_recipient_seconds": (),
    "deferrals_commit_seconds": (),
    "deferrals_commit_messages": (),
    "deferrals_deliveries": ("class", "outcome"),
    "deferrals_delivery_seconds": ("class",),
    "deferrals_notices": ("kind",),
    "deferrals_service_seconds": ("service",),
    "deferrals_limits_hit": ("limit",),
    "deferrals_authentications": ("outcome",),
    "deferrals_admissions": ("how",),
}

LABELS = {one.metric: one.labels for one in (*COUNTERS, *HISTOGRAMS)}


class MetricsTests(SynchronousTestCase):
    """
    L{Metrics}.
    """

    def test_owners(self) -> None:
        """Each process that shares a database, of one server or of several processes."""
        one = {"machine": "mx1", "worker": 0, "owner": 3, "up": True}
        for part, wanted in (
            (one, {("mx1", "0"): 1}),
            (
                {"worker 0": one, "worker 1": {**one, "worker": 1, "up": False}},
                {("mx1", "0"): 1, ("mx1", "1"): 0},
            ),
            (None, {}),
        ):
            self.assertEqual(dict(_owners(part)), wanted)

    def setUp(self) -> None:
        self.clock = Clock()
        self.status = Status()
        self.asked = 0
        self.workers: list[dict[str, Any]] = []
        self.figures: Deferred[QueueFigures] | None = None
        sources = Sources(
            status=lambda: self.status,
            build={"version": "1", "python": "3", "twisted": "2"},
            sessions=lambda: {"tcp:25": 2},
            backedOff=lambda: 4,
            queue=self.queue,
            workers=lambda: self.workers,
        )
        self.metrics = Metrics(sources, self.clock)

    def queue(self) -> Deferred[QueueFigures]:
        self.asked += 1
        if self.figures is not None:
            return self.figures
        return succeed(QueueFigures({("mx", "queued"): 3}, {"mx": 7.5}))

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
        for outcome, limit in (("not tried", "auth_address_failures"), ("not possible", "")):
            happened(self.status, "authentication", {"outcome": outcome, "limit": limit})
        happened(self.status, "submission", {"outcome": "over messages", "limit": "messages"})
        happened(self.status, "judgement", {"use": "clamav", "outcome": "unscanned"})
        happened(self.status, "late", {"stage": "content"})
        happened(self.status, "commit", {"messages": 3, "seconds": 0.002})
        found = self.samples()
        for key in ("sent_away", "filed", "one_for_all"):
            self.assertEqual(found["deferrals_mixed_total", key], 1)
        self.assertEqual(found["deferrals_notices_total", "failed"], 2)
        self.assertEqual(found["deferrals_deliveries_total", "mx", "retry"], 1)
        self.assertEqual(found["deferrals_delivery_seconds_bucket", "mx", "0.005"], 0)
        self.assertEqual(found["deferrals_delivery_seconds_bucket", "mx", "0.025"], 1)
        self.assertEqual(found["deferrals_delivery_seconds_bucket", "mx", "+Inf"], 1)
        self.assertEqual(found["deferrals_authentications_total", "throttled"], 1)
        self.assertEqual(found["deferrals_authentications_total", "failed"], 1)
        limits = [key[1] for key in found if key[0] == "deferrals_limits_hit_total" and found[key]]
        self.assertEqual(limits, ["auth_address_failures", "messages"])
        self.assertEqual(found["deferrals_judgements_total", "unscanned", "clamav"], 1)
        self.assertEqual(found["deferrals_deadlines_missed_total", "content"], 1)
        self.assertEqual(found["deferrals_commit_seconds_bucket", "0.001"], 0)
        self.assertEqual(found["deferrals_commit_seconds_bucket", "0.0025"], 1)
        self.assertEqual(found["deferrals_commit_messages_bucket", "2.0"], 0)
        self.assertEqual(found["deferrals_commit_messages_bucket", "5.0"], 1)

    def test_distributionsAlways(self) -> None:
        """What a list of the table names is there before it has happened: it has a rate, then."""
        found = self.samples()
        for reply in ("rcpt", "recipient", "final"):
            self.assertEqual(found["deferrals_reply_seconds_bucket", "+Inf", reply], 0)
        for name in ("commit_seconds", "commit_messages", "mixed_last_recipient_seconds"):
            self.assertEqual(found[f"deferrals_{name}_bucket", "+Inf"], 0)
        self.status.measure("mixed", "last recipient", 5)
        self.status.measure("replies", "rcpt", 5)
        found = self.samples()
        self.assertEqual(found["deferrals_reply_seconds_bucket", "+Inf", "rcpt"], 0)  # for a second
        self.clock.advance(1)
        found = self.samples()
        self.assertEqual(found["deferrals_reply_seconds_bucket", "+Inf", "rcpt"], 1)
        self.assertEqual(found["deferrals_mixed_last_recipient_seconds_bucket", "+Inf"], 1)

    def test_gauges(self) -> None:
        """What is so now."""
        found = self.samples()
        self.assertEqual(found["deferrals_build_info", "3", "2", "1"], 1)
        self.assertEqual(found["deferrals_sessions_open", "tcp:25"], 2)
        self.assertEqual(found["deferrals_queue_recipients", "mx", "queued"], 3)
        self.assertEqual(found["deferrals_queue_oldest_seconds", "mx"], 7.5)
        self.assertEqual(found["deferrals_destinations_backed_off",], 4)
        self.assertGreater(found["process_cpu_seconds_total",], 0)

    def test_workers(self) -> None:
        """Of several processes, how each is; and what the system knows of all, added up."""
        before = self.samples()
        self.assertFalse([key for key in before if "worker" in key[0]])
        busy = (
            "import time\nwhile time.process_time() < 2: pass\nprint(flush=True); time.sleep(600)"
        )
        other = subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE)
        assert other.stdout is not None
        self.addCleanup(other.stdout.close)
        other.stdout.readline()
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        self.workers = [
            {"worker": 0, "pid": other.pid, "up": True, "restarts": 2},
            {"worker": 1, "pid": None, "up": False, "restarts": 0},
        ]
        self.clock.advance(ANSWER_SECONDS)
        found = self.samples()
        self.assertEqual(found["deferrals_worker_up", "0"], 1)
        self.assertEqual(found["deferrals_worker_up", "1"], 0)
        self.assertEqual(found["deferrals_worker_restarts_total", "0"], 2)
        for name in ("process_virtual_memory_bytes", "process_open_fds"):
            self.assertGreater(found[name,], before[name,])
        name = "process_start_time_seconds"
        self.assertEqual(found[name,], before[name,])
        other.kill()
        other.wait()
        self.clock.advance(ANSWER_SECONDS)
        after = self.samples()
        self.assertIn(("process_open_fds",), after)
        name = "process_cpu_seconds_total"  # of the ended, too: it does not go backwards
        self.assertGreaterEqual(found[name,], 2)
        self.assertGreaterEqual(after[name,], found[name,])

    def test_missing(self) -> None:
        """A worker whose figures are not there is not up, be it a former one."""
        for workers in ([0, 1], []):
            self.figures = succeed(QueueFigures({("mx", "queued"): 3}, {}, [1, 4]))
            self.workers = [
                {"worker": one, "pid": None, "up": True, "restarts": 0} for one in workers
            ]
            self.clock.advance(QUEUE_SECONDS)
            found = self.samples()
            up = {key[1]: value for key, value in found.items() if key[0] == "deferrals_worker_up"}
            self.assertEqual(up, {"1": 0, "4": 0} | ({"0": 1} if workers else {}))
            self.assertEqual(found["deferrals_queue_recipients", "mx", "queued"], 3)

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
        self.assertEqual(self.samples()["deferrals_transactions_total", "prdr"], 0)
        self.clock.advance(2)
        self.assertEqual(self.samples()["deferrals_transactions_total", "prdr"], 1)
        self.assertEqual(self.asked, 1)
        self.clock.advance(QUEUE_SECONDS)
        self.samples()
        self.assertEqual(self.asked, 2)

    def test_table(self) -> None:
        """Each metric with its labels, and no others."""
        self.assertEqual(LABELS, TABLE)

    def test_always(self) -> None:
        """What a list names is there from the beginning: a rate can be told of the first one."""
        found = self.samples()
        for key in (
            ("deferrals_notices_total", "untold"),
            ("deferrals_limits_hit_total", "connections"),
            ("deferrals_deadlines_missed_total", "content"),
            ("deferrals_mixed_total", "sent_away"),
            ("deferrals_transactions_total", "mixed"),
            ("deferrals_authentications_total", "refused"),
        ):
            self.assertEqual(found.get(key), 0, key)

    def test_longQueue(self) -> None:
        """A queue that takes long to count holds up nothing else; it is counted once."""
        self.samples()
        self.figures = Deferred()
        self.clock.advance(QUEUE_SECONDS)
        waiting = self.metrics.get()
        self.assertNoResult(waiting)
        self.clock.advance(WAIT_SECONDS)
        self.assertIn(b"deferrals_queue_recipients{", self.successResultOf(waiting))
        self.clock.advance(2 * QUEUE_SECONDS)
        waiting = self.metrics.get()
        self.figures.callback(QueueFigures({("mx", "queued"): 9}))
        self.assertIn(b'status="queued"} 9.0', self.successResultOf(waiting))
        self.assertEqual(self.asked, 2)

    def test_noQueue(self) -> None:
        """A spool that cannot be read takes nothing along but its own figures."""
        self.figures = fail(SpoolError("the disk is gone"))
        with capturedLogs() as events:
            text = self.successResultOf(self.metrics.get())
        self.assertIn(b"deferrals_build_info{", text)
        self.assertNotIn(b"deferrals_queue_recipients{", text)
        self.assertEqual(len(events), 1)

    def test_together(self) -> None:
        """Those who ask at once wait for one answer; one that leaves takes nothing along."""
        self.figures = Deferred()
        first, second = self.metrics.get(), self.metrics.get()
        first.cancel()
        self.failureResultOf(first)
        self.figures.callback(QueueFigures())
        self.assertIn(b"deferrals_build_info", self.successResultOf(second))
        self.assertEqual(self.asked, 1)
