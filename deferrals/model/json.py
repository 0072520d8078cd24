"""
What JSON has; and what one knows of it that another process of this server has said.
"""

from __future__ import annotations

from typing import TypeAlias

JSON: TypeAlias = (
    "bool | int | float | str | list[JSON] | tuple[JSON, ...] | dict[str, JSON] | None"
)


def asObject(value: JSON) -> dict[str, JSON]:
    """
    @return: C{value}, which is one.
    """
    assert isinstance(value, dict), value
    return value


def asList(value: JSON) -> list[JSON]:
    """
    @return: the elements of C{value}, which is one.
    """
    assert isinstance(value, list | tuple), value
    return [*value]


def asInteger(value: JSON) -> int:
    """
    @return: C{value}, which is one.
    """
    assert isinstance(value, int), value
    return value


def asNumber(value: JSON) -> float:
    """
    @return: C{value}, which is one.
    """
    assert isinstance(value, int | float), value
    return value
