"""
The stages that come with the server, and those of plugins, by their names.
"""

from __future__ import annotations

from typing import Any, TypeVar

from cattrs.errors import BaseValidationError

from deferrals.config.structuring import apart, makeConverter, problemsOf, structured
from deferrals.errors import ConfigError
from deferrals.interfaces import IServices, ITable
from deferrals.plugins.finding import build, stagePlugins
from deferrals.stages.tables.frame import Table, TableSettings

_I = TypeVar("_I")


def buildStage(interface: type[_I], name: str, services: IServices, /, **settings: object) -> _I:
    """
    Build a stage as a configuration does: C{buildStage(IDeliveryStage, "maildir",
    services, path="mail/{local}")} is C{{ use = "maildir", path = "mail/{local}" }}.

    @param interface: what is wanted: L{IEnvelopeStage}, L{IContentStage},
        L{IDeliveryStage} or L{ITable} of L{deferrals.interfaces}.
    @param name: the word behind C{use}.
    @param settings: the table's other keys, with values as TOML has them.
    @return: the stage.
    @raise ConfigError: there is no such stage, or it does not want these
        settings.
    """
    found = {key: one for (stage, key), one in stagePlugins().items() if stage is interface}
    title = f"{interface.__name__} {name}"
    if name not in found:
        raise ConfigError(title, [("", f"expected one of: {', '.join(sorted(found))}")])
    plugin = found[name]
    converter, isTable = makeConverter(), interface is ITable
    own, frame = apart(settings, TableSettings) if isTable else (settings, {})
    try:
        built: Any = build(plugin, structured(converter, own, plugin.settings), services)
        if isTable:
            built = Table(name, built, converter.structure(frame, TableSettings), services)
    except BaseValidationError as error:
        raise ConfigError(title, problemsOf(error)) from None
    except ValueError as error:
        raise ConfigError(title, [("", f"expected {error}")]) from None
    stage: _I = built
    return stage
