"""
The port of C{[web]}.
"""

from __future__ import annotations

import os
from typing import Any
from unittest.mock import Mock

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.app.web import (
    PER_SECOND,
    Seen,
    WebPort,
    checkWeb,
    queueFigures,
    scoringPolicies,
    sourcesOf,
    webRemarks,
)
from deferrals.config.tables import Config
from deferrals.errors import ConfigError, ListenError
from deferrals.model.passwords import formatLine
from deferrals.model.selection import Selection
from deferrals.operator.control import Partial
from deferrals.operator.passwd import makeSecrets
from deferrals.server import MailServer
from deferrals.web.metrics import Metrics, QueueFigures
from deferrals.web.policypage import Scoring
from deferrals.web.queuepage import ROWS
from tests.configs import LISTEN, ConfigCase
from tests.server.test_stages import Box, Says


class WebPortCase(ConfigCase):
    """
    The port of a configuration.
    """

    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        server = MailServer(self.reactor, hostname="mx.test", envelope=Says(None), delivery=Box())
        self.asked: list[Any] = []
        self.missing: dict[int, str] = {}
        self.said: dict[str, Any] = {
            "status": {"parts": {}},
            "recent": [],
            "numbers": {"messages": 0, "oldest_seconds": 0, "deliveries": [], "destinations": []},
            "look": ([], None),
        }
        self.web = WebPort(
            self.reactor,
            Seen(
                metrics=Metrics(sourcesOf(server), self.reactor).get,
                reasons=lambda: server.reasons,
                ask=self.ask,
                status=lambda: server.status,
                counted=server.status,
            ),
        )

    def ask(self, name: str, *args: Any) -> Deferred[Any]:
        self.asked.append((name, *args))
        said = self.said[name]
        return succeed(Partial(said, self.missing) if self.missing else said)

    def config(self, port: int = 0, more: str = "") -> Config:
        if not port:
            return self.load(LISTEN)
        return self.load(f'{LISTEN}[web]\nendpoint = "tcp:{port}:interface=127.0.0.1"\n{more}')

    def change(self, config: Config) -> None:
        async def changed() -> None:
            await self.web.prepare(config)
            await self.web.commit()

        self.successResultOf(Deferred.fromCoroutine(changed()))

    def port(self) -> int | None:
        address = self.web.address
        return address.port if isinstance(address, IPv4Address) else None


class WebPortTests(WebPortCase):
    """
    L{WebPort}.
    """

    def test_figures(self) -> None:
        """A left queue that another process has is named in the queue's figures."""

        async def numbers() -> dict[str, Any]:
            return {"deliveries": [{"delivery": "x", "status": "queued", **more}]}

        more = {"recipients": 2, "oldest_seconds": 3.0}
        queue, left = Mock(numbers=numbers), {3: Mock(numbers=numbers), 5: None}
        server: Any = Mock(queue=queue, leftQueues=left, reasons=[], useOf=lambda _: "mx")
        found = self.successResultOf(queueFigures(server))
        self.assertEqual(found, QueueFigures({("mx", "queued"): 4}, {"mx": 3.0}, [5]))

    def test_off(self) -> None:
        """Without the table there is none."""
        self.web.openNow(self.config())
        self.assertIsNone(self.web.address)
        self.assertEqual(self.reactor.tcpServers, [])

    def test_changes(self) -> None:
        """Another port takes the place of the former; none closes it."""
        self.web.openNow(self.config(8025))
        self.assertEqual(self.port(), 8025)
        self.change(self.config(8026))
        self.assertEqual(self.port(), 8026)
        self.change(self.config(8026, 'hosts = ["a.example"]\n'))
        self.assertEqual(len(self.reactor.tcpServers), 2)
        self.change(self.config())
        self.assertIsNone(self.web.address)

    def test_cannot(self) -> None:
        """A port that cannot be had leaves the former one as it is."""
        self.web.openNow(self.config(8025))

        def refuse(*args: object, **kwargs: object) -> None:
            raise CannotListenError("127.0.0.1", 8026, OSError("in use"))

        self.patch(self.reactor, "listenTCP", refuse)
        d = Deferred.fromCoroutine(self.web.prepare(self.config(8026)))
        self.failureResultOf(d, ListenError)
        self.successResultOf(Deferred.fromCoroutine(self.web.undo()))
        self.assertEqual(self.port(), 8025)

    def test_flood(self) -> None:
        """Within a second not more than so many are taken; the others wait, and have their turn."""
        self.web.openNow(self.config(8025))
        ((_, front, *_),) = self.reactor.tcpServers
        paused: list[bool] = []

        @implementer(IPushProducer)
        class Port:
            def pauseProducing(self) -> None:
                paused.append(True)

            def resumeProducing(self) -> None:
                paused.append(False)

            def stopProducing(self) -> None:
                """Not called."""

        front.port = Port()
        for _ in range(PER_SECOND - 1):
            front.buildProtocol(None)
        self.assertEqual(paused, [])
        front.buildProtocol(None)
        self.assertEqual(paused, [True])
        self.reactor.advance(1)
        self.assertEqual(paused, [True, False])
        front.buildProtocol(None)
        self.reactor.advance(1)
        self.assertEqual(paused, [True, False])
        front.buildProtocol(None)
        front.stopFactory()
        self.successResultOf(Deferred.fromCoroutine(self.web.close()))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_start(self) -> None:
        """At a start, the caller is told at once."""
        error = CannotListenError("127.0.0.1", 8025, OSError("taken"))
        self.patch(self.reactor, "listenTCP", Mock(side_effect=error))
        self.assertRaises(ListenError, self.web.openNow, self.config(8025))

    def test_files(self) -> None:
        """What is named has to be there."""
        more = 'token_file = "no-such"\nusers = "no-such"\ncertificate = "no-such"\n'
        error = self.assertRaises(ConfigError, checkWeb, self.config(8025, more), self.reactor)
        keys = [key for key, _ in error.problems]
        self.assertEqual(keys, ["web.certificate", "web.token_file", "web.users"])

    def test_elsewhere(self) -> None:
        """Elsewhere than on loopback it is refused without what guards it."""
        (problem,) = self.problems(f'{LISTEN}[web]\nendpoint = "tcp:8025"\n')
        self.assertTrue(
            problem.startswith("web.endpoint: expected loopback, or users and"), problem
        )


