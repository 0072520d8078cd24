"""
Servers that keep failing under an extension: the client remembers them, and
does without it there for a while (D-26).

A problem is a connection that breaks, or a protocol that is broken, behind the
data of a message sent under the extension; or a server that refuses the very
parameter that it has offered.  A message that gets its answers clears the
record.  Kept in memory: after a restart a server has another chance.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import attrs

from deferrals.model.envelope import Form

#: So many problems in a row are excessive.
MAX_PROBLEMS = 3

#: How long a server is spared then, in seconds.
SPARED_SECONDS = 86400.0

#: How many servers are remembered; the ones that were met last.
MAX_SERVERS = 10_000


@attrs.define
class _Record:
    problems: int = 0
    until: float = 0.0
    reason: str = ""


class Misgivings:
    """
    What is remembered of all servers.
    """

    def __init__(self) -> None:
        self._records: OrderedDict[tuple[str, Form], _Record] = OrderedDict()

    def without(self, server: str, forms: Sequence[Form], now: float) -> list[Form]:
        """
        Those of C{forms} that may be used with a server.

        @param now: seconds since the epoch.
        """
        return [form for form in forms if not self._spares(server, form, now)]

    def _spares(self, server: str, form: Form, now: float) -> bool:
        record = self._records.get((server, form))
        if record is None or record.until == 0.0:
            return False
        if now >= record.until:
            del self._records[server, form]
            return False
        return True

    def problem(self, server: str, form: Form, reason: str, now: float) -> bool:
        """
        Something went wrong under an extension.

        @return: whether the server is done without it from now on.
        """
        record = self._records.setdefault((server, form), _Record())
        self._records.move_to_end((server, form))
        while len(self._records) > MAX_SERVERS:
            self._records.popitem(last=False)
        record.problems += 1
        record.reason = reason
        if record.problems < MAX_PROBLEMS or record.until:
            return False
        record.until = now + SPARED_SECONDS  # D-26
        return True

    def success(self, server: str, form: Form) -> None:
        """
        It went well.
        """
        self._records.pop((server, form), None)

    def describe(self, now: float) -> list[dict[str, Any]]:
        """
        For the status: which servers are used without which extension.
        """
        return [
            {
                "server": server,
                "without": form.name,
                "seconds": round(record.until - now),
                "reason": record.reason,
            }
            for (server, form), record in self._records.items()
            if record.until > now
        ]
