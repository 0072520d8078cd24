"""
What several processes say, made one.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.ids import formatId
from deferrals.operator import merging


def shown(number: int, seq: int = 0) -> dict[str, Any]:
    return {"id": formatId(number), "seq": seq}


class PageTests(SynchronousTestCase):
    """
    L{merging.merged}.
    """

    @given(
        st.lists(st.sets(st.tuples(st.integers(0, 30), st.integers(0, 2)))),
        st.integers(1, 5),
        st.integers(1, 7),
        st.sets(st.integers(0, 30)),
    )
    @settings(deadline=None, max_examples=300)
    def test_whole(
        self, held: list[set[tuple[int, int]]], limit: int, scanned: int, selected: set[int]
    ) -> None:
        """
        Page after page all are shown, each once, in their order, however little the
        workers look at in one call, and however many of it are selected.
        """

        def look(worker: int, after: Any) -> Any:
            rest = sorted(one for one in held[worker] if after is None or one > tuple(after))
            part = rest[:scanned]
            chosen = [one for one in part if one[0] in selected]
            if len(chosen) >= limit:
                return [shown(*one) for one in chosen[:limit]], list(chosen[limit - 1])
            more = list(part[-1]) if len(rest) > scanned else None
            return [shown(*one) for one in chosen], more

        after: Any = None
        found: list[Any] = []
        for _ in range(1000):
            asked = merging.begun(after, range(len(held)))
            pages = {worker: look(worker, place) for worker, place in asked.items()}
            merged: Any = merging.merged(pages, asked, limit)
            page, after = merged
            self.assertLessEqual(len(page), limit)
            found += page
            if after is None:
                break
        wanted = sorted(
            (number, seq, worker)
            for worker, ones in enumerate(held)
            for number, seq in ones
            if number in selected
        )
        self.assertEqual(found, [shown(number, seq) for number, seq, _ in wanted])

    def test_table(self) -> None:
        """Where a page ends, by worker."""
        one, two, three = shown(1), shown(2), shown(3)
        for pages, limit, page, after in (
            ({}, 5, [], None),
            ({0: ([], None)}, 5, [], None),
            ({0: ([one], None), 1: ([two], None)}, 5, [one, two], None),
            ({0: ([one], [1, 0]), 1: ([two], None)}, 5, [one], {"0": [1, 0], "1": None}),
            ({0: ([one, three], None), 1: ([two], None)}, 2, [one, two], {"0": (1, 0)}),
            ({0: ([three], [3, 0]), 1: ([], [5, 0])}, 2, [three], {"0": [3, 0], "1": [5, 0]}),
        ):
            asked: Any = dict.fromkeys(pages)
            self.assertEqual(merging.merged(pages, asked, limit), (page, after))

    def test_begun(self) -> None:
        """At first all are asked, later those that have more."""
        self.assertEqual(merging.begun(None, [0, 1]), {0: None, 1: None})
        self.assertEqual(merging.begun({"1": [3, 0], "7": None}, [0, 1]), {1: [3, 0]})


class TableTests(SynchronousTestCase):
    """
    The rest of L{merging}.
    """

    def test_whereItIs(self) -> None:
        """A message is shown by whoever has it; where it waits says more."""
        gone, here = {"gone": True}, {"gone": False}
        for said, wanted in (
            ({}, None),
            ({0: None, 1: gone}, gone),
            ({0: gone, 1: here, 2: None}, here),
        ):
            self.assertEqual(merging.whereItIs(said), wanted)

    def test_counted(self) -> None:
        """What was changed is added up."""
        self.assertEqual(
            merging.counted({0: (3, 1, None), 2: (4, 5, [7, 1])}), (7, 6, {"2": [7, 1]})
        )
        self.assertEqual(merging.counted({0: (3, 0, None)}), (3, 0, None))

    def test_inspected(self) -> None:
        """What is damaged, by id."""
        one, two = {"id": "B", "problem": "x"}, {"id": "A", "problem": "y"}
        found = merging.inspected({0: ([one], 5, None), 1: ([two], 6, 9)})
        self.assertEqual(found, ([two, one], 11, {"1": 9}))

    def test_aside(self) -> None:
        """What was set aside has a name of its own, that leads to its worker."""
        found: Any = {0: [{"name": "a"}], 3: [{"name": "a"}]}
        aside: Any = merging.setAside(found)
        names = [one["name"] for one in aside]
        self.assertEqual(names, ["a", "3/a"])
        self.assertEqual([merging.named(name) for name in names], [(0, "a"), (3, "a")])
        self.assertEqual(merging.named("x/a"), (0, "x/a"))

    def test_numbers(self) -> None:
        """Queues are added up; the oldest is the oldest of all."""

        def one(count: int, oldest: float, **more: Any) -> dict[str, Any]:
            delivery = {"delivery": "mx", "status": "queued", "recipients": count}
            return {
                "messages": count,
                "recipients": {"queued": count},
                "deliveries": [{**delivery, "oldest_seconds": oldest}],
                "destinations": [
                    {"destination": "a.example", "recipients": count, "oldest_seconds": oldest}
                ],
                "oldest_seconds": oldest,
                "moved_aside": ["x"],
            }

        found = merging.numbers({0: one(2, 5.0), 1: one(3, 9.0)})
        wanted = {**one(5, 9.0), "moved_aside": ["x", "1/x"]}
        self.assertEqual(found, wanted)
        alike: Any = merging.numbers({0: one(2, 5.0), 1: one(2, 5.0)})
        for name in ("deliveries", "destinations"):
            self.assertEqual(alike[name][0]["recipients"], 4)
        nothing: Any = merging.numbers({})
        self.assertEqual(nothing["messages"], 0)

    def test_summed(self) -> None:
        """So much in a minute, everywhere."""
        found = merging.summed([{"accepted": 1.5}, {"accepted": 2.25, "refused": 1.0}])
        self.assertEqual(found, {"accepted": 3.8, "refused": 1.0})

    def test_parts(self) -> None:
        """Each part as its kind is: the worst, the sum, the most."""
        service = {"state": "working", "last_error": "", "under_way": 1, "waiting": 2}
        rests = {"state": "resting", "last_error": "no", "under_way": 0, "waiting": 5}
        sent = {"logins": 1, "most_used": {"a": {"messages": [3, 9]}}}
        other = {"logins": 2, "most_used": {"a": {"messages": [4, 9]}, "b": {"messages": [9, 9]}}}
        trouble = {"failures": 3, "seconds": 60}
        hops = {"connections": [{"host": "x"}], "misgivings": []}
        for name, first, second, wanted in (
            ("rspamd", service, rests, {**rests, "under_way": 1, "waiting": 7}),
            (
                "submission",
                sent,
                other,
                {
                    "logins": 2,
                    "most_used": {"b": {"messages": [9, 9]}, "a": {"messages": [7, 9]}},
                },
            ),
            (
                "destinations",
                {"x": trouble},
                {"x": {"seconds": 5}, "y": {}},
                {"x": trouble, "y": {}},
            ),
            (
                "next hops",
                hops,
                hops,
                {
                    "connections": [{"host": "x", "worker": 0}, {"host": "x", "worker": 1}],
                    "misgivings": [],
                },
            ),
            ("own", {"n": 1}, {"n": 1}, {"n": 1}),
            ("own", {"n": 1}, "none", {"worker 0": {"n": 1}, "worker 1": "none"}),
        ):
            found = merging.parts({0: {name: first}, 1: {name: second}})
            self.assertEqual(found, {name: wanted})
        self.assertEqual(merging.parts({0: {}, 1: {"own": 1}}), {"own": 1})
        self.assertEqual(
            list(merging.parts({0: {"submission": other}})["submission"]["most_used"]), ["b", "a"]
        )
