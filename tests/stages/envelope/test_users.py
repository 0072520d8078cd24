"""
The envelope stage C{users}.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import StageError
from deferrals.model.envelope import Envelope
from deferrals.model.settings import TableName
from deferrals.model.verdict import Defer, Expand, Refuse, Route
from deferrals.stages.envelope import users
from deferrals.stages.envelope.rules import Pattern
from deferrals.stages.envelope.usersettings import UserSettings, readRow
from deferrals.stages.tables.frame import Table, TableSettings
from deferrals.testing import EnvelopeStageContract, FakeServices, makeEnvelope, makeRecipient
from tests.stages.tables.test_frame import Source

ROUTE = Route("strict", "box")


class UsersTests(EnvelopeStageContract, SynchronousTestCase):
    """
    L{users.UsersStage}.
    """

    def makeStage(self, **settings: Any) -> users.UsersStage:
        self.source = Source()
        self.services = FakeServices()
        table = Table("people", self.source, TableSettings(cache=10), self.services)
        self.services.tables.now = {"people": table}
        named = TableName("people")
        return users.UsersStage(users.UsersSettings(table=named, **settings), self.services)

    def judge(
        self, stage: users.UsersStage, local: str = "a", envelope: Envelope | None = None
    ) -> Any:
        recipient = makeRecipient(f"{local}@example.net")
        verdict = stage.judgeRecipient(envelope or makeEnvelope(), recipient)
        return self.successResultOf(verdict) if isinstance(verdict, Deferred) else verdict

    def test_row(self) -> None:
        """Policy, delivery and thresholds are taken over; what is not said stays."""
        stage = self.makeStage()
        self.source.rows = {
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

    def test_readOnce(self) -> None:
        """
        A row is read once for as long as the table remembers it: its lists may be long,
        and any sender may name the recipient again and again.
        """
        stage, read = self.makeStage(), []
        self.patch(users, "readRow", lambda row: (read.append(row), readRow(row))[1])
        self.source.rows = {"a@example.net": {"refuse_score": 5}}
        for _ in range(3):
            self.judge(stage)
        self.assertEqual(len(read), 1)
        self.source.rows = {"a@example.net": {"refuse_score": 7}}
        self.services.reactor.advance(11)
        wanted = Route("strict", "box", (("refuse_score", 7.0),))
        self.assertEqual(self.judge(stage), Defer(wanted))
        self.assertEqual(len(read), 2)

    def test_missing(self) -> None:
        """
        For an address that is not in the table the rule counts, or there is no such
        recipient.
        """
        self.assertIsNone(self.judge(self.makeStage()))
        verdict = self.judge(self.makeStage(missing="refuse"))
        self.assertEqual(str(verdict.reply), "550 5.1.1 no such recipient here")

    def test_forward(self) -> None:
        """Mail goes to other addresses; with forward_keep, to the recipient, too."""
        stage = self.makeStage()
        self.source.rows = {
            "a@example.net": {"forward": "x@example.org, y@example.org", "forward_keep": 0},
            "b@example.net": {"forward": '["x@example.org"]', "forward_keep": 1, "refuse_score": 5},
            "c@example.net": {"forward": "", "forward_keep": 1},
        }
        for local, members in (
            ("a", ["x@example.org", "y@example.org"]),
            ("b", ["x@example.org", "b@example.net"]),
        ):
            found = self.judge(stage, local)
            assert isinstance(found, Expand)
            self.assertEqual(list(map(str, found.members)), members)
        self.assertEqual(found.route, Route("strict", "box", (("refuse_score", 5.0),)))
        self.assertIsInstance(self.judge(stage, "c"), Defer)

    def test_forwardNonsense(self) -> None:
        """What is no address, or no flag."""
        for row in ({"forward": "nobody"}, {"forward": 5}, {"forward_keep": "perhaps"}):
            self.assertRaises(StageError, readRow, row)

    def test_subaddress(self) -> None:
        """An address is looked up as it was named, and then without its subaddress."""
        stage = self.makeStage(missing="refuse", subaddress="+")
        self.source.rows = {
            "anna@example.net": {"refuse_score": 5},
            "anna+lists@example.net": {"refuse_score": 7},
        }
        for local, score in (("anna", 5.0), ("anna+lists", 7.0), ("anna+a+b", 5.0), ("Anna+", 5.0)):
            verdict = self.judge(stage, local)
            self.assertEqual(verdict, Defer(Route("strict", "box", (("refuse_score", score),))))
        for local in ("bob+lists", "+anna"):
            self.assertIsInstance(self.judge(stage, local), Refuse)
        other = self.makeStage(missing="refuse")
        self.source.rows = {"anna@example.net": {}}
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
        self.source.rows["a@example.net"] = {
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

    def test_failure(self) -> None:
        """A table that cannot be asked: what was known counts, otherwise on_error."""
        stage = self.makeStage()
        self.source.rows = {"a@example.net": {"refuse_score": 1}, "b@example.net": OSError("gone")}
        known = self.judge(stage)
        self.source.rows["a@example.net"] = OSError("gone")
        self.services.reactor.advance(11)
        self.assertEqual(self.judge(stage), known)
        verdict = self.judge(stage, "b")
        self.assertEqual(str(verdict.reply), "451 4.3.0 cannot be looked up now, try again later")
        self.assertEqual(self.services.status.counted("users", "failed"), 1)
        self.services.reactor.advance(3600)
        self.assertEqual(self.judge(stage).reply.code, 451)
        stage = self.makeStage(on_error="pass")
        self.source.rows["a@example.net"] = OSError("gone")
        self.assertIsNone(self.judge(stage))

    def test_unreadable(self) -> None:
        """
        A row that cannot be read is no yes: it may have been meant to refuse.  The log
        says that it is the row, and not the table.
        """
        for on_error in ("refuse-temporarily", "pass"):
            stage = self.makeStage(on_error=on_error)
            self.source.rows["a@example.net"] = {"refuse_score": "many"}
            with capturedLogs() as events:
                verdict = self.judge(stage)
            self.assertEqual(verdict.reply.code, 451)
            (said,) = map(formatEvent, events)
            self.assertIn("the row of <a@example.net> cannot be read", said)
            self.assertIn("refuse_score: expected a number, not 'many'", said)
            self.assertEqual(self.services.status.counted("users", "failed"), 1)

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

    def test_authenticate(self) -> None:
        """What a recipient makes of where mail comes from; a list is one of words."""
        found = readRow(
            {
                "dmarc": "enforce",
                "authenticate.spf": "ignore",
                "trusted_forwarders": "192.0.2.0/24, lists.example",
                "authenticate.trusted_sealers": '["a.example", "*.b.example"]',
                "authenticate.reply": "550 5.7.1 not of {domain}",
                "reply": 7,
                "spf": None,
            }
        )
        self.assertEqual(
            dict(found.overrides),
            {
                "dmarc": "enforce",
                "authenticate.spf": "ignore",
                "trusted_forwarders": "192.0.2.0/24 lists.example",
                "authenticate.trusted_sealers": "a.example *.b.example",
                "authenticate.reply": "550 5.7.1 not of {domain}",
            },
        )
        for column, value in (
            ("dmarc", "enforced"),
            ("spf", "mark"),
            ("authenticate.dmarc", 1),
            ("trusted_forwarders", "0.0.0.0/0"),
            ("trusted_forwarders", "*"),
            ("trusted_sealers", "192.0.2.1"),
            ("authenticate.reply", "250 ok"),
            ("authenticate.reply", "550 {x}"),
        ):
            error = self.assertRaises(StageError, readRow, {column: value})
            self.assertIn(f"{column}: expected ", str(error))

    def test_settings(self) -> None:
        """Either a file or a URL; a query that is one SELECT."""
        for settings in (
            {},
            {"sqlite": "a", "url": "http://x/"},
            {"url": "ftp://x/{address}"},
            {"url": "http://x/{who}"},
            {"table": TableName("people"), "sqlite": "a"},
            {"sqlite": "a", "query": "DELETE FROM users"},
            {"sqlite": "a", "cache_entries": 0},
        ):
            self.assertRaises(ValueError, users.UsersSettings, **settings)
