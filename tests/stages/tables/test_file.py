"""
The table C{file}.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import string

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import TableError
from deferrals.interfaces import ITable
from deferrals.model.json import JSON
from deferrals.stages.tables.file import FileTable, FileTableSettings, readRows, rowOf
from deferrals.testing import FakeServices, WideTableContract, tableKeys


class FileTableTests(WideTableContract, SynchronousTestCase):
    """
    L{FileTable}.
    """

    def makeTable(self, rows: dict[str, dict[str, JSON]]) -> ITable:
        self.path = os.path.abspath(self.mktemp())
        self.write("".join(f"{key}: {json.dumps(row)}\n" for key, row in rows.items()))
        return FileTable(FileTableSettings(os.path.basename(self.path)), self.services())

    def services(self) -> FakeServices:
        return FakeServices(os.path.dirname(self.path))

    def write(self, text: str) -> None:
        with open(f"{self.path}.new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(f"{self.path}.new", self.path)

    def breakTable(self, table: ITable) -> None:
        os.unlink(self.path)

    def test_text(self) -> None:
        """A value that is text is the column C{value}."""
        table = self.makeTable({})
        self.write("# these\n\nAnna@Example.NET:  bob@example.net, x y  \nempty@example.net:\n")
        row = self.resultOf(table.lookUp(tableKeys("anna@example.net")))
        self.assertEqual(row, {"value": "bob@example.net, x y"})
        row = self.resultOf(table.lookUp(tableKeys("empty@example.net")))
        self.assertEqual(row, {"value": ""})

    def test_changed(self) -> None:
        """A file that has changed is read again; one that has not is not."""
        table = self.makeTable({"a@example.net": {"value": "1"}})
        keys = tableKeys("a@example.net")
        self.assertEqual(self.resultOf(table.lookUp(keys)), {"value": "1"})
        self.write("a@example.net: 2\n")
        self.assertEqual(self.resultOf(table.lookUp(keys)), {"value": "2"})
        assert isinstance(table, FileTable)
        rows = table._file.now()
        self.resultOf(table.lookUp(keys))
        self.assertIs(table._file.now(), rows)

    def test_badRow(self) -> None:
        """
        A file with a value that cannot be read is none: otherwise mail for that one
        recipient alone would have the table left alone for all.
        """
        table = self.makeTable({"a@example.net": {"value": 1}})
        self.write('a@example.net: {"value": 1}\nb@example.net: {"value": x}\n')
        for address in ("a@example.net", "b@example.net"):
            d = table.lookUp(tableKeys(address))
            self.assertIn("line 2: ", str(self.failureResultOf(d, TableError).value))

    def test_lines(self) -> None:
        """A line that is none, or a key that is there twice, is an error that says which."""
        for text, line in (
            ("a@example.net\n", 1),
            ("\n: x\n", 2),
            ("a@example.net:x\n", 1),
            ("a@example.net: 1\nA@example.net: 2\n", 2),
            ("a@example.net: 1\nb@example.net: {\n", 2),
        ):
            error = self.assertRaises(TableError, readRows, text)
            self.assertIn(f"line {line}: ", str(error), text)
        rows = readRows("root: a\nu@[IPv6:2001:db8::1]: b\r\n")
        self.assertEqual(rows, {"root": {"value": "a"}, "u@[IPv6:2001:db8::1]": {"value": "b"}})

    def test_values(self) -> None:
        """What begins as JSON is JSON, or an error, however deep."""
        self.assertEqual(rowOf('{"a": [1, null]}'), {"a": [1, None]})
        for bad in ("{", "{'a': 1}", '{"a":' * 5000, "{" + "[" * 100_000):
            self.assertRaises(TableError, rowOf, bad)

    def test_anyText(self) -> None:
        """Whatever a file says, it is values or a L{TableError}."""
        made = random.Random(33)
        for _ in range(300):
            letters = made.choices(string.printable + "ä:@*{}\x00", k=40)
            with contextlib.suppress(TableError):
                readRows("".join(letters))
