"""
Addresses in paths.
"""

from __future__ import annotations

import urllib.parse

from deferrals.model.address import comparable

_SAFE = "+=@!#$&^`{|}~"


def pathPart(text: str) -> str:
    """
    One component of a path, that can be nothing else.
    """
    if not text:
        return "%"  # the local part "": not the directory of all the others
    quoted = urllib.parse.quote(comparable(text), safe=_SAFE)
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted
