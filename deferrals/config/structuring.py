"""
Tables of TOML into settings classes, with problems that name the key and what
was expected there.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Literal, Optional, get_args, get_origin

import attrs
import cattrs
from cattrs.cols import is_mapping, list_structure_factory, mapping_structure_factory
from cattrs.errors import (
    ForbiddenExtraKeysError,
    IterableValidationError,
    StructureHandlerNotFoundError,
)

from deferrals.config.workers import Workers, parseWorkers
from deferrals.model.schedule import Steps, parseSteps
from deferrals.model.settings import (
    BadSetting,
    Octets,
    Seconds,
    TableName,
    parseOctets,
    parseSeconds,
)
from deferrals.stages.envelope.ownsenders import Senders, parseSenders

#: What a list of TOML becomes, by the type that a setting has.
_COLLECTIONS: dict[object, Callable[[Iterable[object]], object]] = {
    **{tuple: tuple, list: list, set: set, frozenset: frozenset},
    **{Sequence: tuple, Set: frozenset},
}

_UNION = type(Optional[int])  # noqa: UP045 (its type differs from that of int | None)


def makeConverter() -> cattrs.Converter:
    """
    What knows the types that settings have.
    """
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(bool, _exactly(bool, "true or false"))
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(Seconds, lambda value, _: parseSeconds(value))
    converter.register_structure_hook(Steps, lambda value, _: parseSteps(value))
    converter.register_structure_hook(Senders, lambda value, _: parseSenders(value))
    converter.register_structure_hook(TableName, lambda value, _: TableName(_text(value, str)))
    converter.register_structure_hook(Workers, lambda value, _: parseWorkers(value))
    converter.register_structure_hook(Octets, lambda value, _: parseOctets(value))
    converter.register_structure_hook_factory(_isCollection, _collection)
    converter.register_structure_hook_factory(is_mapping, _table)
    converter.register_structure_hook_func(_isOptional, _optional(converter))
    converter.register_structure_hook_func(_isChoice, _choice)
    converter.register_structure_hook(enum.Enum, _choice)  # cattrs before 26 asks this first
    return converter


def _exactly(kind: type, name: str) -> Callable[[object, object], object]:
    def structure(value: object, _: object) -> object:
        if not isinstance(value, kind):
            raise ValueError(name)
        return value

    return structure


_text = _exactly(str, "text")


def _integer(value: object, _: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("a whole number")
    return value


def _number(value: object, _: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError("a number")
    return float(value)


def _isCollection(kind: object) -> bool:
    return get_origin(kind) in _COLLECTIONS


def _collection(kind: Any, converter: cattrs.Converter) -> Callable[[object, object], object]:
    """
    A list of TOML.  Text is none, although Python would take it for one of letters.
    """
    make = _COLLECTIONS[get_origin(kind)]
    alike: Any = types.GenericAlias(list, get_args(kind)[:1])
    elements = list_structure_factory(alike, converter)

    def structure(value: object, _: object) -> object:
        if isinstance(value, Mapping):
            raise ValueError("a list: [[…]] in place of [ ], or [ { … } ]")
        if not isinstance(value, list | tuple):
            raise ValueError("a list")
        return make(elements(value, list))

    return structure


def _table(kind: Any, converter: cattrs.Converter) -> Callable[[object, object], object]:
    entries = mapping_structure_factory(kind, converter)

    def structure(value: object, _: object) -> object:
        if not isinstance(value, Mapping):
            raise ValueError("a table")
        return entries(value, kind)

    return structure


def _isChoice(kind: object) -> bool:
    return bool(choices(kind))


def _isOptional(kind: object) -> bool:
    return isinstance(kind, types.UnionType | _UNION) and types.NoneType in get_args(kind)


def _optional(converter: cattrs.Converter) -> Callable[[object, object], object]:
    """
    TOML has no null: what is there has the other type; text, where that is one
    of several.
    """

    def structure(value: object, kind: object) -> object:
        others = [one for one in get_args(kind) if one is not types.NoneType]
        if str in others and (isinstance(value, str) or len(others) == 1):
            return converter.structure(value, str)
        return converter.structure(value, next(one for one in others if one is not str))

    return structure


def choices(kind: object) -> dict[str, object]:
    """
    The words that a C{Literal} or an enumeration allows, and the values that
    they stand for; none for any other type.
    """
    found: Iterable[object] = ()
    if get_origin(kind) is Literal:
        found = get_args(kind)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        found = kind
    return {str(one.value if isinstance(one, enum.Enum) else one): one for one in found}


def _choice(value: object, kind: object) -> object:
    allowed = choices(kind)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError("one of " + ", ".join(f'"{word}"' for word in allowed))
    return allowed[value]


def structured(converter: cattrs.Converter, table: object, kind: type) -> object:
    """
    A stage's settings out of its table.

    @raise ValueError: the class cannot be used for settings; the text says why.
    """
    name = f"{kind.__module__}.{kind.__qualname__}"
    if not attrs.has(kind):
        raise ValueError(f"a stage with settings: {name} is no attrs class")
    try:
        settings: object = converter.structure(table, kind)
    except (StructureHandlerNotFoundError, NameError) as error:
        raise ValueError(f"a stage with settings: {name} cannot be filled in: {error}") from None
    try:
        hash(settings)
    except TypeError as error:
        raise ValueError(
            f"a stage with settings that can be hashed: {name} has to be frozen, with tuples"
            f" in place of lists ({error})"
        ) from None
    return settings


def apart(table: object, cls: type[attrs.AttrsInstance]) -> tuple[object, dict[str, object]]:
    """
    A table without the keys that are attributes of a class, and these.
    """
    if not isinstance(table, dict):
        return table, {}
    keys = {field.name for field in attrs.fields(cls)}
    own = {key: one for key, one in table.items() if key not in keys}
    return own, {key: one for key, one in table.items() if key in keys}


def problemsOf(error: BaseException, key: str = "") -> list[tuple[str, str]]:
    """
    What cattrs found, flat: keys, and what was expected there.
    """
    if isinstance(error, IterableValidationError):
        found = []
        for inner, note in error.group_exceptions()[0]:
            where = f"[{note.index}]" if isinstance(note.index, int) else f".{note.index}"
            found += problemsOf(inner, f"{key}{where}".lstrip("."))
        return found + [
            one for inner in error.group_exceptions()[1] for one in problemsOf(inner, key)
        ]
    if isinstance(error, cattrs.ClassValidationError):
        found = []
        noted, others = error.group_exceptions()
        for inner, attribute in noted:
            found += problemsOf(inner, f"{key}.{attribute.name}".lstrip("."))
        return found + [one for inner in others for one in problemsOf(inner, key)]
    if isinstance(error, ForbiddenExtraKeysError):
        known = sorted(field.name for field in attrs.fields(error.cl) if field.init)
        return [
            (
                f"{key}.{name}".lstrip("."),
                f"no such key here; there are: {', '.join(known) or 'none'}",
            )
            for name in sorted(error.extra_fields)
        ]
    if isinstance(error, BadSetting):
        return [(f"{key}.{error.key}".lstrip("."), f"expected {error}")]
    if isinstance(error, KeyError):
        return [(key, "is missing")]
    if isinstance(error, TypeError | AttributeError):
        return [(key, "expected a table, [ ] in place of [[ ]]")]
    said = str(error).removeprefix(f"{key.rpartition('.')[2]}: expected ")
    return [(key, f"expected {said}")]
