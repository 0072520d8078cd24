"""
How the stages that come with the server are offered, and how all are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
from twisted.plugin import IPlugin, getPlugins
from twisted.python.reflect import namedAny
from zope.interface import Interface, implementer

import deferrals.plugins
from deferrals.interfaces import IServices, IStagePlugin


@implementer(IStagePlugin, IPlugin)
@attrs.frozen
class StagePlugin:
    """
    A stage named by strings, so that its module, and what that imports, is
    loaded only where a configuration uses it.

    @ivar name: the word behind C{use =}.
    @ivar stage: the interface of what it builds.
    @ivar module: where it is.
    @ivar settingsName: its settings class.
    @ivar stageName: its class, called with the settings and the services.
    @ivar outward: see L{IStagePlugin}.
    """

    name: str
    stage: type[Interface]
    module: str
    settingsName: str
    stageName: str
    outward: bool = False

    @property
    def settings(self) -> type:
        """
        See L{IStagePlugin}.
        """
        found: type = namedAny(f"{self.module}.{self.settingsName}")
        return found

    def build(self, settings: object, services: IServices) -> object:
        """
        See L{IStagePlugin.build}.
        """
        build: Callable[[object, IServices], object] = namedAny(f"{self.module}.{self.stageName}")
        return build(settings, services)


def stagePlugins() -> dict[tuple[type[Interface], str], IStagePlugin]:
    """
    All stages there are, by interface and name.
    """
    found: Iterable[IStagePlugin] = getPlugins(IStagePlugin, deferrals.plugins)
    return {(plugin.stage, plugin.name): plugin for plugin in found}
