"""
The house rules that a machine can check.
"""

from __future__ import annotations

import ast
import functools
import importlib
import os
import pathlib
import re
import sys
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementedBy

import deferrals
from deferrals.model import reply
from tests.rigs import keep
from tests.source import nodes, parsed

ROOT = os.path.dirname(deferrals.__file__)
BASE = {
    *("errors", "model", "interfaces", "deferreds", "durable", "logger", "operatorfiles"),
    *("postgresql", "threads", "tls"),
}

#: What a part may import of the package, beside itself.  Each part is named.
ALLOWED = {
    "__init__": set(),
    "errors": set(),
    "model": {"errors"},
    "interfaces": {"errors", "model"},
    "logger": {"errors", "model"},
    "deferreds": {"errors", "logger", "model"},
    "threads": {"deferreds", "logger"},
    "durable": set(),
    "postgresql": set(),
    "operatorfiles": set(),
    "tls": set(),
    "smtp": BASE,
    "stages": BASE,
    "spool": BASE,
    "relay": BASE,
    "auth": BASE,
    "plugins": {"errors", "interfaces", "logger"},
    "config": {"errors", "model", "interfaces", "postgresql", "stages"},
    "operator": {
        "config",
        "deferreds",
        "durable",
        "errors",
        "interfaces",
        "logger",
        "model",
        "plugins",
        "spool",
        "threads",
    },
    "client": {"errors", "model", "smtp", "tls"},
    "testing": {"deferreds", "errors", "interfaces", "model", "server", "spool", "stages"},
    "server": {
        *BASE,
        *("auth", "config", "plugins", "relay", "smtp", "spool", "stages"),
    },
    "adapters": {"interfaces", "model", "errors"},
    "app": {
        *BASE,
        *("auth", "config", "operator", "plugins", "server", "smtp", "stages", "web"),
    },
    "web": {"deferreds", "errors", "logger", "model"},
    "workers": {
        *BASE,
        *("app", "auth", "config", "operator", "plugins", "server", "spool", "web"),
    },
    "tap": {
        *("app", "auth", "config", "deferreds", "errors", "interfaces", "logger", "model"),
        *("plugins", "server", "workers"),
    },
    "cli": {"app", "client", "config", "errors", "model", "operator", "plugins", "stages"},
}

TESTS = os.path.dirname(__file__)

#: So often C{Any} must not stand in annotations.
TOO_MANY_ANY = 150

#: In lines.
LONGEST_FUNCTION = 48

#: Unit tests of no single module.
WHOLE = (
    "api",
    "benchmarks",
    "dialogues",
    "docs",
    "growth",
    "hopfaults/exact",
    "hopfaults/properties",
    "layout",
    "leaks",
    "mixed/field",
    "mixed/properties",
    "mixed/sessions",
    "mutants/main",
    "mutants/mutations",
    "mutants/running",
    "mutants/stores",
    "nonsense",
    "octets",
    "outside",
    "pages",
    "patterns",
    "promises",
    "recipes",
    "relay/passing",
    "targets",
    "translation",
    "spool/sqlite/stored",
    "stages/content/match/honest",
    "stages/content/match/shown",
)

INTERFACES = ("auth", "message", "refusals", "services", "spool", "stages", "tables")

#: Modules without a test module of their own, and why.
WITHOUT = {
    "errors.py": "exceptions, without code of their own",
    **dict.fromkeys(
        (f"interfaces/{name}.py" for name in INTERFACES),
        "signatures; deferrals.testing has their contracts",
    ),
    "spool/ledger.py": "signatures; tests/spool/test_rules.py compares all that have them",
    "model/json.py": "a type, and what is said of it",
    "plugins/builtin.py": "a list; plugins/test_finding.py finds all that is in it",
    **dict.fromkeys(
        (
            f"spool/postgresql/{name}.py"
            for name in ("ownnotes", "queries", "queue", "spool", "upkeep", "writing")
        ),
        "tests/integration/test_store.py runs them in a real PostgreSQL",
    ),
    "testing/spoolcontract.py": "run by the tests of every spool",
}

