"""
How the stages and tables that come with the server are offered, how all are found,
and how one is built.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackagePath, distributions

import attrs
from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import Interface, implementer
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

import deferrals.plugins
from deferrals.errors import ConfigError
from deferrals.interfaces import (
    IContentStage,
    IDeliveryStage,
    IEnvelopeStage,
    INamedPlugin,
    IOutwardPlugin,
    IServices,
    IStagePlugin,
    ITable,
    ITablePlugin,
)
from deferrals.logger import Logger
from deferrals.plugins.editable import editableRoot

_log = Logger(namespace="deferrals.plugins")

#: What a plugin can build.
STAGES = (IEnvelopeStage, IContentStage, IDeliveryStage)


class _Named:
    """
    What is named by strings, so that its module, and what that imports, is
    loaded only where a configuration uses it.

    @ivar name: the word behind C{use =}.
    @ivar module: where it is.
    @ivar settingsName: its settings class.
    @ivar className: its class, called with the settings and the services.
    """

    name: str
    module: str
    settingsName: str
    className: str

    @property
    def settings(self) -> type:
        found: type = namedAny(f"{self.module}.{self.settingsName}")
        return found

    def build(self, settings: object, services: IServices) -> object:
        build: Callable[[object, IServices], object] = namedAny(f"{self.module}.{self.className}")
        return build(settings, services)


@implementer(IStagePlugin, IPlugin)
@attrs.frozen
class StagePlugin(_Named):
    """
    A stage.

    @ivar stage: the interface of what it builds.
    """

    name: str
    stage: type[Interface]
    module: str
    settingsName: str
    className: str


@implementer(ITablePlugin, IPlugin)
@attrs.frozen
class TablePlugin(_Named):
    """
    A kind of table.
    """

    name: str
    module: str
    settingsName: str
    className: str


@implementer(IOutwardPlugin)
class OutwardPlugin(StagePlugin):
    """
    A delivery that leads out.
    """


@attrs.frozen
class FoundPlugin:
    """
    A plugin, and where it was found.

    @ivar module: the module's dotted name.
    @ivar file: its file.
    """

    plugin: INamedPlugin
    module: str
    file: str

    @property
    def key(self) -> tuple[type[Interface], str]:
        """
        What a configuration finds it by.
        """
        return built(self.plugin), self.plugin.name

    def __str__(self) -> str:
        return f"{packageOf(self.file)} ({self.file})"


@attrs.frozen
class BrokenModule:
    """
    A module whose plugins cannot be had.

    @ivar why: what is wrong with it.
    """

    module: str
    file: str
    why: str

    def __str__(self) -> str:
        return f"{self.file}: {self.why}"


def built(plugin: INamedPlugin) -> type[Interface]:
    """
    The interface of what a plugin builds.
    """
    stage: type[Interface] = getattr(plugin, "stage", ITable)
    return stage


def findPlugins() -> tuple[list[FoundPlugin], list[BrokenModule]]:
    """
    All plugins for stages and tables, in the order in which they are found, and the
    modules that cannot be used.
    """
    importlib.invalidate_caches()  # a package may have come since the last time
    found: list[FoundPlugin] = []
    broken: list[BrokenModule] = []
    files: dict[str, str] = {}
    for directory in deferrals.plugins.__path__:
        for info in pkgutil.iter_modules([directory]):
            module, file = f"deferrals.plugins.{info.name}", _file(directory, info)
            if files.setdefault(module, file) != file:
                broken.append(BrokenModule(module, file, f"{files[module]} has the same name"))
                continue
            try:
                found += _pluginsOf(module, file)
            except (Exception, SystemExit) as error:
                why = f"cannot be imported: {type(error).__name__}: {error}"
                broken.append(BrokenModule(module, file, why))
    return found, broken


def _file(directory: str, info: pkgutil.ModuleInfo) -> str:
    name = os.path.join(info.name, "__init__") if info.ispkg else info.name
    return os.path.join(directory, f"{name}.py")


def _pluginsOf(module: str, file: str) -> Iterator[FoundPlugin]:
    """
    The plugins that are values of a module's global names.
    """
    seen: list[object] = []
    for value in vars(importlib.import_module(module)).values():
        if INamedPlugin.providedBy(value) and not any(value is one for one in seen):
            seen.append(value)
            isTable = ITablePlugin.providedBy(value)
            if not (isTable or built(value) in STAGES) or not isinstance(value.name, str):
                raise TypeError(f"{value!r} has no name, or builds no stage")
            yield FoundPlugin(value, module, file)


def stagePlugins() -> dict[tuple[type[Interface], str], INamedPlugin]:
    """
    All stages and tables there are, by interface and name.

    @raise ConfigError: there are two of one interface and name.
    """
    found, broken = findPlugins()
    for module in broken:
        _log.warn("no stages from {module}", module=str(module))
    problems = doubles(found)
    if problems:
        raise ConfigError("plugins", [("", problem) for problem in problems])
    return {one.key: one.plugin for one in found}


def doubles(found: list[FoundPlugin]) -> list[str]:
    """
    What is wrong where two plugins have one interface and one name.
    """
    first: dict[tuple[type[Interface], str], FoundPlugin] = {}
    problems = []
    for one in found:
        other = first.setdefault(one.key, one)
        if other is not one:
            stage, name = one.key
            problems.append(f"two stages of {stage.__name__} are called {name}: {other}, {one}")
    return problems


def packageOf(file: str) -> str:
    """
    The name and version of the installed package that a file belongs to; its
    directory's, where there is none.
    """
    path = os.path.realpath(file)
    for distribution in distributions():
        root = editableRoot(distribution)
        inside = root is not None and path.startswith(os.path.realpath(root) + os.sep)
        if inside or _owns(distribution.files or (), path):
            return f"{distribution.metadata['Name']} {distribution.version}"
    return os.path.dirname(file)


def _owns(files: Iterable[PackagePath], path: str) -> bool:
    name = os.path.basename(path)
    return any(one.name == name and os.path.realpath(str(one.locate())) == path for one in files)


def build(plugin: INamedPlugin, settings: object, services: IServices) -> object:
    """
    Have a plugin build its stage, or its table.

    @raise ValueError: the settings cannot be, or what was built is none such;
        the text says what was expected.
    """
    try:
        made = plugin.build(settings, services)
    except ValueError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"a stage that can be built; {plugin.name} fails: {type(error).__name__}: {error}"
        ) from error
    checkStage(built(plugin), made, f"{plugin.name} has built")
    services.status.named(made, plugin.name)
    return made


def checkStage(interface: type[Interface], stage: object, what: str) -> None:
    """
    @param what: begins the text, e.g. C{"x has built"}.
    @raise ValueError: it does not provide the interface, or cannot be hashed.
    """
    name = interface.__name__
    try:
        verifyObject(interface, stage)
    except Invalid as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"an object that provides {name}; {what} {stage!r}: {reason}") from None
    try:
        hash(stage)
    except Exception:
        raise ValueError(
            f"an object that can be hashed; {what} {stage!r}: attrs classes need eq=False"
        ) from None
