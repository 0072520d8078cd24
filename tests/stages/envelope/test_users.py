"""
The envelope stage C{users}.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import StageError
from deferrals.model.envelope import Envelope
from deferrals.model.verdict import Defer, Refuse, Route
from deferrals.stages.envelope import users
from deferrals.stages.envelope.rules import Pattern
from deferrals.stages.envelope.usersettings import UserSettings, readRow
from deferrals.testing import EnvelopeStageContract, FakeServices, makeEnvelope, makeRecipient

ROUTE = Route("strict", "box")


class Table:
    """
    A table that a test fills.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.asked: list[str] = []

    def find(self, address: Any, user: str | None = None) -> Any:
        self.asked.append(address.key)
        row = self.rows.get(address.key)
        if isinstance(row, Deferred):
            return row
        return fail(row) if isinstance(row, Exception) else succeed(row)


class UsersTests(EnvelopeStageContract, SynchronousTestCase):
    """
    L{users.UsersStage}.
    """

    def makeStage(self, **settings: Any) -> users.UsersStage:
        self.services = FakeServices()
        self.table = Table()
        stage = users.UsersStage(users.UsersSettings(sqlite="users.db", **settings), self.services)
        stage._table = self.table
        return stage

    def judge(
        self, stage: users.UsersStage, local: str = "a", envelope: Envelope | None = None
    ) -> Any:
        recipient = makeRecipient(f"{local}@example.net")
        verdict = stage.judgeRecipient(envelope or makeEnvelope(), recipient)
        return self.successResultOf(verdict) if isinstance(verdict, Deferred) else verdict

    def test_row(self) -> None:
        """Policy, delivery and thresholds are taken over; what is not said stays."""
        stage = self.makeStage()
        self.table.rows = {
            "a@example.net": {"refuse_score": 5, "mark_score": None, "password": "secret"},
            "b@example.net": {"policy": "lax", "delivery": "store", "rspamd.refuse_score": 7},
            "c@example.net": {},
        }
        self.assertEqual(
            self.judge(stage, "A"), Defer(Route("strict", "box", (("refuse_score", 5.0),)))
        )
        wanted = Route("lax", "store", (("rspamd.refuse_score", 7.0),))
        self.assertEqual(self.judge(stage, "b"), Defer(wanted))
        self.assertEqual(self.judge(stage, "c"), Defer(ROUTE))

    def test_missing(self) -> None:
        """
        For an address that is not in the table the rule counts, or there is no such
        recipient.
        """
        self.assertIsNone(self.judge(self.makeStage()))
        verdict = self.judge(self.makeStage(missing="refuse"))
        self.assertEqual(str(verdict.reply), "550 5.1.1 no such recipient here")

    def test_subaddress(self) -> None:
        """An address is looked up as it was named, and then without its subaddress."""
        stage = self.makeStage(missing="refuse", subaddress="+")
        self.table.rows = {
            "anna@example.net": {"refuse_score": 5},
            "anna+lists@example.net": {"refuse_score": 7},
        }
        for local, score in (("anna", 5.0), ("anna+lists", 7.0), ("anna+a+b", 5.0), ("Anna+", 5.0)):
            verdict = self.judge(stage, local)
            self.assertEqual(verdict, Defer(Route("strict", "box", (("refuse_score", score),))))
        for local in ("bob+lists", "+anna"):
            self.assertIsInstance(self.judge(stage, local), Refuse)
        other = self.makeStage(missing="refuse")
        self.table.rows = {"anna@example.net": {}}
        self.assertIsInstance(self.judge(other, "anna+lists"), Refuse)

    def test_query(self) -> None:
        """The built-in query finds the address, then the user, then what is for the domain."""
        path = self.mktemp()
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE users (address, refuse_score)")
            rows = [("*@example.net", 1), ("anna@example.net", 2), ("anna+lists@example.net", 3)]
            database.executemany("INSERT INTO users VALUES (?, ?)", rows)
        settings = users.UsersSettings(sqlite=path, subaddress="+", missing="refuse")
        stage = users.UsersStage(settings, FakeServices())
        for local, score in (("anna+lists", 3), ("anna+other", 2), ("anna", 2), ("bob+x", 1)):
            verdict = self.judge(stage, local)
            self.assertEqual(verdict.route.overrides, (("refuse_score", float(score)),), local)

    def test_lists(self) -> None:
        """Denied senders are refused; allowed ones meet no spam filter; allow wins."""
        stage = self.makeStage()
        self.table.rows["a@example.net"] = {
            "refuse_score": 5,
            "spam_filter": 1,
            "deny": "*@bad.example, evil@example.com friend@good.example",
            "allow": ["*@good.example", "*@*.example.org"],
        }
        for sender, wanted in (
            ("x@bad.example", "550"),
            ("Evil@EXAMPLE.com", "550"),
            ("other@example.com", 1.0),
            ("", 1.0),
            ("friend@good.example", 0.0),
            ("x@mail.example.org", 0.0),
            ("x@example.org", 1.0),
            ("prvs=0123456789=evil@example.com", "550"),
            ("btv1==0123456789a==x@bad.example", "550"),
            ("SRS0=abcd=XY=bad.example=x@forward.example", "550"),
            ("prvs=0123456789=friend@good.example", 0.0),
            ("SRS0=abcd=XY=good.example=other@forward.example", 1.0),
        ):
            verdict = self.judge(stage, envelope=makeEnvelope(sender))
            if isinstance(verdict, Refuse):
                self.assertEqual(str(verdict.reply)[:3], wanted, sender)
            else:
                own = dict(verdict.route.overrides)
                self.assertEqual(own, {"refuse_score": 5.0, "spam_filter": wanted}, sender)

    def test_cache(self) -> None:
        """A row, and its absence, is remembered until it expires."""
        stage = self.makeStage(cache=30)
        self.judge(stage)
        self.table.rows["a@example.net"] = {"refuse_score": 1}
        self.services.reactor.advance(29)
        self.assertIsNone(self.judge(stage))
        self.services.reactor.advance(2)
        self.assertIsInstance(self.judge(stage), Defer)
        self.table.rows["a@example.net"] = {"refuse_score": 2}
        self.assertEqual(self.judge(stage).route.overrides, (("refuse_score", 1.0),))
        self.services.reactor.advance(31)
        self.assertEqual(self.judge(stage).route.overrides, (("refuse_score", 2.0),))
        self.assertEqual(len(self.table.asked), 3)

    def test_oneLookUp(self) -> None:
        """
        A recipient asked about twice at once is looked up once; cancelling one
        hurts no other.
        """
        stage = self.makeStage()
        row: Deferred[Any] = Deferred()
        self.table.rows["a@example.net"] = row
        recipient = makeRecipient("a@example.net")
        one, two = (stage.judgeRecipient(makeEnvelope(), recipient) for _ in range(2))
        one.cancel()
        self.failureResultOf(one, CancelledError)
        row.callback({"refuse_score": 1})
        self.assertIsInstance(self.successResultOf(two), Defer)
        self.assertEqual(len(self.table.asked), 1)
        self.judge(stage)
        self.assertEqual(len(self.table.asked), 1)

    def test_failure(self) -> None:
        """A table that cannot be asked: what was known counts, otherwise on_error."""
        stage = self.makeStage(cache=10)
        self.table.rows = {"a@example.net": {"refuse_score": 1}, "b@example.net": OSError("gone")}
        known = self.judge(stage)
        self.table.rows["a@example.net"] = OSError("gone")
        self.services.reactor.advance(11)
        self.assertEqual(self.judge(stage), known)
        self.assertEqual(self.judge(stage, "b").reply.code, 451)
        self.assertEqual(self.services.status.counted("users", "failed"), 2)
        stage = self.makeStage(on_error="pass")
        self.table.rows["a@example.net"] = {"refuse_score": "many"}
        self.assertIsNone(self.judge(stage))

    def test_bounded(self) -> None:
        """What is remembered is bounded, and equal settings are one object."""
        stage = self.makeStage(cache_entries=3)
        for name in "abcde":
            self.table.rows[f"{name}@example.net"] = {"refuse_score": 1}
            self.judge(stage, name)
        self.assertEqual(list(stage._known), [f"{name}@example.net" for name in "cde"])
        self.assertEqual(len({id(entry.settings) for entry in stage._known.values()}), 1)

    def test_readRow(self) -> None:
        """Values are what their columns say, or an error."""
        row = {
            "refuse_score": "inf",
            "mark_score": "4.5",
            "spam_filter": "no",
            "settings_id": 7,
            "spamassassin.user": "family",
            "note": b"\\x00",
            "allow": '["a@b.example"]',
            "deny": "",
        }
        self.assertEqual(
            readRow(row),
            UserSettings(
                overrides=(
                    ("mark_score", 4.5),
                    ("refuse_score", float("inf")),
                    ("settings_id", "7"),
                    ("spam_filter", 0.0),
                    ("spamassassin.user", "family"),
                ),
                allow=frozenset([Pattern("a", "b.example")]),
            ),
        )
        for flag in (0, 0.0, "0", False, "No"):  # 0.0: a column REAL, or a sum
            own = readRow({"spam_filter": flag}).overrides
            self.assertEqual(own, (("spam_filter", 0.0),), flag)
        for bad in (
            {"spam_filter": 0.5},
            {"refuse_score": "high"},
            {"refuse_score": "nan"},
            {"refuse_score": [1]},
            {"spam_filter": 2},
            {"user": "a\r\nb"},
            {"policy": ["x"]},
            {"allow": "not an address at all@"},
            {"allow": "["},
            {"deny": 5},
            {"deny": [5.5]},
        ):
            self.assertRaises(StageError, readRow, bad)

    def test_settings(self) -> None:
        """Either a file or a URL; a query that is one SELECT."""
        for settings in (
            {},
            {"sqlite": "a", "url": "http://x/"},
            {"url": "ftp://x/{address}"},
            {"url": "http://x/{who}"},
            {"sqlite": "a", "query": "DELETE FROM users"},
            {"sqlite": "a", "cache_entries": 0},
        ):
            self.assertRaises(ValueError, users.UsersSettings, **settings)
