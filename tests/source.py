"""
Python's source as trees, for the tests that read it.
"""

from __future__ import annotations

import ast
import functools
import gc
from collections.abc import Iterator
from typing import TypeVar

Node = TypeVar("Node", bound=ast.AST)


@functools.cache
def parsed(text: str) -> ast.Module:
    """
    The tree of a module.

    The garbage collector waits meanwhile.  What it ends may log a traceback,
    which is parsed for its carets, and CPython 3.11 bears no parsing within
    parsing ("AST constructor recursion depth mismatch", gh-106905).
    """
    wasEnabled = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(text)
    finally:
        if wasEnabled:
            gc.enable()


def nodes(tree: ast.Module, *kinds: type[Node]) -> Iterator[Node]:
    """
    All nodes of some kinds, wherever they are in a tree that is kept.
    """
    found = _byKind(tree)
    for kind in kinds:
        yield from found.get(kind, ())


@functools.cache
def _byKind(tree: ast.Module) -> dict[type[ast.AST], list[ast.AST]]:
    found: dict[type[ast.AST], list[ast.AST]] = {}
    for node in ast.walk(tree):
        found.setdefault(type(node), []).append(node)
    return found
