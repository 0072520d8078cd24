"""
The records in the pages of a SQLite database, read without SQLite.  What is
damaged is left out; whatever a page holds, nothing here raises for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeAlias

import attrs

from deferrals.spool.sqlite.pages import INDEX_INNER, INDEX_LEAF, TABLE_INNER, TABLE_LEAF, TREE

#: What a column holds.
Value: TypeAlias = str | bytes | int | float | None

#: Longer records, or more in one page, are none of ours.
MOST_OCTETS = 16 << 20

#: Columns of a record at most: none of our tables has more.
MOST_COLUMNS = 64

_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


@attrs.frozen
class Cell:
    """
    A part of a page in a tree.

    @ivar child: the number of the page with what is before it; 0 in a leaf.
    @ivar row: the row's number, in a table.
    @ivar record: its columns, as far as they can be read; C{None} where they
        cannot.
    """

    child: int
    row: int
    record: tuple[Value, ...] | None


@attrs.frozen
class TreePage:
    """
    A page in a tree.

    @ivar kind: its first octet.
    @ivar cells: those that can be read.
    @ivar bad: how many cannot.
    @ivar last: the number of the page with what is behind all cells; 0 in a leaf.
    """

    kind: int
    cells: list[Cell]
    bad: int
    last: int


#: Returns a page by its number; empty where there is none.
Get = Callable[[int], bytes]


def varint(octets: bytes, at: int) -> tuple[int, int]:
    """
    @return: a number of variable length, and where the next thing begins.
    @raise ValueError: it goes beyond the end.
    """
    value = 0
    for count in range(9):
        if at + count >= len(octets):
            raise ValueError("cut")
        octet = octets[at + count]
        if count == 8:
            value = value << 8 | octet
            return (value - (1 << 64) if value >= 1 << 63 else value), at + 9
        value = value << 7 | octet & 0x7F
        if octet < 0x80:
            return value, at + count + 1
    raise AssertionError("not reached")


def treePage(page: bytes, usable: int, get: Get, start: int = 0) -> TreePage | None:
    """
    @param start: where its header is: 100 in the first page of a file.
    @return: C{None} where it cannot be one.
    """
    if len(page) < start + 12 or page[start] not in TREE:
        return None
    kind = page[start]
    isInner = kind in (INDEX_INNER, TABLE_INNER)
    count = int.from_bytes(page[start + 3 : start + 5], "big")
    pointers = start + (12 if isInner else 8)
    if pointers + 2 * count > usable:
        return None
    last = int.from_bytes(page[start + 8 : start + 12], "big") if isInner else 0
    cells, bad, left = list[Cell](), 0, MOST_OCTETS
    for place in range(pointers, pointers + 2 * count, 2):
        at = int.from_bytes(page[place : place + 2], "big")
        try:
            if not pointers + 2 * count <= at < usable:
                raise ValueError("outside")
            cell, length = _cell(page, at, kind, usable, get, left)
            cells.append(cell)
            left -= length
        except ValueError:
            bad += 1
    return TreePage(kind, cells, bad, last)


def _cell(page: bytes, at: int, kind: int, usable: int, get: Get, most: int) -> tuple[Cell, int]:
    """
    @return: a cell, and how long its record is.
    """
    child = row = 0
    if kind in (INDEX_INNER, TABLE_INNER):
        child, at = int.from_bytes(page[at : at + 4], "big"), at + 4
    if kind == TABLE_INNER:
        row, at = varint(page, at)
        return Cell(child, row, None), 0
    length, at = varint(page, at)
    if kind == TABLE_LEAF:
        row, at = varint(page, at)
    if not 0 < length <= most:
        raise ValueError("too long")
    try:
        record = decoded(_payload(page, at, length, kind, usable, get))
    except ValueError:
        if not child:
            raise
        record = None
    return Cell(child, row, record), length


def _payload(page: bytes, at: int, length: int, kind: int, usable: int, get: Get) -> bytes:
    """
    All octets of a record, with those that are in pages of their own.
    """
    isTable = kind == TABLE_LEAF
    most = usable - 35 if isTable else (usable - 12) * 64 // 255 - 23
    least = (usable - 12) * 32 // 255 - 23
    local = length
    if length > most:
        local = least + (length - least) % (usable - 4)
        local = local if local <= most else least
    if at + local + (4 if local < length else 0) > usable:
        raise ValueError("outside")
    parts, found = [page[at : at + local]], local
    number = int.from_bytes(page[at + local : at + local + 4], "big") if local < length else 0
    while found < length:
        more = get(number)
        if not more:
            raise ValueError("a page is missing")
        number = int.from_bytes(more[:4], "big")
        parts.append(more[4 : min(usable, 4 + length - found)])
        found += len(parts[-1])
    return b"".join(parts)


def decoded(payload: bytes) -> tuple[Value, ...]:
    """
    @return: the columns of a record.
    @raise ValueError: it is damaged.
    """
    size, at = varint(payload, 0)
    if not at <= size <= len(payload):
        raise ValueError("its header is damaged")
    values: list[Value] = []
    body = size
    while at < size:
        serial, at = varint(payload, at)
        value, body = _value(payload, body, serial)
        values.append(value)
        if len(values) > MOST_COLUMNS:
            raise ValueError("too many columns")
    if at != size or body != len(payload):
        raise ValueError("its length is wrong")
    return tuple(values)


def _value(payload: bytes, at: int, serial: int) -> tuple[Value, int]:
    if serial == 0:
        return None, at
    if serial in (8, 9):
        return serial - 8, at
    if serial in _INTEGERS or serial == 7:
        end = at + _INTEGERS.get(serial, 8)
    elif serial >= 12:
        end = at + (serial - 12) // 2
    else:
        raise ValueError("no such kind of value")
    octets = payload[at:end]
    if end > len(payload):
        raise ValueError("cut")
    if serial == 7:
        (real,) = struct.unpack(">d", octets)
        return float(real), end
    if serial < 12:
        return int.from_bytes(octets, "big", signed=True), end
    return (octets.decode("utf-8") if serial % 2 else octets), end


__all__ = ["INDEX_LEAF", "Cell", "Get", "TreePage", "Value", "decoded", "treePage", "varint"]
