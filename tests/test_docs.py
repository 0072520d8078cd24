"""
The documentation says what is so.
"""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
import runpy
from typing import Any

import attrs
from twisted.internet import ssl
from twisted.internet.testing import MemoryReactorClock
from twisted.trial import reporter, runner
from twisted.trial.unittest import SynchronousTestCase

from deferrals import interfaces, server, testing
from deferrals.model.limits import Limits
from deferrals.plugins.finding import stagePlugins
from tests.fuzz.targets import TARGETS
from tests.requirements import requirement
from tests.source import parsed
from tests.tls import makeCertificate

ROOT = os.path.dirname(os.path.dirname(__file__))


LIMITS = ("docs", "limits.md")

#: Numbers in the table of limits that are no figures: versions, codes.
EXPLAINED = {1, 2, 558}


def constant(name: str) -> int:
    """
    What a name in the table of limits stands for.
    """
    if name.startswith("limits."):
        return int(getattr(Limits(), name.removeprefix("limits.")))
    path, _, attribute = name.rpartition(".")
    try:
        return int(getattr(importlib.import_module(f"deferrals.{path}"), attribute))
    except ModuleNotFoundError:  # the default of a setting
        path, _, cls = path.rpartition(".")
        found = getattr(importlib.import_module(f"deferrals.{path}"), cls)
        return int(attrs.fields_dict(found)[attribute].default)


class DocsTests(SynchronousTestCase):
    """
    Pages, tables, links.
    """

    @functools.cached_property
    def generate(self) -> dict[str, Any]:
        return runpy.run_path(os.path.join(ROOT, "docs", "generate.py"))

    def page(self, *path: str) -> str:
        with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
            return file.read()

    def test_generated(self) -> None:
        """The tables are what docs/generate.py would write."""
        self.assertEqual(self.generate["main"](True), 0, "run: python docs/generate.py")

    def test_requirements(self) -> None:
        """Each requirement has a line that carries it and a test that claims it, or a reason."""
        page = self.page("docs", "requirements.md")
        wanted = [f"D-{n}" for n in range(1, 27)] + [f"P-{n}" for n in range(1, 14)]
        wanted += [f"S-{n}" for n in range(1, 7)]
        rows = dict(re.findall(r"^\| ([DPS]-\d+) \| [^|]* \| ([^|]+) \|", page, re.M))
        self.assertEqual(list(rows), wanted)
        self.assertEqual([n for n, status in rows.items() if status == "missing"], [])

    def test_limits(self) -> None:
        """The figures of the table of limits are those of the code, and no others."""
        rows = re.findall(
            r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \| (`[^|]+`) \|$", self.page(*LIMITS), re.M
        )
        self.assertGreater(len(rows), 20)
        for what, bound, names in rows:
            values = {constant(name) for name in re.findall("`([^`]+)`", names)}
            sizes = {"KiB": 1 << 10, "MiB": 1 << 20}
            figures = re.findall(r"([0-9][0-9,]*)(?: (KiB|MiB))?", bound)
            said = {int(n.strip(",").replace(",", "")) * sizes.get(unit, 1) for n, unit in figures}
            self.assertEqual(values - said, set(), what)
            self.assertEqual(said - values - EXPLAINED, set(), what)

    @requirement("D-1")
    @requirement("D-2")
    @requirement("D-3")
    @requirement("D-18")
    @requirement("D-19")
    def test_promised(self) -> None:
        """Each test, each module and each fuzz target that the page on security names is there."""
        text = self.page("docs", "security.md")
        named = re.findall(r"`(tests\.[\w.]+)`", text)
        self.assertGreater(len(named), 40)
        for name in named:
            module, _, cls = name.rpartition(".")
            if not cls[0].isupper():
                module, cls = name, ""
            path = os.path.join(*module.split(".")) + ".py"
            found = parsed(self.page(path)).body
            classes = {one.name for one in found if isinstance(one, ast.ClassDef)}
            self.assertIn(cls, classes | {""}, name)
        for path in re.findall(r"`((?:\w+/)*\w+\.py)`", text):
            root = ROOT if path.startswith("tests/") else os.path.join(ROOT, "deferrals")
            self.assertTrue(os.path.exists(os.path.join(root, path)), path)
        cells = [line.split(" | ")[-1] for line in text.splitlines() if line.startswith("| S")]
        for promise in cells:
            self.assertRegex(promise, r"`tests\.")
        targets = re.findall(r"fuzz targets? ((?:`\w+`(?:, )?)+)", text)
        self.assertLessEqual(set(re.findall(r"\w+", "".join(targets))), set(TARGETS))

    def test_marks(self) -> None:
        """A mark is one id at the head of a comment, or a decorator; a mention is none."""
        found = self.generate["_CODE"].match
        self.assertEqual(found("# D-19")[1], "D-19")
        self.assertEqual(found("#: D-18, D-19: why")[1], "D-18, D-19")
        for text in ("# see D-19", "# D-1 to D-3", "# D-19 is meant", "# RFC 2033 (D-19)"):
            self.assertIsNone(found(text), text)
        tree = ast.parse('@requirement("D-1")\ndef test_a(self):\n    "D-2"')
        claims = list(self.generate["claims"]("x/test_y.py", tree))
        self.assertEqual(claims, [("D-1", "x/test_y.test_a")])

    def test_everyStage(self) -> None:
        """Each built-in stage, and kind of table, has a page with its settings, and is listed."""
        listed = self.page("docs", "configuration.md")
        for plugin in stagePlugins().values():
            if not type(plugin).__module__.startswith("deferrals."):
                continue
            settings = f"{plugin.settings.__module__}.{plugin.settings.__name__}"
            pages = [
                p
                for p in self.generate["pages"]()
                if f"<!-- settings: {settings} -->" in self.page(p)
            ]
            self.assertEqual(len(pages), 1, settings)
            self.assertIn(os.path.relpath(pages[0], os.path.join(ROOT, "docs")), listed)

    def test_everySetting(self) -> None:
        """Every settings class describes each of its keys."""
        for plugin in stagePlugins().values():
            if type(plugin).__module__.startswith("deferrals."):
                words = self.generate["described"](plugin.settings)
                names = [field.name for field in attrs.fields(plugin.settings)]
                self.assertEqual(sorted(words), sorted(names), plugin.name)

    def test_markup(self) -> None:
        """What docstrings are written in does not come through."""
        docs = os.path.join(ROOT, "docs")
        for directory in (docs, os.path.join(docs, "stages")):
            for name in os.listdir(directory):
                if name.endswith(".md"):
                    found = re.findall(r"\b[CLIB]\{[^}\n]*\}", self.page(directory, name))
                    self.assertEqual(found, [], name)

    def test_links(self) -> None:
        """Links between pages lead somewhere."""
        for path in [*self.generate["pages"](), os.path.join(ROOT, "README.md")]:
            for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", self.page(path)):
                if "://" not in target:
                    full = os.path.join(os.path.dirname(path), target)
                    self.assertTrue(os.path.exists(full), f"{path}: {target}")

    def test_readme(self) -> None:
        """The README has both commands as they are run, and no path of any machine."""
        page = self.page("README.md")
        run = "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/twistd -n deferrals"
        test = (
            "python3 -m venv .venv && .venv/bin/pip install -q '.[test]'"
            " && .venv/bin/python -m twisted.trial -j 2 tests"
        )
        self.assertIn(run, page)
        self.assertIn(test, page)
        self.assertIn(test, self.page(".ci", "run"))


