"""
Stages that the configuration can name.

Another package adds one: it has a directory C{deferrals/plugins}, without an
C{__init__.py}, and in it a module with an
L{IStagePlugin<deferrals.interfaces.IStagePlugin>}.
"""

from twisted.plugin import pluginPackagePaths

from deferrals.plugins.editable import editableDirectories

__path__.extend(pluginPackagePaths(__name__))
__path__.extend(editableDirectories(__name__, __path__))
__all__: list[str] = []
