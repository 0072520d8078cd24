"""
Queries of tables, the same for all databases.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable

from deferrals.model.tablekeys import NAMES, TableKeys, TableRow

DEFAULT_QUERY = (
    "SELECT * FROM users WHERE address IN (:address, :user || '@' || :domain, '*@' || :domain)"
    " ORDER BY address = :address DESC, address = :user || '@' || :domain DESC LIMIT 1"
)

#: What is between quotes is no name.
NAME = re.compile(rf"'(?:[^']|'')*'|(?<!:):({'|'.join(NAMES)})\b")


def checkQuery(value: str) -> None:
    """
    For L{checked<deferrals.model.settings.checked>}.
    """
    if not value.lstrip().lower().startswith(("select", "with")) or not sqlite3.complete_statement(
        value.rstrip().rstrip(";") + ";"
    ):
        raise ValueError("one SELECT")


def firstRow(
    query: str, keys: TableKeys, find: Callable[[dict[str, str]], TableRow | None]
) -> TableRow | None:
    """
    A query that names C{:user} says itself which row comes first, and is asked once.

    @param find: asks with the values of names.
    """
    turns = [keys] if any(one[1] == "user" for one in NAME.finditer(query)) else keys.inTurn()
    return next((row for one in turns if (row := find(one.named)) is not None), None)
