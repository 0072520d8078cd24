"""
What JSON has.
"""

from __future__ import annotations

from typing import TypeAlias

JSON: TypeAlias = (
    "bool | int | float | str | list[JSON] | tuple[JSON, ...] | dict[str, JSON] | None"
)
