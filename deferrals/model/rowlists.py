"""
Lists in a row of a table: senders, addresses that mail is forwarded to, members of an
alias.

A list is one of JSON, or text.  In text, commas, blanks and line ends part one from the
next.  Quotes keep blanks and commas, in a name (C{"a b"@example.org}) and around one.
C{Anna A. <a@example.org>} is C{a@example.org}.  What is in parentheses, and a line that
begins with C{#}, is a comment.  What might be meant in two ways is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice

from deferrals.model.json import JSON

#: More in one list are none.
MAX_LISTED = 10_000

_PART = re.compile(
    r'(?P<word>(?:"(?:[^"\\]|\\.)*"|\\.|[^\s",()<>\\])+)'
    r"|<(?P<address>[^<>]*)>(?=[\s,(]|\Z)"
    r"|(?P<comma>,)"
    r"|\s+|\((?:[^()\\]|\\.)*\)"
    r"|(?P<odd>.)",
    re.S,
)

#: What has one of these, outside quotes, is no part of a person's name.
_OF_ADDRESSES = re.compile(r"[@*{]")


def listed(value: JSON) -> Sequence[str]:
    """
    @return: what is in a list, one by one; nothing where there is none.
    @raise ValueError: it is no list; the text says what was expected.
    """
    found = list(islice(_all(value), MAX_LISTED + 1))
    if len(found) > MAX_LISTED:
        raise ValueError(f"expected a list of at most {MAX_LISTED}")
    return found


def _all(value: JSON) -> Iterator[str]:
    for text in _texts(value):
        for line in text.split("\n"):
            if not line.lstrip().startswith("#"):
                yield from _inLine(line)


def _texts(value: JSON) -> Iterator[str]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _fromJSON(value)
    for one in () if value is None else value if isinstance(value, list | tuple) else (value,):
        if not isinstance(one, str):
            raise ValueError("expected text, or a list of texts")
        yield one


def _fromJSON(text: str) -> JSON:
    try:
        found: JSON = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("expected a list of JSON, or text") from None
    return found


def _inLine(line: str) -> Iterator[str]:
    words: list[str] = []  # they may be a name, of which the address follows
    for part in _PART.finditer(line):
        if part["odd"]:
            raise ValueError(f"expected the other one of {part['odd']}")
        if part["word"]:
            words.append(part["word"])
        elif part["comma"]:
            yield from words
            words = []
        elif part["address"] is not None:
            yield _named(words, part["address"].strip())
            words = []
    yield from words


def _named(words: Sequence[str], address: str) -> str:
    """
    @param words: stand before an address in brackets.
    @raise ValueError: they are no person's name, or there is no address.
    """
    if not address:
        raise ValueError("expected an address within <>")
    if any(_OF_ADDRESSES.search(word.rpartition('"')[2]) for word in words):
        raise ValueError(f"expected a comma before the name of <{address[:100]}>")
    return address
