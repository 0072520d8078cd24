"""
How many attempts may be under way to a destination, and when it is left alone.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.portion import WHOLE, Portion
from deferrals.model.reply import Reply
from deferrals.model.verdict import Delivered, Details, Failed, Outcome, Retry
from deferrals.relay import destinations
from deferrals.relay.destinations import Destinations, HopReport, hopReport
from deferrals.server.notes import Notes
from tests.rigs import examples
from tests.workers.test_notes import Cluster

DEAD = HopReport(
    False,
    Reply(451, "4.4.1", "no answer"),
    "mx.dead.example",
    Details("refused at 192.0.2.1"),
)
ALIVE = HopReport(True)


def retry(code: int, enhanced: str | None) -> Retry:
    return Retry(Reply(code, enhanced, "later"), "mx")


class HopReportTests(SynchronousTestCase):
    """
    L{hopReport}.
    """

    def test_table(self) -> None:
        """A hop works unless all are to be tried again for reasons of its own (RFC 3463)."""
        connection, system = retry(451, "4.4.1"), retry(452, "4.3.1")
        closing, full, plain = retry(421, None), retry(452, "4.2.2"), retry(451, None)
        gone = Failed(Reply(550, "5.1.1", "gone"), "mx")
        table: list[tuple[list[Outcome], bool]] = [
            ([connection], False),
            ([system], False),
            ([closing], False),
            ([connection, system, closing], False),
            ([full], True),
            ([plain], True),
            ([gone], True),
            ([Delivered()], True),
            ([connection, full], True),
            ([connection, gone], True),
        ]
        for outcomes, isAlive in table:
            report = hopReport(outcomes)
            assert report is not None
            self.assertEqual(report.isAlive, isAlive, outcomes)
            self.assertEqual((report.reply, report.host), (outcomes[0].reply, outcomes[0].host))

    def test_ours(self) -> None:
        """What this server has run out of says nothing of the hop."""
        reply, ours = Reply(451, "4.4.1", "later"), Details("no ports", isOurs=True)
        self.assertIsNone(hopReport([Retry(reply, details=ours)] * 2))
        found = hopReport([Retry(reply, details=ours), Retry(reply)])
        assert found is not None
        self.assertFalse(found.isAlive)


class SilentTests(SynchronousTestCase):
    """
    Servers that have not answered.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.destinations = Destinations(self.clock, 100, lambda: 0.5)

    def count(self, *names: str, kind: str = "kind", isLocal: bool = False) -> int:
        """
        How many attempts begin, of as many as there may be to each.
        """
        begin = self.destinations.begin
        return sum(begin(name, 20, kind, isLocal=isLocal) for name in names for _ in range(20))

    def test_each(self) -> None:
        """Of five silent destinations each takes a few slots; an answer gives it more."""
        names = [f"silent {number}" for number in range(5)]
        self.assertEqual(self.count(*names), 25)
        self.destinations.ended(names[0], ALIVE, "kind")
        self.assertEqual(self.count(names[0]), 10)
        self.assertEqual(self.count(names[1]), 0)

    def test_lately(self) -> None:
        """Five that have answered and now are silent do not take all slots, either."""
        names = [f"silent {number}" for number in range(5)]
        for name in names:
            self.destinations.begin(name, 20, "kind")
            self.destinations.ended(name, ALIVE, "kind")
        self.assertEqual(self.count(*names), 50)
        self.assertGreater(self.count("other", kind="other"), 0)

    def test_all(self) -> None:
        """All that are silent have half of the slots, and no kind has all of that."""
        self.assertEqual(self.count(*(f"a {number}" for number in range(400)), kind="a"), 38)
        self.assertEqual(self.count(*(f"b {number}" for number in range(400)), kind="b"), 9)
        self.assertTrue(self.destinations.isSilent("a"))
        self.assertEqual(self.destinations.room, 53)

    def test_local(self) -> None:
        """What is delivered here has room of its own, whatever is under way elsewhere."""
        for number in range(40):
            name = f"good {number}"
            self.destinations.begin(name, 20, name)
            self.destinations.ended(name, ALIVE, name)
        names = [f"good {number}" for number in range(40)]
        self.assertEqual(sum(self.count(name, kind=name) for name in names), 75)
        self.assertTrue(self.destinations.isFullOutside)
        self.assertEqual(self.count("maildir", "file", kind="here", isLocal=True), 19)

    def test_ended(self) -> None:
        """Attempts that have ended without an answer make room."""
        self.assertEqual(self.count("a"), 5)
        for _ in range(5):
            self.destinations.ended("a", None, "kind")
        self.assertEqual(self.count("a"), 5)
        for _ in range(5):
            self.destinations.ended("a", ALIVE, "kind")
        self.assertEqual(self.destinations._unknown.total(), 0)
        self.assertEqual(self.count("a"), 10)

    @settings(max_examples=examples(50), deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 11), st.booleans(), st.integers(0, 3)), max_size=60))
    def test_leaks(self, steps: list[tuple[int, bool, int]]) -> None:
        """Whatever begins and ends, in whatever order, nothing is left of it."""
        found = Destinations(self.clock, 8, lambda: 0.5)
        running: list[tuple[str, str]] = []
        for number, isLocal, what in steps:
            name, kind = f"name {number % 3}", f"kind {number // 6}"
            if what < 2 and found.begin(name, 4, kind, isLocal=isLocal):
                running.append((name, kind))
            elif running and what == 2:
                name, kind = running.pop(number % len(running))
                found.ended(name, (ALIVE, DEAD, None)[number % 3], kind)
            else:
                self.clock.advance(400)
        for name, kind in running:
            found.ended(name, None, kind)
        left = (found._running, found._outside, found._probes, found._unknown.total())
        self.assertEqual((left, found._kinds), ((0, 0, 0, 0), {}))
        self.assertEqual(found.room, 8)

    def test_forgotten(self) -> None:
        """One that has not answered for a while has to answer again."""
        self.destinations.begin("a", 20, "kind")
        self.destinations.ended("a", ALIVE, "kind")
        self.clock.advance(destinations.ANSWERED_SECONDS + 1)
        self.assertEqual(self.count("a"), 5)


