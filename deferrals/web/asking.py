"""
What pages ask of the server: the same as operators do at its socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.web.template import Flattenable

from deferrals.model.json import JSON
from deferrals.web.layout import notice


@attrs.frozen
class ServerSaid:
    """
    An answer.

    @ivar missing: of several processes those that have not contributed, and why.
    """

    result: JSON
    missing: Mapping[int, str] = attrs.field(factory=dict)

    def remarks(self) -> list[Flattenable]:
        """
        Who is missing, for people.
        """
        return [
            notice(f"Worker {worker} {why}: what it has is not shown.", "wait")
            for worker, why in sorted(self.missing.items())
        ]


class Ask(Protocol):
    """
    Asks the server.
    """

    def __call__(self, name: str, *args: JSON) -> Deferred[ServerSaid]:
        """
        See L{Operator.call<deferrals.operator.control.Operator.call>}.
        """


def text(one: Mapping[str, JSON], key: str) -> str:
    """
    A text of an answer; empty, where there is none.
    """
    found = one.get(key)
    return "" if found is None else str(found)
