"""
The tables that C{users} has of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from deferrals.model.verdict import Defer, Route
from deferrals.stages import web
from deferrals.stages.content.judge import ContentJudge
from deferrals.stages.content.spamassassin import SpamAssassinSettings, SpamAssassinStage
from deferrals.stages.envelope import users
from deferrals.stages.envelope.rules import Pattern, Rule, RuleTable
from deferrals.stages.tables import sqlite
from deferrals.testing import FakeServices, makeEnvelope, makeRecipient

ROUTE = Route("strict", "box")


class OwnSqliteTests(SynchronousTestCase):
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
        d = stage.judgeRecipient(makeEnvelope(), makeRecipient(f"{local}@example.net"))
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
        self.services.reactor.advance(3600)
        self.assertEqual(self.score(stage, "a"), 451)
        self.assertEqual(self.score(stage, "b"), 451)
        self.assertFalse(os.path.exists(path), "never made by a look-up")

    def test_slow(self) -> None:
        """A query that does not end is ended."""
        self.fill("users.db")
        query = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
            " SELECT count(*) AS refuse_score FROM n"
        )
        self.patch(sqlite, "QUERY_SECONDS", 0.05)
        self.assertEqual(self.score(self.stage(query=query), "a"), 451)

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
            verdict = self.successResultOf(table.judgeRecipient(makeEnvelope(), recipient))
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


class OwnWebTests(SynchronousTestCase):
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
            d = stage.judgeRecipient(makeEnvelope(sender), makeRecipient(f"{local}@example.net"))
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