#: Who reads the configuration.
READERS = ("app", "operator", "tap", "cli", "config", "workers")


@functools.cache
def modules() -> tuple[tuple[str, str, ast.Module], ...]:
    """
    @return: part, path and tree of every module of the package.
    """
    found = tuple(_modules())
    keep()
    return found


def _modules() -> Iterator[tuple[str, str, ast.Module]]:
    for directory, _, names in os.walk(ROOT):
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(directory, name)
                relative = os.path.relpath(path, ROOT)
                part = relative.split(os.sep)[0].removesuffix(".py")
                with open(path, encoding="utf-8") as file:
                    yield part, relative, parsed(file.read())


def imported(tree: ast.Module) -> Iterator[str]:
    for node in nodes(tree, ast.Import):
        yield from (alias.name for alias in node.names)
    for node in nodes(tree, ast.ImportFrom):
        assert node.level == 0, "relative import"
        yield node.module or ""
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _path(words: list[str]) -> str:
    """
    The file, from the package's root, of the module that C{words} name or lie in.
    """
    for end in range(len(words), 0, -1):
        path = os.path.join(*words[:end])
        if os.path.exists(os.path.join(ROOT, f"{path}.py")):
            return f"{path}.py"
        if os.path.isdir(os.path.join(ROOT, path)):
            return os.path.join(path, "__init__.py")
    return ""


class ImportTests(SynchronousTestCase):
    """
    Imports go one way.
    """

    def test_oneWay(self) -> None:
        """A part imports only what stands below it."""
        wrong = []
        for part, path, tree in modules():
            allowed = {"__version__", *ALLOWED[part]}
            for name in imported(tree):
                words = name.split(".")
                if words[0] == "deferrals" and len(words) > 1 and words[1] not in {part, *allowed}:
                    wrong.append(f"{path} imports {name}")
        self.assertEqual(wrong, [])

    def test_noCircle(self) -> None:
        """No part needs, by whatever way, a part that needs it."""
        for part in ALLOWED:
            below: set[str] = set()
            ahead = set(ALLOWED[part])
            while ahead:
                below |= ahead
                ahead = {one for name in ahead for one in ALLOWED[name]} - below
            self.assertNotIn(part, below)

    def test_folders(self) -> None:
        """Folders need each other in one direction, too."""
        needs: dict[str, set[str]] = {}
        for _, path, tree in modules():
            folder = os.path.dirname(path)
            for name in imported(tree):
                words = name.split(".")[1:] if name.startswith("deferrals.") else []
                target = os.path.dirname(_path(words))
                if folder and target not in ("", folder):
                    needs.setdefault(folder, set()).add(target)
        for folder in needs:
            below: set[str] = set()
            ahead = needs[folder]
            while ahead:
                below |= ahead
                ahead = {one for name in ahead for one in needs.get(name, ())} - below
            self.assertNotIn(folder, below)

    def test_model(self) -> None:
        """The model imports no Twisted, no zope, no os and no time."""
        for part, path, tree in modules():
            if part == "model":
                for name in imported(tree):
                    self.assertNotIn(name.split(".")[0], ("twisted", "zope", "os", "time"), path)

    def test_reactor(self) -> None:
        """Only tap and cli import the global reactor."""
        for part, path, tree in modules():
            if part not in ("tap", "cli"):
                self.assertNotIn("twisted.internet.reactor", set(imported(tree)), path)

    def test_logger(self) -> None:
        """One logger cleans what it is told: no module has Twisted's own."""
        for _, path, tree in modules():
            if path != "logger.py":
                self.assertNotIn("twisted.logger.Logger", set(imported(tree)), path)

    def test_raised(self) -> None:
        """What a stage raises has one traceback, and not one for each message."""
        for part, path, tree in modules():
            if part in ("stages", "relay"):
                calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
                names = [ast.unparse(function) for function in calls]
                self.assertNotIn("_log.failure", names, path)

    def test_config(self) -> None:
        """Only app, operator, tap and cli read the configuration; nobody imports testing."""
        for part, path, tree in modules():
            names = set(imported(tree))
            if part not in READERS:
                self.assertNotIn("deferrals.config.tables", names, path)
            self.assertNotIn("deferrals.testing", names, path)

    def test_plugin(self) -> None:
        """No __init__.py hides Twisted's plugins, and the plugin file imports nothing of ours."""
        top = os.path.dirname(ROOT)
        directory = os.path.join(top, "twisted", "plugins")
        if not os.path.isdir(os.path.join(top, "tests")):
            directory = os.path.join(
                os.path.dirname(sys.modules["twisted"].__file__ or ""), "plugins"
            )
        path = os.path.join(directory, "deferrals_plugin.py")
        with open(path, encoding="utf-8") as file:
            names = set(imported(parsed(file.read())))
        self.assertFalse([name for name in names if name.startswith("deferrals")])
        if os.path.isdir(os.path.join(top, "tests")):
            for place in ("twisted", os.path.join("twisted", "plugins")):
                self.assertFalse(os.path.exists(os.path.join(top, place, "__init__.py")))


