"""
What operators call where there are several processes.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import DeferralsError, LineError
from deferrals.model.admission import AdmissionWish
from deferrals.model.ids import formatId
from deferrals.operator.control import Partial
from deferrals.operator.several import SeveralOperators

NUMBERS = {
    "messages": 1,
    "recipients": {"queued": 2},
    "deliveries": [],
    "destinations": [],
    "oldest_seconds": 1.0,
    "moved_aside": [],
}


class Worker:
    """
    Answers what it was given to answer, by name.
    """

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[Any] = []

    def call(self, name: str, *args: Any) -> Deferred[Any]:
        self.calls.append((name, *args))
        answer = self.answers[name]
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)


class SeveralTests(SynchronousTestCase):
    """
    L{SeveralOperators}.
    """

    def several(self, *workers: Any) -> SeveralOperators:
        return SeveralOperators(lambda: dict(enumerate(workers)))

    def call(self, *workers_and_name: Any, args: Any = ()) -> Any:
        *workers, name = workers_and_name
        return self.successResultOf(self.several(*workers).call(name, *args))

    def test_look(self) -> None:
        """A page of all, and then of those that have more."""
        first, second = {"id": formatId(1), "seq": 0}, {"id": formatId(2), "seq": 0}
        one, two = Worker(look=([first], None)), Worker(look=([second], [2, 0]))
        page, after = self.call(one, two, "look", args=({}, 5, None))
        self.assertEqual((page, after), ([first, second], {"1": [2, 0]}))
        self.call(one, two, "look", args=({}, 5, after))
        self.assertEqual(one.calls, [("look", {}, 5, None)])
        self.assertEqual(two.calls, [("look", {}, 5, None), ("look", {}, 5, [2, 0])])

    def test_missing(self) -> None:
        """Who does not answer is named, whatever the reason; the others' answers are there."""
        well = Worker(numbers=NUMBERS)
        for wrong, why in (
            (Worker(numbers=TimeoutError()), "does not answer"),
            (Worker(numbers=LineError("the other process has gone away")), "does not answer"),
            (None, "does not answer"),
            (Worker(numbers=DeferralsError("no disk")), "says: no disk"),
        ):
            found = self.call(well, wrong, "numbers")
            self.assertEqual(found, Partial({**NUMBERS}, {1: why}))

    def test_noneAnswers(self) -> None:
        """Where none can, it is as with one that cannot; where none answers, all are named."""
        wrong = Worker(change=ValueError("no such command: x"))
        d = self.several(wrong, wrong).call("change", "x", {}, None)
        self.assertEqual(str(self.failureResultOf(d, ValueError).value), "no such command: x")
        found = self.call(None, None, "numbers")
        self.assertEqual(sorted(found.missing), [0, 1])

    def test_show(self) -> None:
        """A message is shown as whoever has it sees it; others need not answer then."""
        gone, here = {"gone": True}, {"gone": False}
        for answers, wanted in (
            ((None, here), here),
            ((gone, here), here),
            ((gone, None), gone),
            ((None, None), None),
            ((here, TimeoutError()), here),
            ((None, TimeoutError()), Partial(None, {1: "does not answer"})),
        ):
            workers = [Worker(show=answer) for answer in answers]
            self.assertEqual(self.call(*workers, "show", args=("X",)), wanted)

    def test_read(self) -> None:
        """So is its content, to its end."""
        for answers, wanted in (((None, "eA=="), "eA=="), ((None, ""), ""), ((None, None), None)):
            workers = [Worker(read=answer) for answer in answers]
            self.assertEqual(self.call(*workers, "read", args=("X", 0)), wanted)

    def test_change(self) -> None:
        """All change what is theirs."""
        one, two = Worker(change=(2, 1, [5, 0])), Worker(change=(3, 0, None))
        count, active, after = self.call(one, two, "change", args=("hold", {}, None))
        self.assertEqual((count, active, after), (5, 1, {"0": [5, 0]}))
        self.call(one, two, "change", args=("hold", {}, after))
        self.assertEqual((len(one.calls), len(two.calls)), (2, 1))

    def test_oneQueue(self) -> None:
        """Where all have one queue, the first that has an ear is asked about it, and no other."""
        here = {"id": formatId(1), "seq": 0}
        worker = Worker(
            look=([here], [2, 0]),
            change=(3, 1, [5, 0]),
            inspect=([], 5, 7),
            numbers=NUMBERS,
            aside=[],
        )
        other = Worker()
        several = SeveralOperators(lambda: {0: None, 1: worker, 2: other}, True)

        def call(*args: Any) -> Any:
            return self.successResultOf(several.call(*args))

        page, after = call("look", {}, 5, None)
        self.assertEqual((page, after), ([here], {"0": [2, 0]}))
        call("look", {}, 5, after)
        self.assertEqual(worker.calls[-1], ("look", {}, 5, [2, 0]))
        self.assertEqual(call("change", "hold", {}, None), (3, 1, {"0": [5, 0]}))
        self.assertEqual(call("inspect", None), ([], 5, {"0": 7}))
        self.assertEqual((call("numbers"), call("aside")), (NUMBERS, []))
        self.assertEqual(other.calls, [])

    def test_inspect(self) -> None:
        """All look for what is damaged."""
        one, two = Worker(inspect=([], 5, 7)), Worker(inspect=([{"id": "A"}], 1, None))
        found = self.call(one, two, "inspect", args=(None,))
        self.assertEqual(found, ([{"id": "A"}], 6, {"0": 7}))
        self.call(one, two, "inspect", args=(found[2],))
        self.assertEqual(one.calls[1:], [("inspect", 7)])
        self.assertEqual(len(two.calls), 1)

    def test_rescue(self) -> None:
        """What was set aside is rescued where it is."""
        one, two = (
            Worker(aside=[{"name": "a"}]),
            Worker(aside=[{"name": "a"}], rescue={"name": "a"}),
        )
        names = [found["name"] for found in self.call(one, two, "aside")]
        self.assertEqual(names, ["a", "1/a"])
        found = self.call(one, two, "rescue", args=("show", "1/a"))
        self.assertEqual((found, two.calls[-1]), ({"name": "1/a"}, ("rescue", "show", "a")))
        d = self.several(one, None).call("rescue", "show", "1/a")
        self.assertIn("does not answer", str(self.failureResultOf(d, DeferralsError).value))
        d = self.several(one).call("rescue", "show", "7/a")
        self.failureResultOf(d, DeferralsError)

    def test_status(self) -> None:
        """Without a server there is nothing that it says; an unknown call is none."""
        self.assertEqual(self.call(Worker(), "status"), {})
        self.assertRaises(ValueError, self.several().call, "nonsense")