class NotedTests(SynchronousTestCase):
    """
    What is known after a restart.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.notes = Notes(self.clock)

    def started(self) -> Destinations:
        found = Destinations(self.clock, 10, lambda: 0.5, self.notes)
        self.successResultOf(Deferred.fromCoroutine(found.load()))
        return found

    def attempt(self, found: Destinations, report: HopReport) -> float | None:
        self.assertTrue(found.begin("dead", 2, "kind"))
        return found.ended("dead", report, "kind")

    def test_trouble(self) -> None:
        """It is in trouble still: one probe at once, and the next one later than before."""
        before = self.started()
        for _ in range(3):
            self.attempt(before, DEAD)
        after = self.started()
        self.assertEqual(after.troubles()["dead"]["failures"], 3)
        self.assertEqual(after.lastReport("dead").host, DEAD.host)
        self.assertEqual(str(after.lastReport("dead").reply), str(DEAD.reply))
        self.assertTrue(after.begin("dead", 2, "kind"))
        self.assertFalse(after.begin("dead", 2, "kind"))
        self.assertEqual(after.ended("dead", DEAD, "kind"), 120.0)
        self.assertEqual(self.attempt(self.started(), DEAD), 240.0)

    def test_heard(self) -> None:
        """What one process meets, the others leave alone, too; and what works again for it."""
        cluster = Cluster(2, kinds=("backoff",))
        first, second = (
            Destinations(cluster.clock, 10, lambda: 0.5, cluster.notes[worker]) for worker in (0, 1)
        )
        cluster.notes[1].watch(destinations.NOTES, second.heard)
        for _ in range(3):
            self.assertTrue(second.begin("dead", 2, "kind"))
            second.ended("dead", HopReport(True), "kind")
            self.attempt(first, DEAD)
        cluster.settle()
        trouble = second.troubles()["dead"]
        self.assertEqual({**trouble, "cause": DEAD.details.cause}, first.troubles()["dead"])
        self.assertFalse(second.begin("dead", 2, "kind"))
        cluster.wait(60)
        self.assertTrue(second.begin("dead", 2, "kind"))
        self.attempt(first, ALIVE)
        cluster.settle()
        self.assertEqual(second.troubles(), {})
        second.heard("", "dead", {"nonsense": 1})
        self.assertEqual(second.troubles(), {})

    def test_works(self) -> None:
        """One that works again is forgotten; so are all by a reload."""
        for forget in (False, True):
            before = self.started()
            for _ in range(3):
                self.attempt(before, DEAD)
            if forget:
                before.forget()
            else:
                self.clock.advance(60)
                self.attempt(before, ALIVE)
            self.assertEqual(self.started().troubles(), {})

    def test_notLong(self) -> None:
        """What is too old says nothing."""
        before = self.started()
        for _ in range(3):
            self.attempt(before, DEAD)
        self.clock.advance(destinations.LONGEST_SECONDS + 1)
        self.assertEqual(self.started().troubles(), {})

    def test_nonsense(self) -> None:
        """A note that is none is passed over."""
        good = {"failures": 3, "seconds": 60.0, "reply": "what", "host": 5}
        for number, value in enumerate((None, [], {"failures": "x"}, {**good, "seconds": 0}, good)):
            self.notes.put("backoff", "destinations", str(number), value, 60.0)
        found = self.started()
        self.assertEqual(list(found.troubles()), ["4"])
        self.assertEqual(found.troubles()["4"]["reply"], None)


class DestinationsTests(SynchronousTestCase):
    """
    L{Destinations}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.destinations = Destinations(self.clock, 10, lambda: 0.5)

    def attempt(self, name: str, report: HopReport | None, limit: int = 2) -> float | None:
        self.assertTrue(self.begin(name, limit))
        return self.destinations.ended(name, report, name)

    def begin(self, name: str, limit: int = 2) -> bool:
        """
        Each destination has mail of a kind of its own, and is not one that may be silent.
        """
        return self.destinations.begin(name, limit, name, isLocal=True)

    def failing(self, name: str) -> None:
        for _ in range(destinations.FAILURES):
            self.attempt(name, DEAD)

    def test_limits(self) -> None:
        """A destination has its limit, and all have one together."""
        begun = [self.begin("a") for _ in range(3)]
        self.assertEqual(begun, [True, True, False])
        self.assertEqual((self.destinations.room, self.destinations.shares()), (8, {"a": 0}))
        begun = [self.begin(str(number)) for number in range(9)]
        self.assertEqual(begun, [True] * 8 + [False])
        self.destinations.ended("a", ALIVE, "a")
        self.assertEqual(self.destinations.room, 1)
        self.assertTrue(self.begin("b"))

    def test_shared(self) -> None:
        """
        Where others deliver, too, each has its part of a destination's limit, and of all;
        when they are gone it has the whole.  What is delivered here has its own limit.
        """
        for portion, limit, there in (
            (Portion(1, 3), 3, 2),
            (Portion(1, 99), 1, 1),
            (WHOLE, 10, 5),
        ):
            found = Destinations(self.clock, 10, lambda: 0.5)
            found.shareWith(portion)
            self.assertEqual(found.limit, limit)
            begun = [found.begin("a", 6, kind) for kind in range(9)]
            self.assertEqual(begun.count(True), there)
        found = Destinations(self.clock, 100, lambda: 0.5)
        found.shareWith(Portion(1, 2))
        begun = [found.begin("here", 6, kind, isLocal=True) for kind in range(9)]
        self.assertEqual(begun.count(True), 6)
        found.limitTo(40)
        self.assertEqual(found.limit, 20)
        begun = [found.begin("all", None, kind, isLocal=True) for kind in range(30)]
        self.assertEqual(begun.count(True), 14)

    def test_backOff(self) -> None:
        """After failures in a row nothing begins for a while, then one probe at a time."""
        found = [self.attempt("dead", DEAD) for _ in range(3)]
        self.assertEqual(found, [None, None, 60.0])
        self.assertFalse(self.begin("dead"))
        self.assertEqual(self.destinations.lastReport("dead"), DEAD)
        self.assertEqual(self.destinations.shares(), {})
        self.clock.advance(60)
        self.assertEqual(self.destinations.shares(), {"dead": 1})
        self.assertTrue(self.begin("dead"))
        self.assertFalse(self.begin("dead"))
        self.assertEqual(self.destinations.ended("dead", DEAD, "dead"), 120.0)
        self.clock.advance(120)
        self.assertEqual(self.attempt("dead", ALIVE), 0.0)
        self.assertEqual(self.attempt("dead", ALIVE), None)
        self.assertEqual(self.destinations.lastReport("dead"), ALIVE)

    def test_notSoFar(self) -> None:
        """An attempt that did not come to the next hop says nothing of it."""
        self.attempt("a", DEAD)
        self.attempt("a", DEAD)
        self.assertIsNone(self.attempt("a", None))
        self.assertEqual(self.attempt("a", DEAD), 60.0)

    def test_probes(self) -> None:
        """Destinations in trouble never take more than a quarter of all slots."""
        for number in range(8):
            self.failing(f"dead {number}")
        self.clock.advance(60)
        begun = [self.begin(f"dead {number}") for number in range(8)]
        self.assertEqual(begun, [True] * 2 + [False] * 6)
        self.assertTrue(self.begin("alive"))

    def test_kinds(self) -> None:
        """No kind of mail takes all slots, not even a second one or a third."""
        found = Destinations(self.clock, 100)
        taken = []
        for kind in range(4):
            begun = [
                found.begin(f"{kind} {number}", 2, kind, isLocal=True) for number in range(200)
            ]
            taken.append(sum(begun))
            self.assertTrue(found.isCrowded(kind))
        self.assertEqual(taken, [75, 19, 5, 1])
        self.assertEqual(found.room, 0)
        for number in range(20):
            found.ended(f"0 {number}", ALIVE, 0)
        self.assertFalse(found.isCrowded("honest"))
        self.assertTrue(found.begin("honest", 2, "honest"))

    def test_few(self) -> None:
        """Few slots are for one kind, too."""
        for limit, most in ((1, 1), (2, 2), (3, 3), (4, 3)):
            for isLocal in (False, True):
                found = Destinations(self.clock, limit)
                names = map(str, range(9))
                begun = [found.begin(name, 2, "kind", isLocal=isLocal) for name in names]
                self.assertEqual(sum(begun), most, (limit, isLocal))

    def test_forget(self) -> None:
        """When the configuration has changed, everything may be tried at once."""
        self.failing("dead")
        self.destinations.forget()
        self.assertTrue(self.begin("dead"))
        self.assertEqual(self.destinations.troubles(), {})

    def test_troubles(self) -> None:
        """The operator sees what a destination said, and for how long it is left alone."""
        self.attempt("shaky", DEAD)
        self.failing("dead")
        self.clock.advance(10)
        self.assertEqual(
            self.destinations.troubles(),
            {
                "dead": {
                    "failures": 3,
                    "seconds": 50,
                    "reply": "451 4.4.1 no answer",
                    "host": "mx.dead.example",
                    "cause": "refused at 192.0.2.1",
                }
            },
        )

    def test_remembered(self) -> None:
        """Of very many destinations in trouble the newest are remembered."""
        self.patch(destinations, "REMEMBERED", 5)
        self.destinations.limit = 1
        for number in range(8):
            self.attempt(f"dead {number}", DEAD)
        self.assertEqual(self.destinations.lastReport("dead 0"), ALIVE)
        self.assertEqual(self.destinations.lastReport("dead 7"), DEAD)
