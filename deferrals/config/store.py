"""
What a configuration says of a database that several servers share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deferrals.postgresql import checkConninfo, hasDriver

if TYPE_CHECKING:
    from deferrals.config.tables import Config


def storeProblems(config: Config) -> list[tuple[str, str]]:
    """
    What only the driver knows.
    """
    settings = config.spool
    if settings.conninfo is None:
        return []
    if not hasDriver():
        name = "spool.use" if settings.use == "postgresql" else "spool.notes"
        return [(name, "expected the extra deferrals[postgresql] to be installed")]
    try:
        checkConninfo(settings.conninfo)
    except ValueError as error:
        why = f": {error}" if str(error) else ""
        return [("spool.conninfo", f"expected a libpq connection string{why}")]
    return []
