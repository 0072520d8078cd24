"""
Stages that the configuration can name.

Another package adds one: it has a directory C{deferrals/plugins}, without an
C{__init__.py}, and in it a module with an
L{IStagePlugin<deferrals.interfaces.IStagePlugin>}.
"""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
__all__: list[str] = []
