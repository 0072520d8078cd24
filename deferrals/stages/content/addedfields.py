"""
How many fields, and how long, a service may put in front of a message: they
are kept for each recipient.
"""

from __future__ import annotations

from collections.abc import Iterable

from deferrals.errors import StageError
from deferrals.model.headertext import isFieldName

#: More fields than this are not taken over.
MAX_FIELDS = 100

#: All their names and values together.
MAX_FIELDS_OCTETS = 64 * 1024


def fitting(fields: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """
    @return: the first fields, as far as they may be taken over.
    @raise StageError: one of the names is none.
    """
    found: list[tuple[str, str]] = []
    octets = 0
    for name, value in fields:
        if not isFieldName(name):
            raise StageError(f"a header field cannot be called {name[:100]!r}")
        octets += len(name.encode("utf-8", "replace")) + len(value.encode("utf-8", "replace"))
        if len(found) == MAX_FIELDS or octets > MAX_FIELDS_OCTETS:
            break
        found.append((name, value))
    return tuple(found)
