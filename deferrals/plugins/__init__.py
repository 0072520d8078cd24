"""
Stages that the configuration can name.

Somebody else's package adds one by putting a module with an
L{IStagePlugin<deferrals.interfaces.IStagePlugin>} into a directory
C{deferrals/plugins} of its own, which has no C{__init__.py}.
"""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
__all__: list[str] = []
