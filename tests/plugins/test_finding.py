"""
Which stages are found, and what is said of those that cannot be used.
"""

from __future__ import annotations

import os
import sys
import textwrap

import attrs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface, implementer

import deferrals.plugins
from deferrals.errors import ConfigError
from deferrals.interfaces import (
    IContentStage,
    IDeliveryStage,
    IEnvelopeStage,
    IOutwardPlugin,
    IStagePlugin,
)
from deferrals.plugins.finding import build, findPlugins, packageOf, stagePlugins
from deferrals.testing import FakeServices

PLUGIN = """
from zope.interface import implementer
from deferrals.interfaces import IContentStage, IDeliveryStage, IStagePlugin

@implementer(IStagePlugin)
class Plugin:
    name = {name!r}
    stage = {stage}
    settings = dict

    def build(self, settings, services):
        return None

plugin = other = Plugin()
"""


class PluginCase(SynchronousTestCase):
    """
    A directory of plugins beside the server's own.
    """

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.makedirs(self.directory)
        self.patch(deferrals.plugins, "__path__", [*deferrals.plugins.__path__, self.directory])

    def write(self, module: str, text: str) -> str:
        """
        @return: the module's file.
        """
        path = os.path.join(self.directory, f"{module}.py")
        with open(path, "w") as file:
            file.write(textwrap.dedent(text))
        self.addCleanup(sys.modules.pop, f"deferrals.plugins.{module}", None)
        return path


class FindTests(PluginCase):
    """
    L{findPlugins} and L{stagePlugins}.
    """

    def test_builtin(self) -> None:
        """They are found by interface and name, and their settings are attrs classes."""
        found = stagePlugins()
        self.assertIn((IContentStage, "match"), found)
        self.assertIn((IDeliveryStage, "maildir"), found)
        for plugin in found.values():
            self.assertTrue(attrs.has(plugin.settings), plugin.name)

    def test_outward(self) -> None:
        """The deliveries that lead out say so by their interface."""
        outward = {
            plugin.name for plugin in stagePlugins().values() if IOutwardPlugin.providedBy(plugin)
        }
        self.assertEqual(outward, {"forward", "mx", "smtp"})

    def test_found(self) -> None:
        """One that another package brings is there once, with its module and its file."""
        path = self.write("found_plugin", PLUGIN.format(name="found", stage="IContentStage"))
        found, broken = findPlugins()
        (one,) = [one for one in found if one.plugin.name == "found"]
        self.assertEqual((one.module, one.file), ("deferrals.plugins.found_plugin", path))
        self.assertEqual(broken, [])

    def test_double(self) -> None:
        """A name that is taken is an error that says by whom (P12)."""
        path = self.write("double_plugin", PLUGIN.format(name="rspamd", stage="IContentStage"))
        error = self.assertRaises(ConfigError, stagePlugins)
        self.assertIn("two stages of IContentStage are called rspamd: ", str(error))
        self.assertIn(os.path.join("plugins", "builtin.py"), str(error))
        self.assertIn(path, str(error))

    def test_sameNameOtherInterface(self) -> None:
        """A content stage and a delivery may have one name."""
        found = stagePlugins()
        self.assertIn((IContentStage, "http"), found)
        self.assertIn((IDeliveryStage, "http"), found)

    def test_broken(self) -> None:
        """A module that cannot be imported takes no other stage away."""
        self.write("broken_plugin", "import there_is_no_such_module\n")
        self.write("wrong_plugin", PLUGIN.format(name="wrong", stage="str"))
        self.write("builtin", "")
        self.write("ending_plugin", "raise SystemExit(3)\n")
        found, broken = findPlugins()
        self.assertIn("match", [one.plugin.name for one in found])
        whys = {one.module.rpartition(".")[2]: one.why for one in broken}
        self.assertIn("No module named 'there_is_no_such_module'", whys["broken_plugin"])
        self.assertIn("builds no stage", whys["wrong_plugin"])
        self.assertIn("has the same name", whys["builtin"])
        self.assertIn("SystemExit: 3", whys["ending_plugin"])
        self.assertIn((IContentStage, "match"), stagePlugins())

    def test_package(self) -> None:
        """A file belongs to an installed package, or else to its directory."""
        self.assertTrue(packageOf(attrs.__file__).startswith("attrs "))
        self.assertEqual(packageOf(os.path.join(self.directory, "x.py")), self.directory)


@implementer(IContentStage)
class Good:
    """A content stage."""

    def cohort(self, recipient: object) -> None:
        """One."""

    def judge(self, message: object, envelope: object, recipients: object) -> None:
        """None at all."""


@implementer(IContentStage)
class Incomplete:
    """It says what it is not."""


@attrs.define
class Unhashable(Good):
    """Compared by its values."""


class Builds:
    """A plugin that builds something."""

    name = "it"

    def __init__(self, stage: type[Interface], result: object) -> None:
        self.stage = stage
        self.result = result

    def build(self, settings: object, services: object) -> object:
        """What was said, or raises it."""
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class BuildTests(SynchronousTestCase):
    """
    L{build}.
    """

    def build(self, result: object, stage: type[Interface] = IContentStage) -> object:
        plugin: IStagePlugin = Builds(stage, result)  # type: ignore[assignment]
        return build(plugin, None, FakeServices())

    def refused(self, result: object, stage: type[Interface] = IContentStage) -> str:
        return str(self.assertRaises(ValueError, self.build, result, stage))

    def test_good(self) -> None:
        """What provides its interface, and can be hashed, is a stage."""
        stage = Good()
        self.assertIs(self.build(stage), stage)

    def test_notProvided(self) -> None:
        """What does not is none: the text names the interface, and what is missing (P11)."""
        self.assertIn("an object that provides IContentStage; it has built", self.refused(object()))
        self.assertIn("IDeliveryStage", self.refused(Good(), IDeliveryStage))
        self.assertIn("cohort", self.refused(Incomplete()))
        self.assertIn("IEnvelopeStage", self.refused(None, IEnvelopeStage))

    def test_notHashable(self) -> None:
        """Stages are compared by identity (P9)."""
        self.assertIn("an object that can be hashed; it has built", self.refused(Unhashable()))

    def test_raises(self) -> None:
        """What a plugin says about its settings stays; any other failure is named."""
        self.assertEqual(self.refused(ValueError("a number")), "a number")
        self.assertIn("it fails: ZeroDivisionError: oh", self.refused(ZeroDivisionError("oh")))
        self.assertIn("it fails: SystemExit: 3", self.refused(SystemExit(3)))
