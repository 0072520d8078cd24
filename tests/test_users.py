"""
The envelope stage C{users}, and what its tables say.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from typing import Any

import attrs
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from deferrals.errors import StageError
from deferrals.model.envelope import Envelope
from deferrals.model.verdict import Accept, Defer, Refuse, Route
from deferrals.stages import web
from deferrals.stages.content.judge import ContentJudge
from deferrals.stages.content.spamassassin import SpamAssassinSettings, SpamAssassinStage
from deferrals.stages.envelope import users
from deferrals.stages.envelope.rules import Pattern, Rule, RuleTable
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

    def find(self, address: Any) -> Any:
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
        verdict = stage.judge(envelope or makeEnvelope(), recipient)
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
        """Who is not in the table: the rule counts, or there is no such recipient."""
        self.assertIsNone(self.judge(self.makeStage()))
        verdict = self.judge(self.makeStage(missing="refuse"))
        self.assertEqual(str(verdict.reply), "550 5.1.1 no such recipient here")

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
        """Who is asked about twice at once is looked up once; cancelling one hurts nobody."""
        stage = self.makeStage()
        row: Deferred[Any] = Deferred()
        self.table.rows["a@example.net"] = row
        recipient = makeRecipient("a@example.net")
        one, two = (stage.judge(makeEnvelope(), recipient) for _ in range(2))
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


class SqliteTests(SynchronousTestCase):
    """
    The table in a SQLite file.
    """

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(self.directory)
        self.services = FakeServices(self.directory)

    def fill(self, name: str, *rows: tuple[Any, ...]) -> None:
        with contextlib.closing(sqlite3.connect(os.path.join(self.directory, name))) as database:
            database.execute("CREATE TABLE users (address TEXT PRIMARY KEY, refuse_score REAL)")
            database.executemany("INSERT INTO users VALUES (?, ?)", rows)
            database.commit()

    def stage(self, **settings: Any) -> users.UsersStage:
        return users.UsersStage(
            users.UsersSettings(sqlite="users.db", cache=0, **settings), self.services
        )

    def score(self, stage: users.UsersStage, local: str) -> Any:
        d = stage.judge(makeEnvelope(), makeRecipient(f"{local}@example.net"))
        verdict = self.successResultOf(d)
        if isinstance(verdict, Defer):
            assert verdict.route is not None
            return dict(verdict.route.overrides).get("refuse_score")
        return verdict if verdict is None else verdict.reply.code

    def test_find(self) -> None:
        """By address, otherwise by domain; anything may stand in an address."""
        self.fill("users.db", ("a@example.net", 1.0), ("*@example.net", 9.0), ("*@b", 3))
        stage = self.stage()
        self.assertEqual(self.score(stage, "a"), 1.0)
        self.assertEqual(self.score(stage, "A"), 1.0)
        self.assertEqual(self.score(stage, "other"), 9.0)
        self.assertEqual(self.score(stage, '"\' OR 1=1 --"'), 9.0)

    def test_query(self) -> None:
        """A query of one's own, with the parts of the address."""
        self.fill("users.db", ("a", 4.0))
        query = "SELECT refuse_score FROM users WHERE address = :local AND :domain = 'example.net'"
        self.assertEqual(self.score(self.stage(query=query), "A"), 4.0)
        self.assertIsNone(self.score(self.stage(query=query), "b"))

    def test_changes(self) -> None:
        """A file that another one replaces is read anew; one that is gone is an error."""
        stage = self.stage()
        self.assertEqual(self.score(stage, "a"), 451)
        self.fill("users.db", ("a@example.net", 1.0))
        self.assertEqual(self.score(stage, "a"), 1.0)
        self.fill("new.db", ("a@example.net", 2.0))
        path = os.path.join(self.directory, "users.db")
        os.rename(os.path.join(self.directory, "new.db"), path)
        self.assertEqual(self.score(stage, "a"), 2.0)
        os.unlink(path)
        self.assertEqual(self.score(stage, "a"), 2.0)
        self.assertEqual(self.score(stage, "b"), 451)
        self.assertFalse(os.path.exists(path), "never made by a look-up")

    def test_slow(self) -> None:
        """A query that does not end is ended."""
        self.fill("users.db")
        query = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
            " SELECT count(*) AS refuse_score FROM n"
        )
        self.assertEqual(self.score(self.stage(query=query, timeout=0.05), "a"), 451)

    def test_hundredThousand(self) -> None:
        """A hundred thousand users with three different settings are three cohorts."""
        rows = ((f"u{n}@example.net", n % 3) for n in range(100_000))
        self.fill("users.db", *rows)
        rule = Rule(Pattern("*", "example.net"), Defer(ROUTE), [self.stage()])
        services = FakeServices()
        services.connect = lambda text: None  # type: ignore[method-assign]
        spam = SpamAssassinStage(SpamAssassinSettings(), services)
        judge = ContentJudge({"strict": [spam]}, 1)
        table = RuleTable([rule], "mx", {"strict": Defer(Route("strict", ""))}, {"box"})
        cohorts = set()
        for number in range(0, 100_000, 61):
            recipient = makeRecipient(f"u{number}@example.net")
            verdict = self.successResultOf(table.judge(makeEnvelope(), recipient))
            cohorts.add(judge.cohort(recipient.routed(verdict.route), verdict))
        self.assertEqual(len(cohorts), 3)


