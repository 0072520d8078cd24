"""
How long the rigs run: short, so that a contributor waits for less than two
minutes; long where C{DEFERRALS_RIGS=long} says so, as C{.ci/run} does.
"""

from __future__ import annotations

import os

LONG = os.environ.get("DEFERRALS_RIGS") == "long"


def rig(short: int, long: int) -> int:
    """
    @return: one of the two.
    """
    return long if LONG else short
