"""
How long the tests run: short, so that a contributor does not wait; long where
C{DEFERRALS_RIGS=long} says so, as C{.ci/run} does.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TypeVar

from hypothesis import given, settings
from hypothesis.strategies import none

T = TypeVar("T")

VARIABLE = "DEFERRALS_RIGS"
LONG = os.environ.get(VARIABLE) == "long"

#: Of what is taken by its number, the short form has one in so many.
SHARE = 4


def rig(short: int, long: int) -> int:
    """
    @return: one of the two.
    """
    return long if LONG else short


def examples(long: int) -> int:
    """
    @return: how many examples of hypothesis's.
    """
    return rig(-(-long // SHARE), long)


def some(items: Iterable[T], share: int = SHARE) -> Sequence[T]:
    """
    @return: all of them, or in the short form one in C{share}.
    """
    return tuple(islice(items, 0, None, rig(share, 1)))


def keep() -> None:
    """
    What there is stays: the collector need not look through it again and again.
    """
    _once()  # hypothesis asks the collector who has what it keeps, the first time
    gc.collect()
    gc.freeze()


@settings(max_examples=1, database=None)
@given(none())
def _once(_: None) -> None:
    pass
