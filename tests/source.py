"""
Python's source as trees, for the tests that read it.
"""

from __future__ import annotations

import ast
import functools
import gc


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
