"""
An adversary for each regular expression, made of the expression itself.

L{found} has those of the whole package, with how they are used.  L{worst} feeds one
with what is made of its parse tree, and tells what makes it take more steps than
its input has characters; L{tests.growth.regex.Matcher} counts them.

What a pattern can tell apart is few classes of characters.  Of each there is one;
hostile input is one of them, two by turns, or a beginning of what the pattern takes,
again and again: behind nothing, or behind such a beginning, and in front of
nothing, or of what is least like it.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from types import ModuleType
from typing import Any

import attrs
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.growth.regex import Matcher
from tests.source import nodes
from tests.test_layout import modules

_codes: Any = re._constants  # type: ignore[attr-defined]

#: How a pattern is used.  One of these takes what costs the others most.
MODES = {
    "match": "match",
    "fullmatch": "fullmatch",
    **dict.fromkeys(("search", "finditer", "findall", "sub", "subn", "split"), "all"),
}

#: So many units are few: a pattern that takes C{_AWFUL} steps for them is not fed with
#: more.  With the next number, most patterns take less than C{_USUAL} steps for each
#: character, whatever the unit; the others are fed with four times as many, and, since
#: one may be bounded beyond that, with four times as many again.
_FEW, _SOME = 16, 48
_AWFUL, _USUAL = 20_000, 14

#: Four times as much costs four times as much, and something for rounding.
MOST = 6.5

#: A beginning that is longer is no unit.
_LONGEST = 64

_CHARACTERS = [*map(chr, range(0x180)), "\u2028", "\u3042", "\U0001f600", "\udc80"]
_NICE = "ax5 =\n"


class Adversary:
    """
    What is made of a pattern's parse tree.

    @ivar ones: a character of each class that it tells apart.
    @ivar beginnings: of what it takes.
    @ivar first: both, in that order.
    """

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        alphabet = _CHARACTERS if matcher.isText else [chr(one) for one in range(256)]
        alphabet = [*_NICE, *(one for one in alphabet if one not in _NICE)]
        classes: dict[tuple[bool, ...], str] = {}
        for char in alphabet:
            classes.setdefault(self._signature(char), char)
        self.ones = list(classes.values())
        self._signatures = {char: signature for signature, char in classes.items()}
        found = dict.fromkeys(self._heads(matcher.tree, ""))
        self.beginnings = [one for one in found if 0 < len(one) <= _LONGEST]
        self.first = dict.fromkeys([*self.ones, *self.beginnings])

    def behind(self, unit: str) -> tuple[str, str]:
        """
        @return: what may stand at the end: nothing, or what is as little like the unit
            as can be.
        """
        signature = self._signatures.get(unit[-1:], ())
        return "", min(
            self.ones,
            key=lambda char: (
                sum(map(bool.__and__, self._signatures[char], signature)),
                sum(self._signatures[char]),
            ),
        )

    def _signature(self, char: str) -> tuple[bool, ...]:
        key: Any = char if self._matcher.isText else ord(char)
        return tuple(one[key] for one in self._matcher.classes)

    def _heads(self, items: Any, before: str) -> Iterator[str]:
        """
        What items take, from the first one on, up to each place.
        """
        for code, argument in items:
            for inner in _inner(code, argument):
                yield from self._heads(inner, before)
            before += self._least(code, argument)
            yield before

    def _least(self, code: Any, argument: Any) -> str:
        """
        The shortest that an item takes, but once what it need not take.
        """
        members = self._matcher.members(code, argument)
        if members is not None:
            takes = (one for one in self.ones if members[self._key(one)])
            return next(takes, "")
        if code in (_codes.ASSERT, _codes.ASSERT_NOT) and (
            code is _codes.ASSERT_NOT or argument[0] > 0
        ):
            return ""
        times = 1
        if code in (_codes.MAX_REPEAT, _codes.MIN_REPEAT, _codes.POSSESSIVE_REPEAT):
            times = max(1, argument[0])
        inner = next(iter(_inner(code, argument)), ())
        return "".join(self._least(*item) for item in inner) * times

    def _key(self, char: str) -> Any:
        return char if self._matcher.isText else ord(char)


def _inner(code: Any, argument: Any) -> Iterable[Any]:
    """
    @return: the sequences that are in an item.
    """
    if code is _codes.BRANCH:
        return [list(one) for one in argument[1]]
    if code is _codes.SUBPATTERN:
        return [list(argument[3])]
    if code in (_codes.ASSERT, _codes.ASSERT_NOT):
        return [list(argument[1])]
    if code is _codes.ATOMIC_GROUP:
        return [list(argument)]
    if code in (_codes.MAX_REPEAT, _codes.MIN_REPEAT, _codes.POSSESSIVE_REPEAT):
        return [list(argument[2])]
    return []


def shapes(adversary: Adversary, most: int) -> Iterator[tuple[str, str, str]]:
    """
    @param most: of two by turns, and of what has a beginning in front, there are so many
        each; of more, some are left out.
    @return: what stands in front, what is repeated, and what is behind.
    """
    first = list(adversary.first)
    pairs = [one + other for one in first for other in adversary.ones]
    for befores, units, limit in (
        ([""], first, 2 * len(first)),
        ([""], pairs, most),
        (adversary.beginnings, [*first, *pairs], most),
    ):
        number = 2 * len(befores) * len(units)
        share = -(-number // max(1, limit)) | 1  # odd: each end has its turn
        for place in range(0, number, share):
            rest, end = divmod(place, 2)
            before, unit = divmod(rest, len(units))
            yield befores[before], units[unit], adversary.behind(units[unit])[end]


def steps(matcher: Matcher, mode: str, text: str) -> int:
    """
    @return: how many it takes.
    """
    data: Any = text if matcher.isText else text.encode("latin-1")
    first = matcher.steps
    if mode == "all":
        for _ in matcher.all(data, 0, len(data)):
            pass
    else:
        matcher.find(data, 0, len(data), mode)
    return matcher.steps - first


def growth(matcher: Matcher, mode: str, shape: tuple[str, str, str]) -> float:
    """
    @return: how many times as many steps four times as much takes; 1, where it is too
        few to be asked.
    """
    before, unit, behind = shape

    def of(times: int) -> int:
        return steps(matcher, mode, before + unit * times + behind)

    if of(_FEW) > _AWFUL:
        return float("inf")
    few = of(_SOME)
    if few <= _USUAL * (len(before) + len(unit) * _SOME):
        return 1.0
    some = of(4 * _SOME)
    if some <= MOST * few or some > 2 * _AWFUL:
        return some / few
    return of(16 * _SOME) / some


def worst(
    pattern: re.Pattern[Any], mode: str, most: int, examples: int = 0
) -> tuple[float, tuple[str, str, str]]:
    """
    @param most: see L{shapes}.
    @param examples: how many more are made up.
    @return: how many times as many steps four times as much takes, at worst, and
        with which shape; the first that is too many is enough.
    """
    matcher = Matcher(pattern)
    adversary = Adversary(matcher)
    found: tuple[float, tuple[str, str, str]] = (1.0, ("", "", ""))
    for shape in chain(shapes(adversary, most), _madeUp(adversary, examples)):
        found = max(found, (growth(matcher, mode, shape), shape))
        if found[0] > MOST:
            break
    return found


def _madeUp(adversary: Adversary, examples: int) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []

    def see(shape: tuple[str, str, str]) -> None:
        found.append(shape)

    if examples:
        pieces = st.sampled_from([*adversary.ones, *adversary.beginnings])
        units = st.lists(pieces, min_size=2, max_size=5).map("".join)
        ends = st.sampled_from(["", *adversary.ones])
        befores = st.lists(pieces, max_size=3).map("".join)
        setting = settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
        )
        setting(given(st.tuples(befores, units, ends))(see))()
    return found


def found() -> tuple[dict[tuple[re.Pattern[Any], str], list[str]], list[str]]:
    """
    @return: the patterns of the package with how they are used, each with its names;
        and what only a call can make.
    """
    names: dict[tuple[re.Pattern[Any], str], list[str]] = {}
    unknown = []
    for path, module, tree in _imported():
        uses = usesIn(tree)
        for name, value in vars(module).items():
            for pattern in _patternsIn(value, module.__name__):
                for mode in uses.get(name, {"fullmatch", "all"}):
                    names.setdefault((pattern, mode), []).append(f"{path} {name}")
        for pattern, mode, written in _written(module, tree):
            if pattern is None:
                unknown.append(f"{path} {written}")
            elif mode is not None:
                names.setdefault((pattern, mode), []).append(f"{path} {written}")
            elif not any(pattern == other for other, _ in names):
                for either in ("fullmatch", "all"):
                    names.setdefault((pattern, either), []).append(f"{path} {written}")
    return names, unknown


def _imported() -> Iterator[tuple[str, ModuleType, ast.Module]]:
    for _, path, tree in modules():
        name = path.removesuffix(".py").replace(os.sep, ".").removesuffix("__init__")
        yield path, importlib.import_module(f"deferrals.{name}".rstrip(".")), tree


def _patternsIn(value: Any, module: str) -> Iterator[re.Pattern[Any]]:
    """
    @return: those that a module's value is, or has.
    """
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, (list, tuple, set, frozenset)):
        for one in value:
            yield from _patternsIn(one, module)
    elif isinstance(value, dict):
        yield from _patternsIn([*value, *value.values()], module)
    elif isinstance(value, type) and value.__module__ == module:
        yield from (one for one in vars(value).values() if isinstance(one, re.Pattern))
    elif attrs.has(type(value)):
        slots = [getattr(value, field.name, None) for field in attrs.fields(type(value))]
        yield from (one for one in slots if isinstance(one, re.Pattern))


def usesIn(tree: ast.Module) -> dict[str, set[str]]:
    """
    @return: names of a module with how they are used; none that is used otherwise, too.
    """
    found: dict[str, set[str]] = {}
    known = set()
    for node in nodes(tree, ast.Attribute):
        if node.attr in (*MODES, "pattern", "flags"):
            for name in _either(node.value):
                known.add(name)
                found.setdefault(name.id, set()).add(MODES.get(node.attr, ""))
    given = _given(tree)
    for name in nodes(tree, ast.Name):
        if isinstance(name.ctx, ast.Load) and name not in known:
            parameter = given.get(name)
            if parameter in found:
                found.setdefault(name.id, set()).update(found[parameter])
            else:
                found[name.id] = {"fullmatch", "all"}
    return {name: modes - {""} for name, modes in found.items() if modes != {""}}


def _either(value: ast.expr) -> list[ast.Name]:
    """
    @return: the names that an expression is one of.
    """
    if isinstance(value, ast.IfExp):
        return [*_either(value.body), *_either(value.orelse)]
    return [value] if isinstance(value, ast.Name) else []


def _given(tree: ast.Module) -> dict[ast.expr, str]:
    """
    @return: what functions of a module are given in it, with the names they have for it.
    """
    functions = {one.name: one.args.args for one in nodes(tree, ast.FunctionDef)}
    return {
        value: parameter.arg
        for call in nodes(tree, ast.Call)
        if isinstance(call.func, ast.Name)
        for value, parameter in zip(call.args, functions.get(call.func.id, ()), strict=False)
    }


def _written(
    module: ModuleType, tree: ast.Module
) -> Iterator[tuple[re.Pattern[Any] | None, str | None, str]]:
    """
    @return: patterns that are written where they are used, or compiled, with how.
    """
    for call in nodes(tree, ast.Call):
        function = call.func
        if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)):
            continue
        if function.value.id != "re" or function.attr not in ("compile", *MODES):
            continue
        flags = [one.value for one in call.keywords if one.arg == "flags"]
        last = {"compile": 1, "sub": 4, "subn": 4, "split": 3}.get(function.attr, 2)
        words = [ast.unparse(one) for one in (call.args[0], *flags, *call.args[last : last + 1])]
        try:
            made = [eval(one, vars(module)) for one in words]
        except NameError:
            yield None, None, words[0]
        else:
            yield re.compile(*made), MODES.get(function.attr), words[0]
