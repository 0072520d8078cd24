"""
Servers that keep failing under an extension: the client remembers them, and
does without it there for a while (D-26).

A problem is a connection that breaks, or a protocol that is broken, behind the
data of a message sent under the extension; or a server that refuses the very
parameter that it has offered.  A message that gets its answers clears the
record.  Kept in memory: after a restart a server has another chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from cachetools import LRUCache

from deferrals.model.backoff import Backoff
from deferrals.model.envelope import Form

#: So many problems in a row are excessive.
MAX_PROBLEMS = 3

#: How long a server is spared then, in seconds.
SPARED_SECONDS = 86400.0

#: How many servers are remembered; the ones that were met last.
MAX_SERVERS = 10_000


@attrs.define
class _Downgrade:
    backoff: Backoff = attrs.field(
        factory=lambda: Backoff(MAX_PROBLEMS, SPARED_SECONDS, SPARED_SECONDS)
    )
    reason: str = ""


class Downgrades:
    """
    What is remembered of all servers.
    """

    def __init__(self) -> None:
        self._records: LRUCache[tuple[str, Form], _Downgrade] = LRUCache(MAX_SERVERS)

    def without(self, server: str, forms: Sequence[Form], now: float) -> list[Form]:
        """
        Those of C{forms} that may be used with a server.

        @param now: seconds of any clock, as long as it is the same one.
        """
        return [form for form in forms if not self._spares(server, form, now)]

    def _spares(self, server: str, form: Form, now: float) -> bool:
        record = self._records.get((server, form))
        if record is None or not record.backoff.isTroubled:
            return False
        if record.backoff.remaining(now) > 0:
            return True
        del self._records[server, form]  # it starts anew, with all its chances
        return False

    def problem(self, server: str, form: Form, reason: str, now: float) -> bool:
        """
        Something went wrong under an extension.

        @return: whether the server is done without it from now on.
        """
        record = self._records.setdefault((server, form), _Downgrade())
        record.reason = reason
        return record.backoff.failed(now) is not None  # D-26

    def success(self, server: str, form: Form) -> None:
        """
        It went well.
        """
        self._records.pop((server, form), None)

    def describe(self, now: float) -> list[dict[str, object]]:
        """
        For the status: which servers are used without which extension.
        """
        return [
            {
                "server": server,
                "without": form.name,
                "seconds": round(record.backoff.remaining(now)),
                "reason": record.reason,
            }
            for (server, form), record in self._records.items()
            if record.backoff.remaining(now) > 0
        ]
