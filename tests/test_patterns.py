"""
The work of every regular expression grows with its input, not faster.

Each that the package has is fed with what L{tests.growth.patterns} makes of its parse
tree, in the way in which it is used; steps are counted, no clock is asked.

What it can see: a search that begins anew at each place and runs to the end; items
beside each other that take the same; repetitions in repetitions.  What it cannot see:
what only a unit of more than two pieces shows (but in the long form, with
C{DEFERRALS_GROWTH_EXAMPLES}, which makes up units of five); C{match} in a loop that
begins anew, which is what L{tests.test_growth} is for; what the operator has
written, and patterns of libraries.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from twisted.trial.unittest import SynchronousTestCase

from tests.growth.patterns import MOST, found, usesIn, worst
from tests.rigs import rig
from tests.source import nodes
from tests.test_layout import modules

T = TypeVar("T")

#: Shapes of a pattern beside the simplest, and those that are made up.
SHAPES = rig(160, 1_000)
EXAMPLES = int(os.environ.get("DEFERRALS_GROWTH_EXAMPLES", rig(0, 20)))

#: Those whose work grows faster, and why that is no harm.
KNOWN = dict.fromkeys(
    (
        "config/crosscheck.py _INTERFACE",
        "config/places.py _HEADER",
        "config/places.py _KEY",
        "config/places.py '\\\\s*\\\\.\\\\s*'",
    ),
    "the operator's own configuration",
)

#: Those that are made by calls, of what is not known here.
MADE = {
    "model/dsn.py '|'.join(map(re.escape, names))": "some names of one recipient, as they are",
    "model/dsn.py re.escape(begin.encode('ascii')) + b'([0-9]{1,9})'": "one text, and digits",
    "operator/explain.py f'(?<![\\\\w.+\\\\-{at}]){text}(?![\\\\w@+\\\\-]|\\\\.\\\\w)'": (
        "one text, whose surroundings are two characters"
    ),
}

_PADDED_INSIDE = r"=[^A-Za-z0-9+/]*+[A-Za-z0-9+/]"

#: What has to be seen, with how it is used: most have been in the package.
GROWING = (
    (_PADDED_INSIDE, "all"),
    (r"[^\s/;,\"()=]++\s*+/\s*+[^\s/;,\"()=]++", "all"),
    (r"[ \t]*\r?\n[ \t]+", "all"),
    (r'"(?:[^"\\]|\\.)*"', "all"),
    (r"[+-][^+]*=[^=]+$", "all"),
    (r"([+\-?~]?)([A-Za-z0-9]+)(.*)", "fullmatch"),
    (r"<[^>]*x", "all"),
    (r"\s+$", "all"),
    (r"<!--.*?-->", "all"),
    (r"\s*a?\s*b", "match"),
    (r"^name:\s*(.*?)\s*;", "match"),
    (r"(?:a|a)*b", "match"),
    (r"(?:a+)+b", "match"),
    (r"(?:\w+\s?)*:", "match"),
)
LINEAR = (
    (_PADDED_INSIDE, "match"),
    (r'"(?:[^"\\]|\\.)*"', "match"),
    (r"(?<![ \t])[ \t]++\n", "all"),
    (r"<[^<>]*x", "all"),
    (r"a.*", "all"),
    (r"(?:[^\"\\]|\\.)*+", "fullmatch"),
    (r"[a-z]{1,40}@", "all"),
    (r"begin[ \t]++[0-7]{3,5}", "all"),
)


def deep(function: Callable[[], T]) -> T:
    """
    Call a function that may call itself as often as a pattern repeats.
    """
    limit, size = sys.getrecursionlimit(), threading.stack_size(256 << 20)
    sys.setrecursionlimit(200_000)
    try:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(function).result()
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(size)


@functools.cache
def patterns() -> tuple[dict[tuple[re.Pattern[Any], str], list[str]], list[str]]:
    """
    See L{found}.
    """
    return found()


class PatternsTests(SynchronousTestCase):
    """
    Those of the package.
    """

    def linear(self, *parts: str, isIn: bool = True) -> None:
        wrong, seen = [], set()
        for (pattern, mode), names in patterns()[0].items():
            if names[0].startswith(parts) == isIn:
                ratio, shape = deep(functools.partial(worst, pattern, mode, SHAPES, EXAMPLES))
                if ratio > MOST:
                    seen.update(names)
                    if not KNOWN.keys() & set(names):
                        wrong.append(f"{names}, {mode}: {ratio:.1f} times as much, with {shape!r}")
        self.assertEqual(wrong, [])
        known = {name for name in KNOWN if name.startswith(parts) == isIn}
        self.assertEqual(known - seen, set(), "their work does not grow faster")

    def test_model(self) -> None:
        """No work in the model grows faster than its input."""
        self.linear("model/")

    def test_stages(self) -> None:
        """Nor does any in stages."""
        self.linear("stages/")

    def test_others(self) -> None:
        """Nor does it elsewhere, but where the table says why."""
        self.linear("model/", "stages/", isIn=False)

    def test_made(self) -> None:
        """What calls make of what is not known here has a reason why it is linear."""
        self.assertEqual(set(patterns()[1]), MADE.keys())

    def test_spelling(self) -> None:
        """All are found, since nobody calls the library by another name."""
        for _, path, tree in modules():
            others = [one for one in nodes(tree, ast.ImportFrom) if one.module == "re"]
            names = [alias for one in nodes(tree, ast.Import) for alias in one.names]
            others += [alias for alias in names if alias.name == "re" and alias.asname]
            self.assertEqual(others, [], path)


class AdversaryTests(SynchronousTestCase):
    """
    L{worst} and L{usesIn}.
    """

    def test_growing(self) -> None:
        """What takes too many steps is seen, as text and as octets."""
        for pattern, mode in GROWING:
            for one in (pattern, pattern.encode("ascii")):
                ratio, shape = deep(functools.partial(worst, re.compile(one), mode, SHAPES))
                self.assertGreater(ratio, 2 * MOST, (pattern, shape))

    def test_linear(self) -> None:
        """What does not is not taken for it, also where a bound is large."""
        for pattern, mode in LINEAR:
            ratio, shape = deep(functools.partial(worst, re.compile(pattern), mode, SHAPES))
            self.assertLess(ratio, MOST, (pattern, shape))

    def test_uses(self) -> None:
        """How a pattern is used is read in its module, and in functions it is given to."""
        tree = ast.parse(
            "def ask(one, other): return one.match(other)\n"
            "A.match(x); B.search(x); B.fullmatch(x); ask(C, x); (D if x else E).sub(x, y)\n"
            "F.search(x); there(F); G.pattern"
        )
        found = {name: modes for name, modes in usesIn(tree).items() if name.isupper()}
        both = {"fullmatch", "all"}
        self.assertEqual(
            found,
            {"A": {"match"}, "B": both, "C": {"match"}, "D": {"all"}, "E": {"all"}, "F": both},
        )
