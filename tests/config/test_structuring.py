"""
TOML into settings, and what is said of what is none.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
import cattrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.config.structuring import choices, makeConverter, problemsOf
from deferrals.model.schedule import Steps
from deferrals.model.settings import BadSetting, Octets, Seconds


class Colour(enum.Enum):
    """
    An enumeration.
    """

    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Inner:
    """
    A table in a table.
    """

    span: Seconds
    size: Octets = Octets(0)


@attrs.frozen
class Outer:
    """
    One of each kind.
    """

    name: str = ""
    count: int = 0
    share: float = 0.0
    wanted: bool = False
    colour: Colour = Colour.RED
    word: Literal["a", "b"] = "a"
    steps: Steps = Steps((1.0,))
    maybe: str | None = None
    either: str | Inner | None = None
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.name == "bad":
            raise BadSetting("name", "a good one")


class StructuringTests(SynchronousTestCase):
    """
    L{makeConverter}, L{problemsOf}.
    """

    def structure(self, table: Any) -> Outer:
        return makeConverter().structure(table, Outer)

    def test_good(self) -> None:
        """Each kind in the form that an operator writes."""
        found = self.structure(
            {
                "name": "x",
                "count": 3,
                "share": 1,
                "wanted": True,
                "colour": "blue",
                "word": "b",
                "steps": "5m 1h",
                "maybe": "y",
                "either": {"span": "1m"},
                "inner": {"span": 5, "size": "1K"},
                "many": [{"span": "1s"}],
            }
        )
        wanted = Outer(
            "x",
            3,
            1.0,
            True,
            Colour.BLUE,
            "b",
            Steps((300.0, 3600.0)),
            "y",
            Inner(Seconds(60.0)),
            Inner(Seconds(5.0), Octets(1024)),
            (Inner(Seconds(1.0)),),
        )
        self.assertEqual(found, wanted)
        self.assertEqual(self.structure({"either": "word"}).either, "word")

    def test_bad(self) -> None:
        """Where it is, and what was expected there; nothing is taken for something else."""
        for table, key, words in (
            ({"name": 1}, "name", "expected text"),
            ({"count": "3"}, "count", "expected a whole number"),
            ({"count": True}, "count", "expected a whole number"),
            ({"share": "x"}, "share", "expected a number"),
            ({"share": True}, "share", "expected a number"),
            ({"wanted": 1}, "wanted", "expected true or false"),
            ({"colour": "green"}, "colour", 'expected one of "red", "blue"'),
            ({"word": "c"}, "word", 'expected one of "a", "b"'),
            ({"steps": "soon"}, "steps", "expected time spans"),
            ({"inner": {"span": "soon"}}, "inner.span", "expected a time span"),
            ({"inner": {}}, "inner.span", "is missing"),
            (
                {"inner": 3},
                "inner",
                "expected a table, [ ] in place of [[ ]]",
            ),
            ({"many": [{"span": 1}, {"span": "x"}]}, "many[1].span", "expected a time span"),
            ({"nmae": "x"}, "nmae", "no such key here; there are: colour, count,"),
            ({"inner": {"span": 1, "x": 1}}, "inner.x", "no such key here; there are: size, span"),
            ({"name": "bad"}, "name", "expected a good one"),
        ):
            error = self.assertRaises(cattrs.BaseValidationError, self.structure, table)
            ((where, said),) = problemsOf(error)
            self.assertEqual(where, key)
            self.assertTrue(said.startswith(words), (table, said))

    def test_collections(self) -> None:
        """Text is no list, of whatever kind; nor is a table; each problem names its place."""

        @attrs.frozen
        class Many:
            names: tuple[str, ...] = ()
            listed: list[int] = attrs.field(factory=list)
            some: frozenset[str] = frozenset()
            any: Sequence[str] = ()
            either: tuple[str, ...] | None = None
            table: Mapping[str, int] = attrs.field(factory=dict)

        converter = makeConverter()
        good = {
            **{"names": ["a"], "listed": [1], "some": ["b"], "any": ["c"], "either": ["d"]},
            "table": {"x": 1},
        }
        found = converter.structure(good, Many)
        wanted = Many(("a",), [1], frozenset("b"), ("c",), ("d",), {"x": 1})
        self.assertEqual(found, wanted)
        for value in ("*.exe", 7, {"a": 1}, True):
            for key in ("names", "listed", "some", "any", "either"):
                with self.assertRaises(cattrs.BaseValidationError) as caught:
                    converter.structure({key: value}, Many)
                ((where, what),) = problemsOf(caught.exception)
                self.assertEqual((where, what[:15]), (key, "expected a list"))
        for value in ("x", ["x"]):
            with self.assertRaises(cattrs.BaseValidationError) as caught:
                converter.structure({"table": value}, Many)
            self.assertEqual(problemsOf(caught.exception), [("table", "expected a table")])
        with self.assertRaises(cattrs.BaseValidationError) as caught:
            converter.structure({"names": ["a", 7], "listed": [1, "x"]}, Many)
        self.assertEqual(
            problemsOf(caught.exception),
            [("names[1]", "expected text"), ("listed[1]", "expected a whole number")],
        )

    def test_several(self) -> None:
        """All that is wrong is said at once."""
        error = self.assertRaises(
            cattrs.BaseValidationError, self.structure, {"name": 1, "count": "x", "y": 1}
        )
        self.assertEqual({key for key, _ in problemsOf(error)}, {"name", "count", "y"})

    def test_choices(self) -> None:
        """The words of a Literal and of an enumeration; none of anything else."""
        self.assertEqual(choices(Literal["a", "b"]), {"a": "a", "b": "b"})
        self.assertEqual(choices(Colour), {"red": Colour.RED, "blue": Colour.BLUE})
        self.assertEqual(choices(str), {})
