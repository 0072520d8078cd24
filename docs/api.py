"""
The public API, a line for each name, signature, default and attribute: what a
release promises to the next one.  C{docs/generate.py} keeps the list,
C{tests/public-api.txt}, and C{docs/public-api.md} says what it means.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import types
from collections.abc import Iterator
from typing import Any

import attrs
from zope.interface import Interface
from zope.interface.interface import InterfaceClass, Method

#: The modules whose C{__all__} is public.
MODULES = (
    "deferrals",
    "deferrals.adapters",
    "deferrals.client",
    "deferrals.errors",
    "deferrals.interfaces",
    "deferrals.model.address",
    "deferrals.model.block",
    "deferrals.model.delivery",
    "deferrals.model.envelope",
    "deferrals.model.reply",
    "deferrals.model.schedule",
    "deferrals.model.settings",
    "deferrals.model.tablekeys",
    "deferrals.model.verdict",
    "deferrals.server",
    "deferrals.testing",
)


def lines() -> Iterator[str]:
    """
    All of it, sorted within each module.
    """
    for name in MODULES:
        module = importlib.import_module(name)
        for public in sorted(module.__all__):
            yield from described(f"{name}.{public}", getattr(module, public))


def described(name: str, found: Any) -> Iterator[str]:
    """
    One public name, and what belongs to it.
    """
    if isinstance(found, InterfaceClass):
        yield from interface(name, found)
    elif isinstance(found, type) and issubclass(found, enum.Enum):
        yield f"{name}: {', '.join(one.name for one in found)}"
    elif isinstance(found, type):
        yield from klass(name, found)
    elif isinstance(found, types.FunctionType):
        yield f"{name}{inspect.signature(found)}"
    else:
        yield f"{name}: {type(found).__name__}"


def interface(name: str, found: InterfaceClass) -> Iterator[str]:
    """
    Its methods and attributes; those of its bases stand with them.
    """
    bases = [base.__name__ for base in found.__bases__ if base is not Interface]
    yield f"{name}({', '.join(bases)})"
    for member in sorted(found.names()):
        one = found.direct(member)
        yield f"{name}.{member}{one.getSignatureString() if isinstance(one, Method) else ''}"


def klass(name: str, found: type) -> Iterator[str]:
    """
    How it is made, and what it has.
    """
    try:
        made = str(inspect.signature(found))
    except (TypeError, ValueError):
        made = ""
    yield f"{name}{made}"
    if attrs.has(found):
        for field in attrs.fields(found):
            if not field.name.startswith("_"):
                yield f"{name}.{field.name}"
    for member, one in sorted(vars(found).items()):
        if member.startswith("_") or isinstance(one, types.MemberDescriptorType):
            continue
        if isinstance(one, staticmethod | classmethod):
            one = one.__func__
        if isinstance(one, types.FunctionType):
            yield f"{name}.{member}{inspect.signature(one)}"
        else:
            yield f"{name}.{member}"
