"""
What a test claims.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T", bound=Callable[..., object])


def requirement(name: str) -> Callable[[_T], _T]:
    """
    The test proves one requirement of C{docs/requirements.md}, which is made from
    these marks.  In a dialogue the line C{# requirement: D-19} says the same.

    @param name: such as C{"D-19"}.
    """
    del name  # docs/generate.py reads it
    return lambda test: test
