"""
What an operator can see of a running server: counters, and what each part says
of itself.  Kept in memory, and gone with the process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any


class Status:
    """
    One per server; handed to each part that has something to tell.
    """

    def __init__(self) -> None:
        self._counters: dict[str, Counter[str]] = {}
        self._parts: dict[str, Callable[[], Any]] = {}

    def count(self, name: str, kind: str, by: int = 1) -> None:
        """
        Something has happened.

        @param name: what is counted, e.g. C{"transactions"}.
        @param kind: which kind of it, e.g. C{"prdr"}.
        """
        self._counters.setdefault(name, Counter())[kind] += by

    def counted(self, name: str, kind: str) -> int:
        """
        How often it has happened.
        """
        return self._counters.get(name, Counter())[kind]

    def show(self, part: str, describe: Callable[[], Any]) -> None:
        """
        A part of the server says what state it is in.

        @param part: its name, e.g. C{"rspamd http://127.0.0.1:11333"}; the last
            one to use a name counts.
        @param describe: returns what JSON can carry.
        """
        self._parts[part] = describe

    def snapshot(self) -> dict[str, Any]:
        """
        Everything, as JSON can carry it.
        """
        return {
            "counters": {name: dict(kinds) for name, kinds in self._counters.items()},
            "parts": {part: describe() for part, describe in self._parts.items()},
        }
