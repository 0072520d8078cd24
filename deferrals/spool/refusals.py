"""
How a database has what was refused.
"""

from __future__ import annotations

import contextlib
import json

from deferrals.logger import Logger
from deferrals.model.refusal import Refusal

_log = Logger(namespace="deferrals.spool")


def readRefusal(text: str) -> Refusal | None:
    """
    A refusal as a database has it.

    @return: C{None} for what another program has put there; the log says so.
    """
    with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
        return Refusal.fromJSON(json.loads(text))
    _log.warn("a refusal cannot be read")
    return None
