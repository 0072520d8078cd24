"""
How many steps a regular expression takes: the standard library's own parse
tree, run by a backtracking matcher that counts what it tries.

It does as C{sre} does, without its short cuts, so that it counts more than
that does, never less; C{tests/test_growth.py} compares what both find.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

_parser: Any = re._parser  # type: ignore[attr-defined]
_codes: Any = re._constants  # type: ignore[attr-defined]

_SPACE = set(map(ord, " \t\n\r\f\v"))
_ENDLESS = int(_codes.MAXREPEAT)


#: Where an item, or several, may end that begin at a place.
Ends = Callable[[int], Iterable[int]]


class Members(dict[Any, bool]):
    """
    Which characters an item of one character takes: each is looked at once.
    """

    def __init__(self, takes: Callable[[Any], bool]) -> None:
        self._takes = takes

    def __missing__(self, char: Any) -> bool:
        found = self[char] = self._takes(char)
        return found


class Matcher:
    """
    One pattern, as functions of a place that give the places behind it.

    @ivar isText: whether it is one of text.
    @ivar classes: what its items of one character take.
    @ivar tree: its items.
    @ivar steps: what it has tried so far.
    """

    def __init__(self, pattern: re.Pattern[Any]) -> None:
        self.isText = isinstance(pattern.pattern, str)
        self._flags = int(pattern.flags)
        self._data: Any = b""
        self._end = 0
        self._spans: dict[int, tuple[int, int]] = {}
        self.steps = 0
        self.classes: list[Members] = []
        self.tree = list(_parser.parse(pattern.pattern, self._flags & ~int(re.DEBUG)))
        self._whole = self._sequence(self.tree)

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
            for stop in self._whole(start):
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

    def _sequence(self, items: Any) -> Ends:
        if not items:
            return lambda position: (position,)
        first = self._item(*items[0])
        return first if len(items) == 1 else self._then(first, self._sequence(items[1:]))

    def _then(self, first: Ends, rest: Ends) -> Ends:
        def ends(position: int) -> Iterator[int]:
            for stop in first(position):
                yield from rest(stop)

        return ends

    def _item(self, code: Any, argument: Any) -> Ends:
        ends = self._ends(code, argument)

        def counted(position: int) -> Iterable[int]:
            self.steps += 1
            return ends(position)

        return counted

    def _ends(self, code: Any, argument: Any) -> Ends:
        members = self.members(code, argument)
        if members is not None:
            return self._one(members)
        if code is _codes.AT:
            return lambda position: (position,) if self._at(argument, position) else ()
        if code is _codes.SUBPATTERN:
            return self._group(argument[0], self._sequence(list(argument[3])))
        if code is _codes.BRANCH:
            either = [self._sequence(list(inner)) for inner in argument[1]]
            return lambda position: chain.from_iterable(ends(position) for ends in either)
        if code in (_codes.ASSERT, _codes.ASSERT_NOT):
            return self._around(code, *argument)
        if code is _codes.ATOMIC_GROUP:
            inner = self._sequence(list(argument))
            return lambda position: islice(inner(position), 1)
        if code is _codes.GROUPREF:
            return self._again(argument)
        return self._repeat(code, *argument)

    def _one(self, members: Members) -> Ends:
        self.classes.append(members)

        def ends(position: int) -> Iterable[int]:
            isIn = position < self._end and members[self._data[position]]
            return (position + 1,) if isIn else ()

        return ends

    def _group(self, group: int | None, inner: Ends) -> Ends:
        if group is None:
            return inner

        def ends(position: int) -> Iterator[int]:
            for stop in inner(position):
                self._spans[group] = (position, stop)
                yield stop

        return ends

    def _around(self, code: Any, direction: int, items: Any) -> Ends:
        inner, width = self._sequence(list(items)), items.getwidth()[0]

        def ends(position: int) -> Iterable[int]:
            start = position if direction > 0 else position - width
            found = start >= 0 and next(iter(inner(start)), None) is not None
            return (position,) if found == (code is _codes.ASSERT) else ()

        return ends

    def _again(self, group: int) -> Ends:
        def ends(position: int) -> Iterable[int]:
            start, stop = self._spans.get(group, (0, 0))
            piece = self._data[start:stop]
            isThere = self._data[position : position + len(piece)] == piece
            return (position + len(piece),) if isThere else ()

        return ends

    def _repeat(self, code: Any, least: int, most: int, inner: Any) -> Ends:
        items = list(inner)
        members = self.members(*items[0]) if len(items) == 1 else None
        if members is not None:
            return self._run(code, members, least, most)
        once = self._sequence(items)
        if code is _codes.POSSESSIVE_REPEAT:
            return lambda position: self._possessed(once, least, most, position)
        isLazy = code is _codes.MIN_REPEAT
        return lambda position: self._times(isLazy, once, least, most, 0, position)

    def _run(self, code: Any, members: Members, least: int, most: int) -> Ends:
        """
        As many characters as there are.
        """
        self.classes.append(members)

        def ends(position: int) -> Iterable[int]:
            stop, limit = position, min(self._end, position + most)
            while stop < limit and members[self._data[stop]]:
                stop += 1
            self.steps += stop - position
            return self._each(code, position + least, stop)

        return ends

    def _each(self, code: Any, first: int, last: int) -> Iterator[int]:
        isLazy = code is _codes.MIN_REPEAT
        for stop in range(first, last + 1) if isLazy else range(last, first - 1, -1):
            self.steps += 1
            yield stop
            if code is _codes.POSSESSIVE_REPEAT:
                return

    def _possessed(self, once: Ends, least: int, most: int, position: int) -> Iterator[int]:
        count = 0
        while count < most:
            stop = next(iter(once(position)), None)
            if stop is None or (stop == position and count >= least):
                break
            position, count = stop, count + 1
        if count >= least:
            yield position

    def _times(
        self, isLazy: bool, once: Ends, least: int, most: int, count: int, position: int
    ) -> Iterator[int]:
        self.steps += 1
        if isLazy and count >= least:
            yield position
        if count < most:
            for stop in once(position):
                if stop > position or count < least:
                    yield from self._times(isLazy, once, least, most, count + 1, stop)
        if not isLazy and count >= least:
            yield position

    def members(self, code: Any, argument: Any) -> Members | None:
        """
        What an item takes that is one character wide.
        """
        if code is _codes.LITERAL:
            takes = lambda char: self._same(char, argument)  # noqa: E731
        elif code is _codes.NOT_LITERAL:
            takes = lambda char: not self._same(char, argument)  # noqa: E731
        elif code is _codes.ANY:
            takes = lambda char: bool(self._flags & int(re.S)) or char != 10  # noqa: E731
        elif code is _codes.IN:
            takes = lambda char: self._isIn(argument, char)  # noqa: E731
        else:
            return None
        return Members((lambda char: takes(ord(char))) if self.isText else takes)

    def _char(self, position: int) -> int:
        char = self._data[position]
        return ord(char) if self.isText else int(char)

    def _same(self, char: int, other: int) -> bool:
        if self._flags & int(re.I):
            return chr(char).lower() == chr(other).lower()
        return char == other

    def _isIn(self, items: Any, char: int) -> bool:
        negated = items[0][0] is _codes.NEGATE
        either = {char}
        if self._flags & int(re.I):
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
        ascii_ = not self.isText or bool(self._flags & int(re.A))
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
        isMultiline = bool(self._flags & int(re.M))
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