class TypeTests(SynchronousTestCase):
    """
    Types are real.
    """

    def test_any(self) -> None:
        """
        C{Any} stands only where the other side is untyped: there are few.  A
        name that stands for it counts like itself.
        """
        trees = [tree for _, _, tree in modules()]
        names = {"Any"}.union(*map(aliases, trees))
        found = sum(
            isinstance(part, ast.Name) and part.id in names
            for tree in trees
            for annotation in annotations(tree)
            for part in ast.walk(annotation)
        )
        self.assertLess(found, TOO_MANY_ANY)

    def test_aliases(self) -> None:
        """A name for something untyped is found, and what is typed is none."""
        source = "A: TypeAlias = dict[str, Any]\nB = list[Any]\nC = list[int]\nd: Any = e"
        self.assertEqual(aliases(parsed(source)), {"A", "B"})

    def test_noPretence(self) -> None:
        """Nothing is said to have a type that it does not have: no casts, nothing ignored."""
        wrong = []
        for _, path, tree in modules():
            with open(os.path.join(ROOT, path), encoding="utf-8") as file:
                if "typing.cast" in set(imported(tree)) or "type: ignore" in file.read():
                    wrong.append(path)
        self.assertEqual(wrong, [])


def aliases(tree: ast.Module) -> set[str]:
    """
    The names that a module gives to what C{Any} is a part of.
    """
    found = set()
    for node in tree.body:
        named = isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias"
        if isinstance(node, ast.Assign) or named:
            value = getattr(node, "value", None)
            targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
            if value is not None and "Any" in names(value):
                found |= {one.id for one in targets if isinstance(one, ast.Name)}
    return found


def names(tree: ast.AST) -> set[str]:
    """
    All names in it.
    """
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def annotations(tree: ast.Module) -> Iterator[ast.expr]:
    """
    The types that a module's signatures and variables say.
    """
    for node in nodes(tree, ast.arg, ast.AnnAssign, ast.FunctionDef, ast.AsyncFunctionDef):
        found = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        yield from (one for one in found if isinstance(one, ast.expr))


