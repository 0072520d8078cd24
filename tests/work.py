"""
What something costs, counted instead of timed: no machine is too slow for a
test that counts.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any


def linesRun(function: Callable[..., Any], *args: Any) -> int:
    """
    @return: how many lines of Python a call runs, those of the libraries included.
    """
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()  # who listens to the collector (hypothesis does) runs lines, too
    sys.settrace(trace)
    try:
        function(*args)
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return count


def peakOctets(function: Callable[..., Any], *args: Any) -> int:
    """
    @return: how much memory a call has at once, beside what there was before.
    """
    tracemalloc.start()
    try:
        function(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
