"""
How many steps a regular expression takes: the standard library's own parse
tree, run by a backtracking matcher that counts what it tries.

It does as C{sre} does, without its short cuts, so that it counts more than
that does, never less; C{tests/test_growth.py} compares what both find.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

_parser: Any = re._parser  # type: ignore[attr-defined]
_codes: Any = re._constants  # type: ignore[attr-defined]

_SPACE = set(map(ord, " \t\n\r\f\v"))
_ENDLESS = int(_codes.MAXREPEAT)


class Matcher:
    """
    One pattern.

    @ivar steps: what it has tried so far.
    """

    def __init__(self, pattern: re.Pattern[Any]) -> None:
        self._isText = isinstance(pattern.pattern, str)
        self._flags = pattern.flags
        self._tree = list(_parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG))
        self._data: Any = b""
        self._end = 0
        self._spans: dict[int, tuple[int, int]] = {}
        self.steps = 0

    def find(
        self, data: Any, position: int, end: int, mode: str, notEmptyAt: int = -1
    ) -> tuple[int, int] | None:
        """
        @param mode: C{"match"}, C{"fullmatch"} or C{"search"}.
        @param notEmptyAt: an empty match there is none.
        @return: where it matches.
        """
        self._data, self._end = data, end
        for start in range(position, end + 1 if mode == "search" else position + 1):
            self.steps += 1
            self._spans = {}
            for stop in self._sequence(self._tree, 0, start):
                if mode == "fullmatch" and stop != end:
                    continue
                if start == stop == notEmptyAt:
                    continue
                return start, stop
        return None

    def all(self, data: Any, position: int, end: int) -> Iterator[tuple[int, int]]:
        """
        @return: all matches, as C{finditer} has them.
        """
        last = -1
        while position <= end:
            found = self.find(data, position, end, "search", last)
            if found is None:
                return
            yield found
            position = found[1]
            last = position if found[0] == position else -1

    def _sequence(self, items: Any, index: int, position: int) -> Iterator[int]:
        if index == len(items):
            yield position
            return
        code, argument = items[index]
        for stop in self._item(code, argument, position):
            yield from self._sequence(items, index + 1, stop)

    def _item(self, code: Any, argument: Any, position: int) -> Iterator[int]:
        self.steps += 1
        test = self._single(code, argument)
        if test is not None:
            if position < self._end and test(self._char(position)):
                yield position + 1
        elif code is _codes.AT:
            if self._at(argument, position):
                yield position
        elif code is _codes.SUBPATTERN:
            group, _, _, inner = argument
            for stop in self._sequence(list(inner), 0, position):
                self._spans[group] = (position, stop)
                yield stop
        elif code is _codes.BRANCH:
            for inner in argument[1]:
                yield from self._sequence(list(inner), 0, position)
        elif code in (_codes.ASSERT, _codes.ASSERT_NOT):
            direction, inner = argument
            start = position if direction > 0 else position - inner.getwidth()[0]
            found = start >= 0 and next(self._sequence(list(inner), 0, start), None) is not None
            if found == (code is _codes.ASSERT):
                yield position
        elif code is _codes.ATOMIC_GROUP:
            stop = next(self._sequence(list(argument), 0, position), None)
            if stop is not None:
                yield stop
        elif code is _codes.GROUPREF:
            start, stop = self._spans.get(argument, (0, 0))
            piece = self._data[start:stop]
            if self._data[position : position + len(piece)] == piece:
                yield position + len(piece)
        else:
            yield from self._repeat(code, argument, position)

    def _repeat(self, code: Any, argument: Any, position: int) -> Iterator[int]:
        least, most, inner = argument
        most = self._end - position + least + 1 if most == _ENDLESS else most
        items = list(inner)
        test = self._single(*items[0]) if len(items) == 1 else None
        if test is not None:
            stops = self._run(test, position, most)
            if code is _codes.MIN_REPEAT:
                for stop in range(position + least, stops + 1):
                    self.steps += 1
                    yield stop
                return
            for stop in range(stops, position + least - 1, -1):
                self.steps += 1
                yield stop
                if code is _codes.POSSESSIVE_REPEAT:
                    return
        elif code is _codes.POSSESSIVE_REPEAT:
            count = 0
            while count < most:
                stop = next(self._sequence(items, 0, position), None)
                if stop is None or (stop == position and count >= least):
                    break
                position, count = stop, count + 1
            if count >= least:
                yield position
        else:
            yield from self._times(code, items, least, most, 0, position)

    def _times(
        self, code: Any, items: Any, least: int, most: int, count: int, position: int
    ) -> Iterator[int]:
        self.steps += 1
        isLazy = code is _codes.MIN_REPEAT
        if isLazy and count >= least:
            yield position
        if count < most:
            for stop in self._sequence(items, 0, position):
                if stop > position or count < least:
                    yield from self._times(code, items, least, most, count + 1, stop)
        if not isLazy and count >= least:
            yield position

    def _run(self, test: Callable[[int], bool], position: int, most: int) -> int:
        stop, limit = position, min(self._end, position + most)
        while stop < limit and test(self._char(stop)):
            self.steps += 1
            stop += 1
        return stop

    def _char(self, position: int) -> int:
        char = self._data[position]
        return ord(char) if self._isText else int(char)

    def _single(self, code: Any, argument: Any) -> Callable[[int], bool] | None:
        """
        The test for an item that is one character wide.
        """
        if code is _codes.LITERAL:
            return lambda char: self._same(char, argument)
        if code is _codes.NOT_LITERAL:
            return lambda char: not self._same(char, argument)
        if code is _codes.ANY:
            return lambda char: bool(self._flags & re.S) or char != 10
        if code is _codes.IN:
            return lambda char: self._isIn(argument, char)
        return None

    def _same(self, char: int, other: int) -> bool:
        if self._flags & re.I:
            return chr(char).lower() == chr(other).lower()
        return char == other

    def _isIn(self, items: Any, char: int) -> bool:
        negated = items[0][0] is _codes.NEGATE
        either = {char}
        if self._flags & re.I:
            either |= {ord(one) for one in (chr(char).lower(), chr(char).upper()) if len(one) == 1}
        return negated != any(self._isOne(item, one) for item in items for one in either)

    def _isOne(self, item: Any, char: int) -> bool:
        code, argument = item
        if code is _codes.LITERAL:
            return bool(char == argument)
        if code is _codes.RANGE:
            return bool(argument[0] <= char <= argument[1])
        return code is _codes.CATEGORY and self._isOf(argument, char)

    def _isOf(self, category: Any, char: int) -> bool:
        ascii_ = not self._isText or bool(self._flags & re.A)
        name = str(category).rpartition("_")[2]
        text = chr(char)
        if name == "DIGIT":
            found = text.isdecimal() and (text.isascii() or not ascii_)
        elif name == "SPACE":
            found = char in _SPACE if ascii_ else text.isspace()
        else:
            found = text == "_" or (text.isalnum() and (text.isascii() or not ascii_))
        return found != ("NOT" in str(category))

    def _at(self, where: Any, position: int) -> bool:
        isMultiline = bool(self._flags & re.M)
        if where in (_codes.AT_BEGINNING, _codes.AT_BEGINNING_STRING):
            if position == 0:
                return True
            isLine = isMultiline and where is _codes.AT_BEGINNING
            return isLine and self._char(position - 1) == 10
        if where is _codes.AT_END_STRING:
            return position == self._end
        if where is _codes.AT_END:
            if position == self._end or (isMultiline and self._char(position) == 10):
                return True
            return position == self._end - 1 and self._char(position) == 10
        around = [
            0 <= one < self._end and self._isOf(_codes.CATEGORY_WORD, self._char(one))
            for one in (position - 1, position)
        ]
        return (around[0] != around[1]) == (where is _codes.AT_BOUNDARY)
