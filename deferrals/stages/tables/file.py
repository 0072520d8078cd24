"""
The table C{file}: lines of text, C{key: value}, read again when the file has changed.

A value that begins with a brace is an object of JSON, and its keys are columns; any
other is the column C{value}.  A file with a line that cannot be read is none: what
was known from before serves.
"""

from __future__ import annotations

import json
import os
import re

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from deferrals.errors import TableError
from deferrals.interfaces import IServices, ITable
from deferrals.model.address import AddressError, Mailbox, comparable
from deferrals.model.tablekeys import TableKeys, TableRow
from deferrals.operatorfiles import OperatorFile, readText
from deferrals.threads import Threads

#: What ends a key: the colon within an address of IPv6 has no blank behind it.
_END = re.compile(r":(?=\s|$)")


@attrs.frozen
class FileTableSettings:
    """
    @ivar path: a file with a line C{key: value} for each row.  A key is an address, or
        C{*@domain}; a value is text, or an object of JSON with a value for each column.
        Blank lines, and those that begin with C{#}, are left out.
    """

    path: str


@implementer(ITable)
class FileTable:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: FileTableSettings, services: IServices) -> None:
        self._file = OperatorFile(os.path.join(services.baseDir, settings.path), readRows)
        self._threads = Threads(services.inThread, 1)

    def lookUp(self, keys: TableKeys) -> Deferred[TableRow | None]:
        return self._threads.run(self._find, keys)

    def _find(self, keys: TableKeys) -> TableRow | None:
        """
        In the thread.
        """
        rows = self._file.now()
        found = (rows.get(one.address) for one in keys.inTurn())
        return next((one for one in found if one is not None), None)


def rowsIn(path: str) -> dict[str, TableRow]:
    """
    The rows of a file, by their keys.  Blocks.

    @raise OSError: it cannot be read.
    @raise ValueError: it is no file, too large, or no UTF-8.
    @raise TableError: a line is none, or a key is there twice.
    """
    return readRows(readText(path))


def readRows(text: str) -> dict[str, TableRow]:
    """
    @return: the rows of a file, by their keys.
    @raise TableError: a line is none, or a key is there twice.
    """
    rows: dict[str, TableRow] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        end = _END.search(line)
        if end is None or not end.start():
            raise TableError(f"line {number}: expected key: value")
        key = _key(line[: end.start()].rstrip())
        if key in rows:
            raise TableError(f"line {number}: {key} is there twice")
        try:
            rows[key] = rowOf(line[end.end() :].strip())
        except TableError as error:
            raise TableError(f"line {number}: {error}") from None
    return rows


def _key(text: str) -> str:
    try:
        return Mailbox.parse(text).key
    except AddressError:
        return comparable(text)


def rowOf(value: str) -> TableRow:
    """
    @raise TableError: it begins as JSON, and is none.
    """
    if not value.startswith("{"):
        return {"value": value}
    try:
        row: TableRow = json.loads(value)
    except (ValueError, RecursionError):
        raise TableError("a value that is no JSON") from None
    return row