class EmbeddingTests(SynchronousTestCase):
    """
    C{docs/embedding.md}: what it shows is what runs.  The example as a process,
    with a client, is in C{tests/integration/test_embedding.py}.
    """

    def setUp(self) -> None:
        with open(os.path.join(ROOT, "docs", "embedding.md"), encoding="utf-8") as file:
            page = file.read()
        self.example, *self.blocks = re.findall(r"```python\n(.*?)```", page, re.S)

    def test_example(self) -> None:
        """The page shows the file, and it is short."""
        with open(os.path.join(ROOT, "docs", "examples", "lists.tac"), encoding="utf-8") as file:
            self.assertEqual(self.example, file.read())
        self.assertLess(len([line for line in self.example.splitlines() if line]), 45)

    def certificate(self) -> str:
        directory = self.mktemp()
        os.mkdir(directory)
        pem = ""
        for path in makeCertificate(directory):
            with open(path, encoding="ascii") as file:
                pem += file.read()
        return pem

    def test_blocks(self) -> None:
        """Its other pieces run as they stand."""
        reactor = MemoryReactorClock()
        names: dict[str, Any] = {**vars(ssl), **vars(interfaces), **vars(server)}
        stages = self.example[self.example.index("BANNED") : self.example.index("application = ")]
        imports = self.example[: self.example.index("BANNED")]
        exec(imports.replace("from twisted.internet import reactor, task\n", ""), names)
        names.update(reactor=reactor, task=None, print=lambda *_: None, pem=self.certificate())
        exec(stages, names)
        self.assertEqual(len(self.blocks), 3)
        for block in self.blocks:
            exec(block, names)
        self.assertEqual(len(reactor.tcpServers), 1)
        self.successResultOf(names["d"])


class TestingPageTests(SynchronousTestCase):
    """
    C{docs/testing-a-stage.md} and C{docs/writing-a-stage.md}, with the stages of the
    examples that they name.
    """

    def test_testing(self) -> None:
        """Its pieces run as they stand, and the contract in it passes."""
        self.check("testing-a-stage.md", "deferrals-village/village.py", "SmallBagTests")

    def test_writing(self) -> None:
        """Likewise the other page's."""
        example = "deferrals-quiet-hours/quiet_hours.py"
        self.check("writing-a-stage.md", example, "QuietHoursTests")

    def check(self, page: str, example: str, tests: str) -> None:
        """
        @param tests: the class of tests that the page has.
        """
        with open(os.path.join(ROOT, "docs", page), encoding="utf-8") as file:
            blocks = re.findall(r"```python\n(.*?)```", file.read(), re.S)
        path = os.path.join(ROOT, "docs", "examples", *example.split("/"))
        names = {**runpy.run_path(path), **vars(testing)}
        names["SynchronousTestCase"] = SynchronousTestCase
        for block in blocks:
            exec(block, names)
        suite = runner.TestLoader().loadClass(names[tests])
        result = reporter.TestResult()
        suite.run(result)
        self.assertGreater(result.successes, 3)
        self.assertTrue(result.wasSuccessful())
