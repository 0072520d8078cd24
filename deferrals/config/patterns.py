"""
What looks like a pattern of addresses and is none: C{*} means something in C{*@domain},
C{*@*.domain} and C{*} only.  Elsewhere it stands for itself, since a local part may have
it, and so the rule, or the row, is for hardly anybody.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from deferrals.config.everysetting import everySetting
from deferrals.errors import TableError
from deferrals.stages.envelope.ownsenders import Senders
from deferrals.stages.envelope.rules import isTakenLiterally
from deferrals.stages.tables.file import FileTableSettings, rowsIn

if TYPE_CHECKING:
    from deferrals.config.tables import Config

#: So many keys of a table are named.
MAX_NAMED = 20

_RULES = "*@domain, *@*.domain and * are the patterns"

_ROWS = "*@domain is for all of a domain"


def patternRemarks(config: Config) -> Iterator[tuple[str, str]]:
    """
    @return: the keys of patterns that a configuration has, and what they are for.
    """
    for index, rule in enumerate(config.recipients):
        if isTakenLiterally(rule.match):
            yield f"recipients[{index}].match", _said(rule.match, _RULES)
    for key, settings in everySetting(config):
        senders = getattr(settings, "senders", None)
        if isinstance(senders, Senders) and senders.others != "any":
            for text in filter(isTakenLiterally, senders.others):
                yield f"{key}.senders", _said(text, _RULES)


def rowRemarks(config: Config) -> Iterator[tuple[str, str]]:
    """
    @return: the same of keys in files of tables.  Reads the files: not for a server that
        runs.
    """
    for name, table in config.tables.items():
        if isinstance(table.settings, FileTableSettings):
            try:
                rows = rowsIn(os.path.join(config.baseDir, table.settings.path))
            except (OSError, ValueError, TableError):
                continue  # others say so
            found = [one for one in rows if isTakenLiterally(one) or one.startswith("*@*")]
            for one in found[:MAX_NAMED]:
                yield f"tables.{name}.path", _said(one, _ROWS)
            if len(found) > MAX_NAMED:
                yield f"tables.{name}.path", f"{len(found) - MAX_NAMED} more such keys"


def _said(text: str, instead: str) -> str:
    return f"the * in {text[:100]} stands for itself: {instead}"