class RefusalTests(SynchronousTestCase):
    """
    What was refused is in one place for all workers.
    """

    def call(self, *workers: Any, name: str, args: Any = ()) -> Any:
        several = SeveralOperators(lambda: dict(enumerate(workers)))
        return self.successResultOf(several.call(name, *args))

    def test_first(self) -> None:
        """One is asked; the next one, where that does not answer."""
        one, two = Worker(refusals=["a"]), Worker(refusals=["b"])
        args = ("a@b.example", None, 5)
        self.assertEqual(self.call(one, two, name="refusals", args=args), ["a"])
        self.assertEqual(two.calls, [])
        self.assertEqual(self.call(None, two, name="refusals", args=args), ["b"])
        away = Worker(refusals=LineError())
        self.assertEqual(self.call(away, two, name="refusals", args=args), ["b"])

    def test_none(self) -> None:
        """Where none answers, that is said."""
        found = self.call(None, None, name="admissions", args=(None,))
        self.assertEqual(found, Partial(None, {1: "does not answer"}))
        self.assertEqual(self.call(None, name="digest", args=(None, True)).result, None)

    def test_each(self) -> None:
        """What is said reaches the one that is asked as it is."""
        for name, args in (
            ("admit", ("a@b.example", AdmissionWish("ID", True).toJSON())),
            ("admissions", (None,)),
            ("removeAdmissions", ("a@b.example",)),
            ("digest", (None, True)),
        ):
            one = Worker(**{name: 1})
            self.assertEqual(self.call(one, name=name, args=args), 1)
            self.assertEqual(one.calls, [(name, *args)])
