"""
The frame of all tables.
"""

from __future__ import annotations

import datetime
from decimal import Decimal

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.errors import TableError
from deferrals.interfaces import ITable
from deferrals.model.json import JSON
from deferrals.model.tablekeys import TableKeys, TableRow
from deferrals.stages.remote import FAILURES, PAUSE_SECONDS, AboutMessage
from deferrals.stages.tables.frame import Table, TableSettings, plain
from deferrals.testing import FakeServices, WideTableContract, tableKeys


@implementer(ITable)
class Source:
    """
    What a test says: rows by address, or errors, or Deferreds.
    """

    def __init__(self) -> None:
        self.rows: dict[str, object] = {}
        self.broken: Exception | None = None
        self.asked: list[str] = []

    def lookUp(self, keys: TableKeys) -> Deferred[TableRow | None]:
        self.asked.append(keys.address)
        if self.broken is not None:
            return fail(self.broken)
        found = next(
            (self.rows[one.address] for one in keys.inTurn() if one.address in self.rows), None
        )
        if isinstance(found, Exception):
            return fail(found)
        d: Deferred[TableRow | None] = found if isinstance(found, Deferred) else succeed(found)
        return d


class FrameTests(WideTableContract, SynchronousTestCase):
    """
    L{Table}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.services = FakeServices()
        self.source = Source()

    def makeTable(self, rows: dict[str, dict[str, JSON]] | None = None, **settings: float) -> Table:
        self.source.rows.update(rows or {})
        return Table("people", self.source, TableSettings(**settings), self.services)

    def breakTable(self, table: ITable) -> None:
        self.source.broken = OSError("gone")

    def ask(self, table: ITable, address: str = "a@example.net") -> TableRow | None:
        found: TableRow | None = self.successResultOf(table.lookUp(tableKeys(address)))
        return found

    def advance(self, seconds: float) -> None:
        self.services.reactor.advance(seconds)

    def test_aboutAddress(self) -> None:
        """What cannot be asked about one address leaves the table as it is for all others."""
        table = self.makeTable({"a@example.net": {"value": 1}})
        deep: list[JSON] = []
        for _ in range(10_000):
            deep = [deep]
        odd = AboutMessage("no such character"), {"value": deep}, {"value": Decimal("sNaN")}
        with capturedLogs() as events:
            for count in range(2 * FAILURES):
                address = f"b{count}@example.net"
                self.source.rows[address] = odd[count % len(odd)]
                self.failureResultOf(table.lookUp(tableKeys(address)), TableError)
            self.assertEqual(self.ask(table), {"value": 1})
        self.assertEqual([formatEvent(event) for event in events], [])

    def test_cache(self) -> None:
        """A row, and its absence, is remembered until it expires, or all is renewed."""
        table = self.makeTable({"a@example.net": {"value": 1}}, cache=30)
        self.assertIs(self.ask(table), self.ask(table))
        self.assertIsNone(self.ask(table, "b@example.org"))
        self.advance(29)
        self.source.rows["b@example.org"] = {"value": 2}
        self.assertIsNone(self.ask(table, "b@example.org"))
        self.assertEqual(len(self.source.asked), 2)
        self.advance(1)
        self.assertEqual(self.ask(table, "b@example.org"), {"value": 2})
        table.renew()
        self.source.rows["b@example.org"] = {"value": 3}
        self.assertEqual(self.ask(table, "b@example.org"), {"value": 3})

    def test_renewedWhileAsked(self) -> None:
        """What was asked for before a renewal is no answer for who asks after it."""
        table, row = self.makeTable(), Deferred[TableRow]()
        self.source.rows["a@example.net"] = row
        d = table.lookUp(tableKeys("a@example.net"))
        table.renew()
        self.source.rows["a@example.net"] = {"value": "new"}
        self.assertEqual(self.ask(table), {"value": "new"})
        row.callback({"value": "old"})
        self.assertEqual(self.successResultOf(d), {"value": "old"})
        self.assertEqual(self.ask(table), {"value": "new"})

    def test_bounded(self) -> None:
        """So many are remembered, the ones that were asked for last."""
        table = self.makeTable(cache_entries=3)
        for name in "abcda":
            self.ask(table, f"{name}@example.net")
        self.assertEqual(len(self.source.asked), 5)
        self.ask(table, "d@example.net")
        self.assertEqual(len(self.source.asked), 5)

    def test_once(self) -> None:
        """Many equal look-ups at once ask once; who leaves hurts no other."""
        table, row = self.makeTable(), Deferred[TableRow]()
        self.source.rows["a@example.net"] = row
        all_ = [table.lookUp(tableKeys("a@example.net")) for _ in range(100)]
        all_[0].cancel()
        self.failureResultOf(all_[0], CancelledError)
        row.callback({"value": 1})
        for d in all_[1:]:
            self.assertEqual(self.successResultOf(d), {"value": 1})
        self.assertEqual(len(self.source.asked), 1)

    def test_cancelled(self) -> None:
        """When all have left, the source is let go, and the next one asks anew."""
        cancelled: list[object] = []
        table, row = self.makeTable(), Deferred[TableRow](cancelled.append)
        self.source.rows["a@example.net"] = row
        both = [table.lookUp(tableKeys("a@example.net")) for _ in range(2)]
        for d in both:
            self.assertEqual(cancelled, [])
            d.cancel()
            self.failureResultOf(d, CancelledError)
        self.assertEqual(cancelled, [row])
        self.source.rows["a@example.net"] = {"value": 1}
        self.assertEqual(self.ask(table), {"value": 1})

    def test_away(self) -> None:
        """
        While the source is away what was known serves, up to the limit; then look-ups
        fail; and when it is back it is asked.
        """
        logged = self.enterContext(capturedLogs())
        table = self.makeTable({"a@example.net": {"value": 1}}, cache=60, stale=3600)
        self.ask(table)
        self.breakTable(table)
        self.failureResultOf(table.lookUp(tableKeys("b@example.net")), TableError)
        for _ in range(60):
            self.advance(60)
            self.assertEqual(self.ask(table), {"value": 1})
        self.advance(60)
        error = self.failureResultOf(table.lookUp(tableKeys("a@example.net")), TableError)
        self.assertIn("table people cannot be asked: ", str(error.value))
        self.assertEqual(self.services.status.counted("table people", "stale"), 60)
        self.source.broken = None
        self.source.rows["a@example.net"] = {"value": 2}
        self.advance(3600)
        self.assertEqual(self.ask(table), {"value": 2})
        texts = [formatEvent(event) for event in logged]
        said = [one for one in texts if "what was known serves" in one]
        self.assertEqual(len(said), 1)
        self.assertIn("table people answers again", texts)

    def test_leftAlone(self) -> None:
        """A source that fails again and again is left alone for a while."""
        table = self.makeTable()
        self.breakTable(table)
        for number in range(FAILURES * 3):
            self.failureResultOf(table.lookUp(tableKeys(f"u{number}@example.net")), TableError)
        self.assertEqual(len(self.source.asked), FAILURES)
        self.advance(PAUSE_SECONDS)
        self.source.broken = None
        self.assertIsNone(self.ask(table))

    def test_slow(self) -> None:
        """A source that does not answer in time counts as one that fails."""
        table = self.makeTable({"a@example.net": {"value": 1}}, cache=10, timeout=5)
        self.ask(table)
        self.source.rows["a@example.net"] = Deferred()
        self.advance(11)
        d = table.lookUp(tableKeys("a@example.net"))
        self.advance(4)
        self.assertNoResult(d)
        self.advance(1)
        self.assertEqual(self.successResultOf(d), {"value": 1})
        self.source.rows["b@example.net"] = Deferred()
        d = table.lookUp(tableKeys("b@example.net"))
        self.advance(5)
        error = self.failureResultOf(d, TableError)
        self.assertIn("cannot be asked: no answer within 5 s", str(error.value))

    def test_malformed(self) -> None:
        """An answer that is no row is a failure."""
        table = self.makeTable(cache=0)
        for bad in ([], "text", 5, True, b"", [("a", 1)]):
            self.source.rows["a@example.net"] = bad
            error = self.failureResultOf(table.lookUp(tableKeys("a@example.net")), TableError)
            self.assertIn("expected a row", str(error.value))

    def test_plain(self) -> None:
        """Values are what JSON has, whatever a database has."""
        day = datetime.date(2026, 11, 29)
        for value, wanted in (
            (b"a\xff", "a\N{REPLACEMENT CHARACTER}"),
            (Decimal("5"), 5),
            (Decimal("5.5"), 5.5),
            (Decimal("Infinity"), float("inf")),
            ((1, [None]), [1, [None]]),
            ({1: day}, {"1": "2026-11-29"}),
        ):
            self.assertEqual(plain(value), wanted)
