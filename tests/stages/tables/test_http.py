"""
The table C{http}.
"""

from __future__ import annotations

import json
import urllib.parse

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import Request
from twisted.web.resource import Resource

from deferrals.errors import StageError
from deferrals.interfaces import ITable
from deferrals.model.json import JSON
from deferrals.stages import web
from deferrals.stages.tables.http import HTTPTable, HTTPTableSettings
from deferrals.testing import FakeServices, WideTableContract, tableKeys


class LookUp(Resource):
    """
    Answers by the last part of the path.
    """

    isLeaf = True

    def __init__(self, answers: dict[str, dict[str, JSON]]) -> None:
        super().__init__()
        self.answers: dict[str, object] = dict(answers)
        self.asked: list[str] = []
        self.isDown = False

    def render_GET(self, request: Request) -> bytes:
        asked = urllib.parse.unquote(request.uri.decode().rpartition("/")[2])
        self.asked.append(asked)
        answer = 500 if self.isDown else self.answers.get(asked, 404)
        if isinstance(answer, int):
            request.setResponseCode(answer)
            return b""
        return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


class HTTPTableTests(WideTableContract, SynchronousTestCase):
    """
    L{HTTPTable}.
    """

    def makeTable(self, rows: dict[str, dict[str, JSON]], name: str = "address") -> ITable:
        self.service = LookUp(rows)
        self.agent = RequestTraversalAgent(self.service)
        self.patch(web, "makeAgent", lambda reactor, connections: self.agent)
        self.services = FakeServices()
        settings = HTTPTableSettings(f"http://127.0.0.1:1/{{{name}}}")
        return HTTPTable(settings, self.services)

    def resultOf(self, d: Deferred[object]) -> object:
        self.turn()
        return self.successResultOf(d)

    def turn(self) -> None:
        for _ in range(10):
            self.services.reactor.advance(0.1)
            self.agent.flush()

    def breakTable(self, table: ITable) -> None:
        self.service.isDown = True

    def test_user(self) -> None:
        """A service that is told the user is asked once."""
        table = self.makeTable({"anna": {"value": 1}}, "user")
        self.assertEqual(self.found(table, "anna+lists@example.net"), 1)
        self.assertIsNone(self.found(table, "bob@example.net"))
        self.assertEqual(self.service.asked, ["anna", "bob"])

    def test_quoted(self) -> None:
        """Anything may stand in an address."""
        table = self.makeTable({"a/../b?c@example.net": {"value": 1}})
        self.assertEqual(self.found(table, '"a/../b?c"@example.net'), 1)

    def test_dots(self) -> None:
        """A sender names no other place in the URL: a name of dots has no row."""
        for address in ("..@example.net", ".@example.net", "..+x@example.net"):
            table = self.makeTable({}, "user")
            self.assertIsNone(self.found(table, address))
            self.assertEqual(self.service.asked, [])

    def test_malformed(self) -> None:
        """What is no object is no row."""
        table = self.makeTable({})
        for bad in ([], b"", b"{", b'{"a": 1, "a": 2}', 3, "x", 500, 302):
            self.service.answers["a@example.net"] = bad
            d = table.lookUp(tableKeys("a@example.net"))
            self.turn()
            self.failureResultOf(d, StageError)

    def test_settings(self) -> None:
        """It is a URL in which the parts of an address may stand."""
        for bad in ("x", "http://a/{who}", "http://a/{", "http://a/{address!r}"):
            self.assertRaises(ValueError, HTTPTableSettings, bad)