class MirrorTests(SynchronousTestCase):
    """
    A module's tests are where the module is.
    """

    def test_every(self) -> None:
        """Each module has a test module of its name, or a reason why not."""
        found = {path for path in self.mirrored() if path not in WITHOUT}
        wanted = {path for _, path, _ in modules() if not path.endswith("__init__.py")}
        self.assertEqual(wanted - WITHOUT.keys() - found, set())
        self.assertEqual(WITHOUT.keys() - wanted, set(), "they are gone")
        self.assertEqual(WITHOUT.keys() & set(self.mirrored()), set(), "they have tests")

    def test_nothingElse(self) -> None:
        """Each other test module is about the whole, and is named here."""
        wanted = {path for _, path, _ in modules()}
        others = {path for path in self.mirrored() if path not in wanted}
        self.assertEqual(others, {f"{name}.py" for name in WHOLE})

    def test_assertions(self) -> None:
        """No test puts something in the place of an assertion: it would never fail."""
        own = {
            name
            for name in dir(SynchronousTestCase)
            if name == "fail" or name.startswith(("assert", "fail"))
        }
        wrong = []
        for path in sorted(pathlib.Path(TESTS).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if not re.search(r"def (assert|fail)", text):
                continue
            for node in nodes(parsed(text), ast.ClassDef):
                defined = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
                wrong += [f"{path.name}: {node.name}.{name}" for name in defined & own]
        self.assertEqual(wrong, [])

    def mirrored(self) -> Iterator[str]:
        """
        The paths, from the package's root, that the names of unit tests stand for.
        """
        for directory, _, names in os.walk(TESTS):
            relative = os.path.relpath(directory, TESTS)
            if relative.split(os.sep)[0] not in ("integration", "crash"):
                for name in names:
                    if name.startswith("test_") and name.endswith(".py"):
                        path = os.path.join(relative, name.removeprefix("test_"))
                        yield os.path.normpath(path)


class NameTests(SynchronousTestCase):
    """
    One name, one thing.
    """

    def test_classes(self) -> None:
        """No two classes have the same name, be they private."""
        found: dict[str, list[str]] = {}
        for _, path, tree in modules():
            for node in nodes(tree, ast.ClassDef):
                found.setdefault(node.name.lstrip("_"), []).append(path)
        self.assertEqual({name: paths for name, paths in found.items() if len(paths) > 1}, {})

    def test_replies(self) -> None:
        """Each constant of a reply is used, in another module or by one that is."""
        names = {name for name in vars(reply) if re.match("R[2-5][0-9][0-9]_", name)}
        used = {
            node.id
            for _, _, tree in modules()
            for node in nodes(tree, ast.Name)
            if isinstance(node.ctx, ast.Load)
        }
        self.assertTrue(names)
        self.assertEqual(names - used, set())


class LengthTests(SynchronousTestCase):
    """
    What is read is short.
    """

    def test_functions(self) -> None:
        """No function is longer than what fits on a screen, its docstring included."""
        long = [
            f"{path}: {node.name}"
            for _, path, tree in modules()
            for node in nodes(tree, ast.FunctionDef, ast.AsyncFunctionDef)
            if (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
        ]
        self.assertEqual(long, [])


class DocstringTests(SynchronousTestCase):
    """
    What is public is described.
    """

    def test_public(self) -> None:
        """
        Every module, and every public class and function, has a docstring; a
        method may have that of the interface, or of the class above.
        """
        missing = []
        for _, path, tree in modules():
            for node, name in described(tree):
                if ast.get_docstring(node) is None and not inherits(path, name):
                    missing.append(f"{path}: {name or 'module'}")
        self.assertEqual(missing, [])

    def test_inherits(self) -> None:
        """What is inherited is a docstring."""
        path = os.path.join("stages", "delivery", "discard.py")
        self.assertTrue(inherits(path, "DiscardDelivery.deliver"))
        self.assertFalse(inherits(path, "DiscardDelivery.other"))
        self.assertFalse(inherits(path, "DiscardDelivery"))


_Described = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def described(tree: ast.Module) -> Iterator[tuple[_Described, str]]:
    """
    @return: what must be described, with its name; methods as C{CLASS.METHOD}.
    """
    yield tree, ""
    for node in tree.body:
        if isinstance(node, _Described) and not node.name.startswith("_") and not isForm(node):
            yield node, node.name
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, _Described) and not inner.name.startswith("_"):
                    yield inner, f"{node.name}.{inner.name}"


def isForm(node: _Described) -> bool:
    """
    Whether it is one of the forms of an overloaded function, which is described once.
    """
    return any(ast.unparse(one) == "overload" for one in getattr(node, "decorator_list", ()))


def inherits(path: str, name: str) -> bool:
    """
    Whether a method is described by an interface or a base class.
    """
    owner, _, method = name.partition(".")
    if not method:
        return False
    module = importlib.import_module(f"deferrals.{path.removesuffix('.py').replace(os.sep, '.')}")
    cls = getattr(module, owner)
    described = (one.get(method) for one in implementedBy(cls))
    above = (getattr(one, method, None) for one in cls.__mro__[1:])
    return any(one is not None and one.__doc__ for one in (*described, *above))