class LookUp(Resource):
    """
    Answers by the last part of the path.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[bytes, Any] = {}

    def render_GET(self, request: Any) -> bytes:
        answer = self.answers.get(request.postpath[-1], 404)
        if isinstance(answer, int):
            request.setResponseCode(answer)
            return b""
        return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


class WebTests(SynchronousTestCase):
    """
    The table behind an HTTP look-up.
    """

    def ask(self, **settings: Any) -> Any:
        lookUp = LookUp()
        lookUp.answers = {
            b"a@example.net": {"refuse_score": 3, "deny": ["*@example.com"]},
            b"a/../b@example.net": {"refuse_score": 4},
            b"list@example.net": [],
            b"broken@example.net": b"{",
            b"down@example.net": 500,
        }
        agent = RequestTraversalAgent(lookUp)
        self.patch(web, "makeAgent", lambda reactor, connections: agent)
        services = FakeServices()
        url = "http://127.0.0.1:1/users/{address}"
        stage = users.UsersStage(users.UsersSettings(url=url, **settings), services)

        def ask(local: str, sender: str = "x@other.example") -> Any:
            d = stage.judge(makeEnvelope(sender), makeRecipient(f"{local}@example.net"))
            for _ in range(5):
                services.reactor.advance(0.1)
                agent.flush()
            return self.successResultOf(d)

        return ask

    def test_find(self) -> None:
        """200 with an object is a row, 404 is none, everything else an error."""
        ask = self.ask(missing="refuse")
        self.assertEqual(ask("a").route.overrides, (("refuse_score", 3.0),))
        self.assertEqual(ask('"a/../b"').route.overrides, (("refuse_score", 4.0),))
        self.assertEqual(ask("nobody").reply.code, 550)
        for local in ("list", "broken", "down"):
            self.assertEqual(ask(local).reply.code, 451, local)


class SettledTests(SynchronousTestCase):
    """
    What a rule makes of a route that its check gives.
    """

    def judge(self, verdict: Any) -> Any:
        class Check:
            def judge(self, envelope: Any, recipient: Any) -> Any:
                return verdict

        policies = {
            "strict": Defer(Route("strict", "")),
            "open": Accept(route=Route("open", "")),
            "gone": Refuse(attrs.evolve(users.R550_UNKNOWN_RECIPIENT, text="gone")),
        }
        rule = Rule(Pattern("*", "example.net"), Defer(ROUTE), [Check()])
        table = RuleTable([rule], "mx", policies, {"store"})
        return table.judge(makeEnvelope(), makeRecipient("a@example.net"))

    def test_policy(self) -> None:
        """The policy that a check names says what RCPT TO is answered (S-1)."""
        for verdict, wanted in (
            (None, Defer(ROUTE)),
            (Defer(Route("open", "box")), Accept(route=Route("open", "box"))),
            (Defer(Route("strict", "store")), Defer(Route("strict", "store"))),
            (Accept(), Accept(route=ROUTE)),
        ):
            self.assertEqual(self.successResultOf(self.judge(verdict)), wanted)
        self.assertEqual(
            self.successResultOf(self.judge(Defer(Route("gone", "box")))).reply.text, "gone"
        )

    def test_unknown(self) -> None:
        """A policy or a delivery that is not there is a failure of the stage."""
        for route in (Route("nowhere", "box"), Route("strict", "nowhere")):
            self.failureResultOf(self.judge(Defer(route)), StageError)