class PagesTests(WebPortCase):
    """
    Who is shown what, by a configuration.
    """

    def ask_(self, path: str, method: str = "GET", body: str = "", *headers: str) -> str:
        """
        One request, and its answer.
        """
        front = self.reactor.tcpServers[-1][1]
        channel, transport = front.buildProtocol(None), StringTransport()
        channel.makeConnection(transport)
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
        if body:
            lines += ["Content-Type: application/x-www-form-urlencoded"]
            lines += [f"Content-Length: {len(body)}"]
        channel.dataReceived("\r\n".join([*lines, "", body]).encode())
        return transport.value().decode()

    def users(self, **passwords: str) -> str:
        """
        The setting for a file with these users.
        """
        path = self.mktemp()
        lines = [formatLine(name, makeSecrets(one, False)) for name, one in passwords.items()]
        with open(path, "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
        return f'users = "{os.path.abspath(path)}"\n'

    def login(self, user: str, password: str) -> str:
        answer = self.ask_("/login", "POST", f"user={user}&password={password}")
        return answer.partition("Set-Cookie: ")[2].partition(";")[0]

    def test_ask(self) -> None:
        """Pages ask what operators ask; who has not answered is named."""
        self.web.openNow(self.config(8025))
        self.missing = {1: "does not answer"}
        self.assertIn("Worker 1 does not answer", self.ask_("/queue"))
        self.assertEqual(self.asked, [("numbers",), ("look", Selection().toJSON(), ROWS, None)])

    def test_users(self) -> None:
        """A file of passwords; a reload with another one, and one without a user's."""
        users = self.users(alice="secret", bob="other")
        self.web.openNow(self.config(8025, users))
        self.assertIn("303 See Other", self.ask_("/policy"))
        self.assertIn("403 Forbidden", self.ask_("/login", "POST", "user=alice&password=x"))
        alice, bob = self.login("alice", "secret"), self.login("bob", "other")
        for cookie in (alice, bob):
            self.assertIn("200 OK", self.ask_("/policy", "GET", "", f"Cookie: {cookie}"))
        with open(users.split('"')[1], encoding="utf-8") as file:
            lines = file.readlines()
        with open(users.split('"')[1], "w", encoding="utf-8") as file:
            file.write(lines[0])
        self.assertIn("200 OK", self.ask_("/policy", "GET", "", f"Cookie: {alice}"))
        self.assertIn("303 See", self.ask_("/policy", "GET", "", f"Cookie: {bob}"))
        self.change(self.config(8025, self.users(alice="secret")))  # salted anew
        self.assertIn("303 See", self.ask_("/policy", "GET", "", f"Cookie: {alice}"))

    def test_throttled(self) -> None:
        """Passwords can be tried as often as with AUTH; a reload makes no new attempts."""
        users = self.users(alice="secret")
        self.web.openNow(self.config(8025, users))
        answers = []
        for number in range(20):
            answers.append(self.ask_("/login", "POST", f"user=alice&password={number}")[9:12])
            if number == 15:
                self.change(self.config(8025, users))
            self.reactor.advance(1)
        self.assertEqual(answers[0], "403")
        self.assertEqual(answers[-4:], ["429"] * 4)

    def test_hosts(self) -> None:
        """A reload changes which hosts are answered, and lets those go that listen."""
        self.web.openNow(self.config(8025))
        front = self.reactor.tcpServers[-1][1]
        channel, transport = front.buildProtocol(None), StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertIn(b"text/event-stream", transport.value())
        self.change(self.config(8025, 'hosts = ["a.example"]\n'))
        self.assertTrue(transport.disconnecting)
        self.assertIn("421 Misdirected", self.ask_("/policy"))

    def test_stop(self) -> None:
        """At a stop nothing is left of those that listen."""
        self.web.openNow(self.config(8025))
        front = self.reactor.tcpServers[-1][1]
        channel, transport = front.buildProtocol(None), StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.successResultOf(Deferred.fromCoroutine(self.web.close()))
        self.assertTrue(transport.disconnecting)
        channel.connectionLost(Failure(ConnectionDone()))
        front.stopFactory()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_operators(self) -> None:
        """There are none where nobody has to say who it is."""
        (problem,) = self.problems(
            f'{LISTEN}[web]\nendpoint = "tcp:1:interface=127.0.0.1"\noperators = ["alice"]\n'
        )
        self.assertEqual(problem, "web.operators: expected no operators without users")

    def test_unknownOperators(self) -> None:
        """Operators that the file of users does not have are named; a bad file is not here."""
        users = self.users(alice="secret")
        for operators, count in (("alice", 0), ("Alice", 1), ("bob", 1)):
            config = self.config(8025, f'{users}operators = ["alice", "{operators}"]\n')
            found = webRemarks(config)
            self.assertEqual([key for key, _ in found], ["web.operators"] * count)
            self.assertTrue(all(said.startswith(f"{operators} is none") for _, said in found))
        config = self.config(8025, 'users = "no-such"\noperators = ["bob"]\n')
        self.assertEqual(webRemarks(config), [])
        self.assertEqual(webRemarks(self.config()), [])

    def test_spelledOperators(self) -> None:
        """An operator is named in any form of Unicode, and so are users; one that none can be."""
        users = self.users(**{"j\u00f6rg": "secret"})
        for operator, isOne in (("j\u00f6rg", True), ("jo\u0308rg", True), ("\ue000", False)):
            config = self.config(8025, f'{users}operators = ["{operator}"]\n')
            self.assertEqual(len(webRemarks(config)), 0 if isOne else 1)
            self.change(config)
            for user in ("j%C3%B6rg", "jo%CC%88rg"):
                cookie = f"Cookie: {self.login(user, 'secret')}"
                said = self.ask_("/queue/release", "POST", "all=1", cookie)
                self.assertEqual("Only operators" not in said, isOne, (operator, user))
                self.assertIn("This form is not from here" if isOne else "403 Forbidden", said)

    def test_badUsers(self) -> None:
        """A file that is none of passwords."""
        path = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write("nonsense\n")
        config = self.config(8025, f'users = "{os.path.abspath(path)}"\n')
        error = self.assertRaises(ConfigError, checkWeb, config, self.reactor)
        self.assertIn("line 1", str(error.problems))

    def test_policies(self) -> None:
        """Those with stages that have a score, and those without."""
        config = self.load(
            f"{LISTEN}[policies.strict]\ncontent ="
            ' [{ use = "rspamd", refuse_score = 15 },'
            ' { use = "http", url = "http://127.0.0.1:1/" }]\n'
        )
        found = scoringPolicies(config)
        self.assertEqual(found["strict"], [Scoring("rspamd", 15, None)])
