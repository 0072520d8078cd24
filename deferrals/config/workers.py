"""
How many processes a server is.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from deferrals.config.tables import Config

    # For a program it is a number; the name tells what a configuration may write.
    Workers = int
else:
    #: A number of processes, or C{"auto"}: as many as there are processors for this one.
    Workers = NewType("Workers", int)

#: A server may be so many processes.
MOST = 64

#: What is bound once and used by several processes.
_ENDPOINT = re.compile(r"(haproxy:)?(tcp6?|unix|systemd):")


def parseWorkers(value: object) -> Workers:
    """
    @raise ValueError: it is no number of processes.
    """
    if value == "auto":
        return Workers(min(MOST, len(os.sched_getaffinity(0))))
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        raise ValueError(f'a number from 1 to {MOST}, or "auto"')
    return Workers(value)


def endpointProblems(config: Config) -> list[tuple[str, str]]:
    """
    @return: the listeners that several processes cannot share.
    """
    if config.workers == 1:
        return []
    kinds = "tcp:, tcp6:, unix:, systemd:, perhaps behind haproxy:"
    what = f"expected {kinds}, with workers = {config.workers}"
    return [
        (f"listen[{index}].endpoint", what)
        for index, listener in enumerate(config.listen)
        if not _ENDPOINT.match(listener.endpoint)
    ]
