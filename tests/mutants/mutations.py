"""
The list of mutations, and where each is.
"""

from __future__ import annotations

import ast
import hashlib
import os
import tomllib
from collections.abc import Iterator

import attrs

from tests.zygote import ROOT

LIST = os.path.join(os.path.dirname(__file__), "mutations.toml")


class ListError(Exception):
    """
    The list does not fit the package.
    """


@attrs.frozen
class Mutation:
    """
    @ivar file: what it changes, below the checkout.
    @ivar breaks: the sentence that is not true any longer.
    @ivar old: the snippet, which is there once.
    @ivar new: what stands in its place.
    """

    file: str
    breaks: str
    old: str
    new: str

    @property
    def path(self) -> str:
        """Where the file is."""
        return os.path.join(ROOT, self.file)

    @property
    def order(self) -> str:
        """Where it stands in the sample: the same place, whatever else is listed."""
        return hashlib.sha256(f"{self.file}\0{self.old}\0{self.new}".encode()).hexdigest()

    def apply(self) -> str:
        """
        @return: the module with the sentence broken.
        @raise ListError: the snippet is not there once.
        """
        source = read(self.path)
        if self.old == self.new or source.count(self.old) != 1:
            raise ListError(f"{self.file}: {source.count(self.old)} times: {self.old!r}")
        changed = source.replace(self.old, self.new)
        try:
            ast.parse(changed)
        except SyntaxError as error:
            raise ListError(f"{self.file}: no Python: {self.new!r}: {error}") from None
        return changed

    def lines(self) -> tuple[set[int], set[int]]:
        """
        @return: the lines of the statement that it changes, and those of the function
            around it (of the whole module, where there is none).
        """
        source = read(self.path)
        first, last = _changed(source, self.old, self.new)
        tree = ast.parse(source)
        within = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]
        around = [one for one in within if one.body[0].lineno <= last and first <= _end(one)]
        function = max(around, key=lambda one: one.lineno, default=None)
        whole = range(1, source.count("\n") + 2)
        if function is not None:
            whole = range(function.body[0].lineno, _end(function) + 1)
        return set(_statement(tree, first, last)), set(whole)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def read(path: str) -> str:
    """
    The text of a module.
    """
    with open(path, encoding="utf-8") as file:
        return file.read()


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def _changed(source: str, old: str, new: str) -> tuple[int, int]:
    """
    The first and the last line in which a snippet and its replacement differ.
    """
    start = _alike(old, new)
    end = _alike(old[start:][::-1], new[start:][::-1])
    at = source.index(old)
    first = source.count("\n", 0, at + start) + 1
    return first, max(first, source.count("\n", 0, at + len(old) - end) + 1)


def _alike(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _statement(tree: ast.Module, first: int, last: int) -> Iterator[int]:
    """
    The lines of the statements there; of a compound one, those of its own.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            end = _end(node)
            body = getattr(node, "body", None)
            if isinstance(body, list) and body:
                end = max(node.lineno, body[0].lineno - 1)
            if node.lineno <= last and first <= end:
                yield from range(node.lineno, end + 1)


def load(path: str = LIST) -> list[Mutation]:
    """
    All mutations of a list.

    @raise ListError: one of them does not fit the package.
    """
    with open(path, "rb") as file:
        found = [Mutation(**one) for one in tomllib.load(file)["mutation"]]
    wrong = []
    for one in found:
        try:
            one.apply()
        except ListError as error:
            wrong.append(str(error))
    if len(set(found)) < len(found):
        wrong.append("a mutation is listed twice")
    if wrong:
        raise ListError("\n".join(wrong))
    return found


def sample(mutations: list[Mutation], count: int) -> list[Mutation]:
    """
    The same ones each time.
    """
    return sorted(mutations, key=lambda one: one.order)[:count]
