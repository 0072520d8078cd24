"""
Modules whose work is counted: each call, iteration, copy and comparison of
something that can be long goes through L{Work}, which adds up what it costs in
octets or items.

What is counted is a model, the same on every machine: a copy costs its length,
a search what it looks at, a regular expression its steps.  What is not seen:
quadratic steps inside C code that does more than copy or search (C{json},
C{binascii}, RE2, zlib count as linear in what they are given), and libraries
that are not instrumented.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import mmap
import re
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tests.growth.regex import Matcher

_OCTETS = (bytes, bytearray, str, mmap.mmap)
_SIZED = (*_OCTETS, list, tuple)
_METHODS = (types.BuiltinMethodType, types.MethodWrapperType)
_DESCRIPTORS = (types.MethodDescriptorType, types.WrapperDescriptorType)
_PATTERN = {"match", "fullmatch", "search", "findall", "finditer", "split", "sub", "subn"}
_ONE = {"append", "add", "get", "setdefault", "popleft", "appendleft", "write", "read", "seek"}

#: Everything here is one Work's; C{__growth__} in each instrumented module.
NAME = "__growth__"


class Work:
    """
    What has been done.

    @ivar units: how much.
    """

    def __init__(self) -> None:
        self.units = 0
        self._matchers: dict[re.Pattern[Any], Matcher] = {}

    def tick(self) -> None:
        """A function is entered, a loop goes round."""
        self.units += 1

    def iterate(self, items: Iterable[Any]) -> Iterator[Any]:
        """One unit for each item."""
        for item in items:
            self.units += 1
            yield item

    def made(self, value: Any) -> Any:
        """Something that has been copied together."""
        if isinstance(value, (*_SIZED, dict, set)):
            self.units += len(value)
        return value

    def added(self, before: Any, more: Any) -> Any:
        """The right side of C{+=}: what cannot be changed is copied whole."""
        if isinstance(before, (bytes, str, tuple)):
            self.units += len(before)
        return self.made(more)

    def contains(self, item: Any, container: Any) -> bool:
        """C{in}: a search."""
        if isinstance(container, _SIZED):
            self.units += len(container)
        return item in container

    def deleted(self, value: Any) -> None:
        """A slice of a list goes: the rest moves."""
        if isinstance(value, list):
            self.units += len(value)

    def call(self, function: Any, /, *args: Any, **more: Any) -> Any:
        """Any call."""
        self.units += 1
        kind = type(function)
        if kind is types.MethodType or (kind is types.FunctionType and function.__module__ != "re"):
            return function(*args, **more)  # what it does is counted within
        if isinstance(function, _METHODS):
            owner = function.__self__
            if isinstance(owner, re.Pattern) and function.__name__ in _PATTERN:
                self._regex(owner, function.__name__, args, more)
                return function(*args, **more)
            if owner is not None and not isinstance(owner, types.ModuleType):
                result = function(*args, **more)
                self._method(owner, function.__name__, args, result)
                return result
        if isinstance(function, _DESCRIPTORS) and args:
            result = function(*args, **more)
            self._method(args[0], function.__name__, args[1:], result)
            return result
        if function in (map, filter) and args:
            return function(self._counted(args[0]), *args[1:])
        if function in (sorted, min, max) and "key" in more:
            more["key"] = self._counted(more["key"])
        if getattr(function, "__module__", "") == "re" and isinstance(function, types.FunctionType):
            if function.__name__ in _PATTERN and len(args) > 1:
                pattern = re.compile(args[0], more.get("flags", 0))
                self._regex(pattern, function.__name__, args[1:], {})
            return function(*args, **more)
        result = function(*args, **more)
        if isinstance(function, (types.BuiltinFunctionType, type)):
            known = isinstance(function, type) and function.__module__ != "builtins"
            if function not in (len, isinstance, getattr, type, range, iter, id) and not known:
                for value in (*args, result):
                    if isinstance(value, (*_SIZED, dict, set, frozenset)):
                        self.units += len(value)
        return result

    def _counted(self, function: Any) -> Any:
        if isinstance(function, (*_METHODS, *_DESCRIPTORS, types.BuiltinFunctionType)):
            return lambda *args: self.call(function, *args)
        return function

    def _method(self, owner: Any, name: str, args: Sequence[Any], result: Any) -> None:
        """
        What a method of a built-in type costs.
        """
        if isinstance(owner, _OCTETS):
            self.units += _octetsMethod(owner, name, args, result)
        elif isinstance(owner, (list, deque)):
            whole = name in {"insert", "remove", "index", "count", "copy", "reverse", "sort"}
            if whole or (name == "pop" and args and args[0] != -1 and isinstance(owner, list)):
                self.units += len(owner)
            elif name in ("extend",) and isinstance(args[0], _SIZED):
                self.units += len(args[0])
        elif name not in _ONE:
            for value in (*args, result):
                if isinstance(value, (*_SIZED, dict, set)):
                    self.units += len(value)

    def _regex(
        self, pattern: re.Pattern[Any], name: str, args: Sequence[Any], more: dict[str, Any]
    ) -> None:
        """
        The steps that a pattern takes.
        """
        matcher = self._matchers.get(pattern)
        if matcher is None:
            matcher = self._matchers[pattern] = Matcher(pattern)
        data = args[1] if name in ("sub", "subn") else args[0]
        data = data if isinstance(data, str) else bytes(data)
        bounds = args[1:3] if name not in ("sub", "subn", "split") else ()
        start, end = (*bounds, *(0, len(data))[len(bounds) :])[:2]
        matcher.steps = 0
        if name in ("match", "fullmatch", "search"):
            matcher.find(data, start, min(end, len(data)), name)
        else:
            for _ in matcher.all(data, start, min(end, len(data))):
                pass
            self.units += len(data)
        self.units += matcher.steps


def _octetsMethod(owner: Any, name: str, args: Sequence[Any], result: Any) -> int:
    """
    What a method of octets or text costs.
    """
    size = len(owner)
    if name in ("find", "index", "rfind", "rindex", "count"):
        start, end, _ = slice(*(args[1:3] if len(args) > 2 else (*args[1:2], None))).indices(size)
        if name == "count" or result < 0:
            return max(0, end - start)
        return int(end - result if name.startswith("r") else result - start)
    if name in ("startswith", "endswith"):
        return sum(map(len, args[0])) if isinstance(args[0], tuple) else len(args[0])
    if name in ("append", "seek", "close", "fileno"):
        return 1
    if name == "extend":
        return len(args[0]) if isinstance(args[0], _SIZED) else 1
    if name in ("partition", "rpartition", "removesuffix", "removeprefix", "__getitem__"):
        return sum(map(len, result)) if isinstance(result, tuple) else len(result)
    if name == "join":
        return len(result)
    return size + (len(result) if isinstance(result, _SIZED) else 0)


class _Transformer(ast.NodeTransformer):
    """
    Puts L{Work} between the code and what it does.
    """

    def _do(self, method: str, *args: ast.expr) -> ast.Call:
        function = ast.Attribute(ast.Name(NAME, ast.Load()), method, ast.Load())
        return ast.Call(function, list(args), [])

    def _tick(self) -> ast.stmt:
        return ast.Expr(self._do("tick"))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        isSuper = isinstance(node.func, ast.Name) and node.func.id in ("super", "locals", "vars")
        self.generic_visit(node)
        if isSuper:
            return node
        call = self._do("call", node.func, *node.args)
        call.keywords = node.keywords
        return call

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, (ast.Add, ast.Mult, ast.Mod)):
            return self._do("made", node)
        return node

    def visit_List(self, node: ast.List | ast.Tuple | ast.Set) -> ast.AST:
        self.generic_visit(node)
        isCopied = isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
        isCopied = isCopied and any(isinstance(one, ast.Starred) for one in node.elts)
        return self._do("made", node) if isCopied else node

    visit_Tuple = visit_Set = visit_List

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        self.generic_visit(node)
        return self._do("made", node) if None in node.keys else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        self.generic_visit(node)
        return self._do("made", node)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        node.value = self.visit(node.value)
        return node  # what is behind the colon stays

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Add):
            before = ast.parse(ast.unparse(node.target), mode="eval").body
            node.value = self._do("added", before, node.value)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.slice, ast.Slice) and isinstance(node.ctx, ast.Load):
            return self._do("made", node)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) == 1 and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            found: ast.expr = self._do("contains", node.left, node.comparators[0])
            return found if isinstance(node.ops[0], ast.In) else ast.UnaryOp(ast.Not(), found)
        return node

    def visit_Delete(self, node: ast.Delete) -> Any:
        slices = [
            target.value
            for target in node.targets
            if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice)
        ]
        before = [ast.parse(ast.unparse(one), mode="eval").body for one in slices]
        return [*(ast.Expr(self._do("deleted", one)) for one in before), node]

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        node.iter = self._do("iterate", node.iter)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        if not node.is_async:
            node.iter = self._do("iterate", node.iter)
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, self._tick())
        return node

    def _function(self, node: Any) -> ast.AST:
        node.body = [self.visit(one) for one in node.body]
        node.body = [one for part in node.body for one in (part if type(part) is list else [part])]
        hasDocstring = ast.get_docstring(node, clean=False) is not None
        node.body.insert(1 if hasDocstring else 0, self._tick())
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node


class _Loader(importlib.abc.SourceLoader):
    """
    Loads a module with its work counted.
    """

    def __init__(self, path: str, work: Work) -> None:
        self._path = path
        self._work = work

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def path_stats(self, path: str) -> Any:
        raise OSError("no byte code is kept")

    def source_to_code(self, data: Any, path: Any, **_: Any) -> Any:
        tree = ast.fix_missing_locations(_Transformer().visit(ast.parse(data)))
        return compile(tree, path, "exec", dont_inherit=True)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__[NAME] = self._work
        super().exec_module(module)


class Finder(importlib.abc.MetaPathFinder):
    """
    Has some modules loaded that way.

    @param isWanted: says which, by name.
    """

    def __init__(self, isWanted: Callable[[str], bool], work: Work) -> None:
        self._isWanted = isWanted
        self._work = work

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if not self._isWanted(fullname):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or not (spec.origin or "").endswith(".py"):
            return None
        spec.loader = _Loader(str(spec.origin), self._work)
        return spec


def counted(work: Work, function: Callable[[], Any]) -> int:
    """
    @return: what a call costs.
    """
    work.units = 0
    function()
    return work.units
