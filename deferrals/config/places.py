"""
Where in a file a key stands, so that an operator finds what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from deferrals.errors import ConfigError

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"\s*([\w.\-\"' ]+?)\s*=")
_PART = re.compile(r"[^.\[\]]+|\[\d+\]")


def described(error: ConfigError) -> str:
    """
    @return: a line for each problem, with the line of the file that it is about.
    """
    text = _textOf(error.path)
    lines = str(error).split("\n")
    if text is None or len(lines) != len(error.problems):
        return str(error)
    found = []
    for line, (key, _) in zip(lines, error.problems, strict=True):
        number = lineOf(text, key) if key else None
        found.append(line if number is None else f"{line} (line {number})")
    return "\n".join(found)


def _textOf(path: str | None) -> str | None:
    try:
        with open(path or "", encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return None


def lineOf(text: str, key: str) -> int | None:
    """
    @param text: TOML.
    @param key: as problems name it: C{policies.strict.content[0].url}.
    @return: the number of the line on which it stands, or what has it: the table, or
        the key whose value it is a part of; C{None}, where none of it stands there.
    """
    wanted = _PART.findall(key)
    best, depth = None, 0
    for number, parts in _places(text):
        common = min(len(parts), len(wanted))
        if parts[:common] == wanted[:common] and common > depth:
            best, depth = number, common
    return best


def _places(text: str) -> Iterator[tuple[int, list[str]]]:
    """
    Each line that begins a table or a value, with its key, in parts.
    """
    table: list[str] = []
    counts: dict[str, int] = {}
    quotes = ""
    for number, line in enumerate(text.split("\n"), 1):
        if quotes:
            quotes = "" if quotes in line else quotes
            continue
        header, key = _HEADER.match(line), _KEY.match(line)
        if header is not None:
            table = _parts(header[2], counts)
            if header[1] == "[[":
                name = ".".join(table)
                counts[name] = counts.get(name, -1) + 1
                table = [*table, f"[{counts[name]}]"]
            yield number, table
        elif key is not None:
            yield number, [*table, *_parts(key[1], {})]
        quotes = next((one for one in ('"""', "'''") if line.count(one) == 1), "")


def _parts(dotted: str, counts: dict[str, int]) -> list[str]:
    """
    @param counts: how many tables each array has so far, less one: within a longer
        name, that of an array is its last table.
    """
    names = [part.strip("\"'") for part in re.split(r"\s*\.\s*", dotted)]
    found: list[str] = []
    for end, name in enumerate(names, 1):
        found.append(name)
        array = ".".join(names[:end])
        if array in counts and end < len(names):
            found.append(f"[{counts[array]}]")
    return found
