"""
What settings classes are made of: numbers with a unit, as configurations write
them (C{30}, C{"5m"}, C{"10M"}), and validators that say which key is wrong.
"""

from __future__ import annotations

import enum
import math
import re
import string
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NewType

import attrs

__all__ = ["Octets", "Seconds", "TableName", "checked", "positive"]

if TYPE_CHECKING:
    # For a program these are numbers; the names tell what a configuration may write.
    Seconds = float
    Octets = int
else:
    #: A time span: a number of seconds, or text such as C{"30s"}, C{"5m"}, C{"1h 30m"}, C{"5d"}.
    Seconds = NewType("Seconds", float)

    #: A size: a number of octets, or text such as C{"512K"}, C{"10M"}, C{"2G"} (powers of 1024).
    Octets = NewType("Octets", int)


class TableName(str):
    """
    What a setting names one of C{[tables]} by: a configuration without it is none.
    """


_SPAN = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parseSeconds(value: object) -> Seconds:
    """
    @raise ValueError: it is no time span.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return Seconds(float(value))
    words = value.split() if isinstance(value, str) else []
    found = [re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", word) for word in words]
    if not found or not all(found):
        raise ValueError("a time span: seconds, or text such as '30s', '5m', '1h 30m', '5d'")
    return Seconds(sum(float(match[1]) * _SPAN[match[2]] for match in found if match))


def parseOctets(value: object) -> Octets:
    """
    @raise ValueError: it is no size.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Octets(value)
    match = re.fullmatch(r"(\d+)([KMG]?)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a size: octets, or text such as '512K', '10M', '2G'")
    return Octets(int(match[1]) * _SIZE[match[2]])


class BadSetting(ValueError):
    """
    A value that cannot be; the text says what was expected.

    @ivar key: the attribute, and so the key of the configuration.
    """

    def __init__(self, key: str, expected: str) -> None:
        super().__init__(expected)
        self.key = key


def template(value: str, *names: str) -> None:
    """
    Check a text into which values are put: only these names stand in braces, as
    they are.  An attribute, a conversion or a format would show more, or fail later.

    @raise ValueError: with what was expected.
    """
    try:
        parts = list(string.Formatter().parse(value))
    except ValueError:
        parts = [("", "", "", None)]
    for _, name, form, conversion in parts:
        if name is not None and (name not in names or form or conversion):
            *first, last = (f"{{{name}}}" for name in names)
            both = " and ".join(filter(None, (", ".join(first), last)))
            raise ValueError(f"text in which {both} may stand")


def checked(read: Callable[[Any], object]) -> Callable[[Any, Any, Any], None]:
    """
    An attrs validator out of a function that reads the value or raises
    C{ValueError} with what was expected.  C{None} is always allowed: whether a
    setting may be left out is said by its default.
    """

    def validate(instance: object, attribute: Any, value: Any) -> None:
        if value is not None:
            try:
                read(value)
            except ValueError as error:
                raise BadSetting(attribute.name, str(error)) from None

    return validate


def ofTheirTypes(cls: type, fields: list[Any]) -> list[Any]:
    """
    For attrs' C{field_transformer}: the attributes have to be of the types that
    are said of them, as those of a configuration are.

    @raise BadSetting: from the constructor.
    """
    hints: dict[str, Any] = {}

    def validate(instance: object, attribute: Any, value: object) -> None:
        if not hints:
            hints.update(typing.get_type_hints(cls))
        kind = hints[attribute.name]
        if not _fits(value, kind):
            text = f"{attribute.name}: expected {_named(kind)}, not {value!r}"
            raise BadSetting(attribute.name, text)

    def checkedFirst(field: Any) -> Any:
        both = (
            validate
            if field.validator is None
            else attrs.validators.and_(validate, field.validator)
        )
        return field.evolve(validator=both)

    return [one if one.inherited else checkedFirst(one) for one in fields]


def _fits(value: object, kind: Any) -> bool:
    """
    Whether a value is of a type that settings have.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, arguments[0]) for one in value)
    if kind is Any:
        return True
    plain = getattr(kind, "__supertype__", kind)
    if plain not in (int, float):
        return isinstance(value, plain) if isinstance(plain, type) else _fits(value, plain)
    isNumber = isinstance(value, int | plain) and not isinstance(value, bool)
    return isNumber and isinstance(value, int | float) and 0 <= value < math.inf


def _named(kind: Any) -> str:
    arguments = typing.get_args(kind)
    if arguments:
        words = [_named(one) for one in arguments if one is not ...]
        return f"a tuple of {words[0]}" if typing.get_origin(kind) is tuple else " or ".join(words)
    if isinstance(kind, enum.Enum):
        return str(kind)
    return {type(None): "None", int: "a number", float: "a number", str: "text"}.get(
        kind, getattr(kind, "__name__", repr(kind))
    )


def positive(value: float) -> float:
    """
    For L{checked}.
    """
    if value <= 0:
        raise ValueError("more than 0")
    return value
