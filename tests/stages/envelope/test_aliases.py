"""
The envelope stage C{aliases}.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.errors import TableError
from deferrals.interfaces import ITable
from deferrals.model.settings import BadSetting, TableName
from deferrals.model.tablekeys import TableKeys
from deferrals.model.verdict import Expand, Refuse
from deferrals.stages.envelope.aliases import AliasesSettings, AliasesStage, AliasFile
from deferrals.testing import EnvelopeStageContract, FakeServices, makeEnvelope, makeRecipient


@implementer(ITable)
class _Rows:
    """
    A table by address.
    """

    def __init__(self, rows: dict[str, Any]) -> None:
        self._rows = rows

    def lookUp(self, keys: TableKeys) -> Deferred[Any]:
        if keys.user == "away":
            return fail(TableError("it is away"))
        found = (self._rows.get(one.address) for one in keys.inTurn())
        return succeed(next((one for one in found if one is not None), None))


class AliasesTests(EnvelopeStageContract, SynchronousTestCase):
    """
    L{AliasesStage}.
    """

    text = "somebody: anna, bert@example.org\nBert: bert, carl\nprog: |x\n"

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_text(self.text)
        self.services = FakeServices()

    def makeStage(self, **settings: Any) -> AliasesStage:
        return AliasesStage(AliasesSettings(str(self.path.absolute()), **settings), self.services)

    def judge(self, stage: AliasesStage, address: str) -> Any:
        said = stage.judgeRecipient(makeEnvelope(), makeRecipient(address))
        return self.successResultOf(said) if isinstance(said, Deferred) else said

    def members(self, stage: AliasesStage, address: str) -> list[str] | None:
        found = self.judge(stage, address)
        return None if found is None else [str(one) for one in found.members]

    def test_members(self) -> None:
        """A name, whatever its case; its members are of its own domain."""
        stage = self.makeStage(nesting=3, members=7, refusers="drop", later=0)
        found = self.judge(stage, "SOMEBODY@example.net")
        assert isinstance(found, Expand)
        self.assertEqual(list(map(str, found.members)), ["anna@example.net", "bert@example.org"])
        self.assertEqual(
            (found.nesting, found.most, found.refusers, found.later), (3, 7, "drop", 0)
        )
        self.assertEqual(
            self.members(stage, "bert@example.net"), ["bert@example.net", "carl@example.net"]
        )
        self.assertIsNone(self.judge(stage, "anna@example.net"))

    def test_fault(self) -> None:
        """A line that cannot be read refuses for now, and is in the log."""
        with capturedLogs() as events:
            stage = self.makeStage()
            verdict = self.judge(stage, "prog@example.net")
        assert isinstance(verdict, Refuse)
        self.assertEqual(verdict.reply.code, 451)
        said = [formatEvent(event) for event in events]
        self.assertEqual(len(said), 1)
        self.assertIn(", line 3: a program is no member", said[0])

    def test_virtual(self) -> None:
        """Address, then user, then name, then domain."""
        self.path.write_text(
            "anna+x@example.net a\nanna@example.net b\nbert c\n@example.net d\n"
            "@old.example @new.example\n"
        )
        stage = self.makeStage(format="virtual", subaddress="+")
        for address, expected in (
            ("anna+x@example.net", "a@example.net"),
            ("anna+y@example.net", "b@example.net"),
            ("bert+y@example.org", "c@example.org"),
            ("dora@example.net", "d@example.net"),
            ("dora+y@old.example", "dora+y@new.example"),
            ("dora@example.org", None),
        ):
            found = self.members(stage, address)
            self.assertEqual(found, None if expected is None else [expected], address)

    def test_table(self) -> None:
        """Members in a table: text, or a list; what is away, or no member, refuses for now."""
        stage = AliasesStage(AliasesSettings(table=TableName("t"), subaddress="+"), self.services)
        rows: dict[str, Any] = {
            "all@example.net": {"members": "anna, bert@example.org"},
            "some@example.net": {"members": ["anna", '"a b"']},
            "text@example.net": {"value": "anna\n@example.org"},
            "none@example.net": {"policy": "strict"},
            "bad@example.net": {"members": "|x"},
            "files@example.net": {"members": ":include:/etc/passwd"},
            "number@example.net": {"members": 5},
        }
        stage._source = _Rows(rows)
        for local, expected in (
            ("all", ["anna@example.net", "bert@example.org"]),
            ("ALL+x", ["anna@example.net", "bert@example.org"]),
            ("some", ["anna@example.net", '"a b"@example.net']),
            ("text", ["anna@example.net", "text@example.org"]),
            ("none", None),
            ("nobody", None),
        ):
            self.assertEqual(self.members(stage, f"{local}@example.net"), expected, local)
        for local in ("bad", "files", "number", "away"):
            verdict = self.judge(stage, f"{local}@example.net")
            assert isinstance(verdict, Refuse)
            self.assertEqual(verdict.reply.code, 451)

    def test_one(self) -> None:
        """A file, or a table, which has no format."""
        table = TableName("b")
        for settings, key in (
            ({}, "file"),
            ({"file": "a", "table": table}, "file"),
            ({"table": table, "format": "virtual"}, "format"),
            ({"table": table, "format": "aliases"}, "format"),
        ):
            error = self.assertRaises(BadSetting, AliasesSettings, **settings)
            self.assertEqual(error.key, key, settings)

    def test_tableAlone(self) -> None:
        """With a table there is no file to be looked after."""
        self.patch(self.services, "common", lambda key, build: self.fail(f"{key} is built"))
        AliasesStage(AliasesSettings(table=TableName("t")), self.services)

    def test_changed(self) -> None:
        """It is read again when it has changed, and what was read counts while it is away."""
        stage = self.makeStage()
        self.assertEqual(len(self.members(stage, "somebody@example.net") or ()), 2)
        self.path.write_text("somebody: dora\n")
        self.assertEqual(len(self.members(stage, "somebody@example.net") or ()), 2)
        self.services.reactor.advance(1)
        self.assertEqual(self.members(stage, "somebody@example.net"), ["dora@example.net"])
        os.unlink(self.path)
        with capturedLogs() as events:
            for _ in range(3):
                self.services.reactor.advance(1)
                self.assertEqual(self.members(stage, "somebody@example.net"), ["dora@example.net"])
        self.assertEqual(len(events), 1)
        self.assertIn("what was read before counts", formatEvent(events[0]))

    def test_never(self) -> None:
        """A file that never could be read: all wait."""
        os.unlink(self.path)
        verdict = self.judge(self.makeStage(), "anna@example.net")
        self.assertEqual(verdict.reply.code, 451)

    def test_notMeanwhile(self) -> None:
        """While it is read again, what was read before counts, and no client waits."""
        waiting: list[Deferred[None]] = []
        stage = self.makeStage()
        self.judge(stage, "anna@example.net")

        def later(function: Any, *args: Any) -> Any:
            waiting.append(Deferred())
            return waiting[-1].addCallback(lambda _: function(*args))

        self.services.inThread = later
        assert isinstance(stage._source, AliasFile)
        stage._source._inThread = later
        self.path.write_text("somebody: dora\n")
        self.services.reactor.advance(1)
        first = stage.judgeRecipient(makeEnvelope(), makeRecipient("somebody@example.net"))
        assert isinstance(first, Deferred)
        self.assertEqual(len(self.members(stage, "somebody@example.net") or ()), 2)
        waiting[0].callback(None)
        verdict = self.successResultOf(first)
        assert isinstance(verdict, Expand)
        self.assertEqual(list(map(str, verdict.members)), ["dora@example.net"])
        self.assertEqual(len(waiting), 1)

    def test_same(self) -> None:
        """Stages that name the same file read it once."""
        one, two = self.makeStage(), self.makeStage(later=1)
        self.assertIs(one._source, two._source)

    def test_many(self) -> None:
        """100,000 aliases are read once, and a look-up does not depend on their number."""
        self.path.write_text("".join(f"a{n}: b{n}, c{n}@example.org\n" for n in range(100_000)))
        stage = self.makeStage()
        self.assertEqual(
            self.members(stage, "a99999@example.net"), ["b99999@example.net", "c99999@example.org"]
        )
        for number in range(0, 100_000, 1000):
            self.assertIsNotNone(self.members(stage, f"a{number}@example.net"))
