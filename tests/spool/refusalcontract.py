"""
What every store of refusals does.
"""

from __future__ import annotations

from typing import TypeVar

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.interfaces import IRefusalStore
from deferrals.model.refusal import Refusal
from tests.model.test_refusal import makeRefusal

_T = TypeVar("_T")

ANNA, BOB = "anna@example.net", "bob@example.net"

_MOST = 6


class Contract:
    """
    Its tests, for a class of tests that has C{make}.
    """

    def make(self) -> IRefusalStore:
        """
        @return: a store without refusals.
        """
        raise NotImplementedError

    def the(self: SynchronousTestCase, d: Deferred[_T]) -> _T:  # type: ignore[misc]
        return self.successResultOf(d)

    def test_interface(self: SynchronousTestCase) -> None:
        """It is one."""
        verifyObject(IRefusalStore, self.make())  # type: ignore[attr-defined]

    def test_own(self) -> None:
        """Each owner has its own, the newest first, and nothing of another's."""
        store = self.make()
        one, two, other = makeRefusal(1), makeRefusal(2), makeRefusal(3, BOB)
        self.the(store.add([(ANNA, one), (BOB, other), (ANNA, two)]))
        assert self.the(store.find(ANNA, 0.0, 10)) == [two, one]
        assert self.the(store.find(ANNA, two.time, 10)) == [two]
        assert self.the(store.find(ANNA, 0.0, 1)) == [two]
        assert self.the(store.find("x@example.net", 0.0, 10)) == []
        assert self.the(store.named(one.id, ANNA)) == one
        assert self.the(store.named(one.id, BOB)) is None
        assert self.the(store.owners(0.0)) == [ANNA, BOB]
        assert self.the(store.owners(other.time)) == [BOB]

    def test_about(self) -> None:
        """By words of the Subject, whatever their letters, of all owners; not by others."""
        store = self.make()
        one = attrs.evolve(makeRefusal(1), subject="Your INVOICE of M\u00e4rz")
        two = attrs.evolve(makeRefusal(2, BOB), subject="invoice of m\u00e4rz, again")
        without = attrs.evolve(makeRefusal(3), subject=None)
        self.the(store.add([(ANNA, one), (BOB, two), (ANNA, without)]))
        assert self.the(store.about("Invoice OF M\u00c4RZ", 0.0, 10)) == [two, one]
        assert self.the(store.about("invoice", two.time, 10)) == [two]
        assert self.the(store.about("invoice", 0.0, 1)) == [two]
        assert self.the(store.about("%", 0.0, 10)) == []

    def test_again(self) -> None:
        """The last refusal of a transaction counts."""
        store, one = self.make(), makeRefusal(1)
        again = attrs.evolve(one, reply="550 5.7.1 again")
        self.the(store.add([(ANNA, one)]))
        self.the(store.add([(ANNA, again)]))
        assert self.the(store.find(ANNA, 0.0, 10)) == [again]

    def test_trim(self) -> None:
        """What is old goes, and the oldest of what is too much."""
        store = self.make()
        self.the(store.add([(ANNA, makeRefusal(number)) for number in range(10)]))
        assert self.the(store.trim(1003.0, 100)) == 7
        assert self.the(store.trim(0.0, 4)) == 4
        left = self.the(store.find(ANNA, 0.0, 100))
        assert [one.time for one in left] == [1009.0, 1008.0, 1007.0, 1006.0]
        assert self.the(store.trim(0.0, 0)) == 0

    def test_nothing(self) -> None:
        """Of an empty one nothing comes, and it can be closed."""
        store = self.make()
        assert self.the(store.trim(0.0, 5)) == 0
        assert self.the(store.owners(0.0)) == []
        assert self.the(store.named("x", ANNA)) is None
        self.the(store.close())

    @given(
        st.lists(
            st.tuples(st.sampled_from([ANNA, BOB]), st.integers(0, 30), st.booleans()),
            max_size=30,
        )
    )
    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors],
    )
    def test_model(self, events: list[tuple[str, int, bool]]) -> None:
        """Whatever comes in whichever order, it has what a dictionary has."""
        store = self.make()
        known: dict[tuple[str, str], Refusal] = {}
        for owner, number, isTrimmed in events:
            one = makeRefusal(number, owner)
            self.the(store.add([(owner, one)]))
            known[one.id, owner] = one
            if isTrimmed:
                self.the(store.trim(0.0, _MOST))
                ordered = sorted(known.items(), key=lambda item: item[1].time)
                known = dict(ordered[-_MOST:])
                times = [item[1].time for item in ordered]
                if len(set(times)) < len(times):  # which of two goes is not said
                    return
        for owner in (ANNA, BOB):
            mine = [one for (_, whose), one in known.items() if whose == owner]
            mine.sort(key=lambda one: -one.time)
            assert self.the(store.find(owner, 0.0, 100)) == mine
        self.the(store.close())
