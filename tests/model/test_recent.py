"""
What has happened lately.
"""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.recent import (
    HIGHEST,
    LOWEST,
    MAX_EVENTS,
    MAX_LATELY,
    MAX_LIMITS,
    MAX_OF_ONE,
    MAX_POLICIES,
    MAX_TRANSACTIONS,
    STEP,
    STEPS,
    RecentEvents,
    mergedEvents,
    mergedLists,
    mergedPolicies,
    stepOf,
)


class RecentEventsTests(SynchronousTestCase):
    """
    L{RecentEvents}.
    """

    def setUp(self) -> None:
        self.time = 1000.0
        self.recent = RecentEvents(lambda: self.time)

    def happen(self, event: str, number: str, **values: object) -> None:
        self.time += 1
        self.recent.take(event, {"transaction": number, "event": event, **values})

    def verdict(self, number: str, why: str = "", **values: object) -> None:
        known = {"cohort": "strict/1", "reply": "250 2.1.5 ok", "why": why, "stage": "content"}
        self.happen("recipient", number, **{**known, **values})

    def transactions(self, limit: int = 10) -> list[str]:
        found: Any = self.recent.transactions(limit)
        return [one["transaction"] for one in found]

    def test_events(self) -> None:
        """A transaction's events, in their order, with their times."""
        self.happen("recipient", "A", recipient="x@y.test", log_format="{x}", other=object())
        self.happen("transaction", "A", reply="250 ok")
        self.happen("commit", "A")
        found: Any = self.recent.events("A")
        self.assertEqual([one["event"] for one in found["events"]], ["recipient", "transaction"])
        self.assertEqual(found["events"][0]["time"], 1001.0)
        self.assertNotIn("log_format", found["events"][0])
        json.dumps(found)
        self.assertEqual(self.recent.events("B"), {"events": [], "dropped": 0})

    def test_transactions(self) -> None:
        """The newest first, and not more than are asked for."""
        for number in "ABC":
            self.happen("transaction", number)
        self.assertEqual(self.transactions(2), ["C", "B"])
        self.recent.clear()
        self.assertEqual(self.transactions(), [])

    def test_find(self) -> None:
        """By address, domain, Message-ID, client or login, as a whole, whatever the case."""
        self.verdict("A", sender="Me@Client.test", recipient="x@example.net", client="192.0.2.1")
        self.happen("transaction", "A", messageId="1@client.test", user="alice", sender="me@c.test")
        for text in (
            *("me@client.TEST", "<x@example.net>", "@example.net", "example.net", "192.0.2.1"),
            *("<1@client.test>", "alice", "A"),
        ):
            found: Any = self.recent.find(text, 5)
            self.assertEqual([one["transaction"] for one in found], ["A"], text)
        for text in ("", "<>", "net", "e@client.test", "192.0.2"):
            self.assertEqual(self.recent.find(text, 5), [], text)
        for number in "BCDEFGH":
            self.verdict(number, sender="me@client.test")
        found = self.recent.find("me@client.test", 5)
        self.assertEqual([one["transaction"] for one in found], [*"HGFED"])

    def test_policy(self) -> None:
        """What was refused or marked, and all scores, with the limits that they met."""
        self.verdict("A", "rspamd: score 3.2, refuse_score 15, mark_score 6")
        self.verdict("B", "rspamd: score 7, refuse_score 15, mark_score 6", marked=True)
        self.verdict("C", "rspamd: score 16, refuse_score 15", reply="550 5.7.1 no")
        self.verdict("D", "", cohort="other/1", reply="550 5.7.1 no")
        self.verdict("E", "", cohort="", reply="550 5.7.1 no")
        found: Any = self.recent.policy("strict")
        self.assertEqual([one["transaction"] for one in found["lately"]], ["C", "B"])
        scores = found["scores"]["rspamd"]
        self.assertEqual(sum(scores["counts"]), 3)
        self.assertEqual([scores["counts"][stepOf(one)] for one in (3.2, 7, 16)], [1, 1, 1])
        self.assertEqual(scores["limits"], [[15.0, 6.0, 2], [15.0, None, 1]])
        self.assertEqual(self.recent.policy("none"), {"lately": [], "scores": {}})

    def test_steps(self) -> None:
        """A step has what is from its beginning on; the first and the last have the rest."""
        self.assertEqual([stepOf(one) for one in (-1e9, LOWEST - 0.01)], [0, 0])
        self.assertEqual([stepOf(one) for one in (LOWEST, LOWEST + STEP)], [1, 2])
        self.assertEqual([stepOf(one) for one in (HIGHEST, 1e9)], [STEPS - 1, STEPS - 1])

    def test_bounds(self) -> None:
        """However much happens, and of whatever size: so much is kept."""
        text = "x" * 500
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number in range(3 * MAX_EVENTS):
            values = {"reply": f"550 {number} {text}", "why": f"rspamd: score {number % 90}"}
            self.verdict(
                f"T{number}", recipient=f"{number}{text}", cohort=f"p{number % 999}/1", **values
            )
        kept, _ = tracemalloc.get_traced_memory()
        self.assertLess(kept, 32 << 20)
        self.assertEqual(self.recent.events("T0"), {"events": [], "dropped": 0})
        for number in range(MAX_OF_ONE + 5):
            self.verdict("A", f"rspamd: score 1, refuse_score {number}")
        self.happen("transaction", "A")
        found: Any = self.recent.events("A")
        self.assertEqual((len(found["events"]), found["dropped"]), (MAX_OF_ONE + 1, 5))
        policy: Any = self.recent.policy("p998")
        self.assertEqual(policy["lately"], [])  # one too many: MAX_POLICIES are known
        self.assertLess(MAX_POLICIES, 998)
        policy = self.recent.policy("p0")
        self.assertLessEqual(len(policy["lately"]), MAX_LATELY)
        for number in range(2 * MAX_TRANSACTIONS):
            self.happen("transaction", f"Z{number}")
        self.assertEqual(len(self.transactions(10**6)), MAX_TRANSACTIONS)

    def test_limitsBound(self) -> None:
        """Recipients with limits of their own: so many of these are told apart."""
        for number in range(2 * MAX_LIMITS):
            self.verdict("A", f"rspamd: score 1, refuse_score {number}")
        found: Any = self.recent.policy("strict")
        self.assertEqual(len(found["scores"]["rspamd"]["limits"]), MAX_LIMITS)
        self.assertEqual(sum(found["scores"]["rspamd"]["counts"]), 2 * MAX_LIMITS)


class MergedTests(SynchronousTestCase):
    """
    What several processes have seen.
    """

    def test_lists(self) -> None:
        """The newest of all."""
        one, two = [{"time": 5.0}, {"time": 2.0}], [{"time": 3.0}]
        self.assertEqual(mergedLists([one, two], 2), [{"time": 5.0}, {"time": 3.0}])

    def test_eventsOfOne(self) -> None:
        """In their order."""
        one = {"events": [{"time": 5.0}], "dropped": 1}
        two = {"events": [{"time": 2.0}], "dropped": 2}
        found = mergedEvents([one, two])
        self.assertEqual(found, {"events": [{"time": 2.0}, {"time": 5.0}], "dropped": 3})

    def test_policies(self) -> None:
        """Scores are added up."""
        counts = [0] * STEPS
        counts[3] = 2
        one: Any = {"counts": counts, "limits": [[15.0, None, 2]]}
        other: Any = {"counts": counts, "limits": [[15.0, None, 1], [None, 6.0, 1]]}
        said: Any = [
            {"lately": [], "scores": {"rspamd": one}},
            {"lately": [{"time": 1.0}], "scores": {"rspamd": other, "x": one}},
        ]
        found: Any = mergedPolicies(said)
        self.assertEqual(found["scores"]["rspamd"]["counts"][3], 4)
        self.assertEqual(found["scores"]["rspamd"]["limits"], [[15.0, None, 3], [None, 6.0, 1]])
        self.assertEqual(found["scores"]["x"], one)
        self.assertEqual(len(found["lately"]), 1)
