"""
A whole site over a server that says what a test wants it to.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.json import JSON
from deferrals.model.status import Status
from deferrals.web.asking import ServerSaid
from deferrals.web.looks import Looks
from deferrals.web.now import liveTexts
from deferrals.web.pages import PageParts, pagesOf
from deferrals.web.policypage import Scoring
from deferrals.web.queuepage import QueueChanges
from deferrals.web.site import Channel, WebSite, siteOf
from deferrals.web.streaming import EventStream
from deferrals.web.visitors import Sessions, Visitors

#: In every field that somebody else may fill.
HOSTILE = "\"'></td><script>alert(1)</script><img src=x onerror=alert(1)>&lt;\u202e{x}%s"

ID = "1M8MZTAC60041"


class Transport(StringTransport):
    """
    One that says whether it was cut off.
    """

    aborted = False

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.7", 4000))

    def abortConnection(self) -> None:
        self.aborted = True


class Logins:
    """
    Users, with their passwords.
    """

    def __init__(self, **passwords: str) -> None:
        self.passwords = passwords
        self.addresses: list[str] = []
        self.error: Exception | None = None

    def login(self, user: str, password: str, address: str) -> Deferred[str]:
        self.addresses.append(address)
        if self.error is not None:
            return fail(self.error)
        if self.passwords.get(user) == password:
            return succeed(user)
        return fail(UnauthorizedLogin())

    def stamp(self, user: str) -> Deferred[str]:
        return succeed(self.passwords.get(user, ""))


class Answer:
    """
    What came back.
    """

    def __init__(self, octets: bytes) -> None:
        head, _, body = octets.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.code = int(first.split()[1])
        pairs = (line.partition(": ") for line in lines)
        self.headers = {name.lower(): value for name, _, value in pairs}
        self.text = body.decode()

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.text)
        return "" if found is None else found[1]


def recipient(**more: Any) -> dict[str, JSON]:
    """
    One of the queue.
    """
    return {
        "id": ID,
        "seq": 0,
        "sender": "me@client.test",
        "recipient": "you@example.net",
        "status": "queued",
        "delivery": "mx",
        "destination": "example.net",
        "attempts": 2,
        "age_seconds": 7200.0,
        "due_seconds": 60.0,
        "expires_seconds": None,
        "action": None,
        "reply": "451 4.4.1 away",
        "host": "mx1.example.net",
        "size": 1000,
        **more,
    }


class SiteCase(SynchronousTestCase):
    """
    Requests to a site.

    @ivar answers: what the server says, by what it is asked: a value, or what makes one
        of the arguments.
    """

    def setUp(self) -> None:
        self.clock, self.status = Clock(), Status()
        self.clock.advance(1e9)
        self.asked: list[tuple[JSON, ...]] = []
        self.missing: dict[int, str] = {}
        self.users: Logins | None = None
        self.operators: frozenset[str] = frozenset()
        self.sessions = Sessions(self.clock)
        self.policies: dict[str, list[Scoring]] = {"open": [], "strict": [Scoring("rspamd", 15, 6)]}
        self.cookieName = "deferrals"
        self.cookie = ""
        self.isSecure = False
        self.root = ""
        self.answers: dict[str, Any] = {
            "about": [],
            "status": {"parts": {}, "ready": True, "reasons": [], "rates": {}, "version": "1"},
            "numbers": {
                "messages": 3,
                "oldest_seconds": 9000.0,
                "deliveries": [
                    {"delivery": "mx", "status": "held", "recipients": 3, "oldest_seconds": 9000.0}
                ],
                "destinations": [],
            },
            "recent": [],
            "find": [],
            "look": ([], None),
            "show": None,
            "events": {"events": [], "dropped": 0},
            "policy": {"lately": [], "scores": {}},
            "change": (2, 0, None),
        }
        self.looks = Looks(lambda: self.status, self.clock)
        self.build()

    def ask(self, name: str, *args: JSON) -> Deferred[ServerSaid]:
        self.asked.append((name, *args))
        answer = self.answers[name]
        if callable(answer):
            answer = answer(*args)
        if isinstance(answer, Deferred):
            later: Deferred[ServerSaid] = Deferred()
            answer.addCallbacks(
                lambda found: later.callback(ServerSaid(found, self.missing)), later.errback
            )
            return later
        if isinstance(answer, Exception):
            return fail(answer)
        return succeed(ServerSaid(answer, self.missing))

    def build(self) -> WebSite:
        """
        Make the site, by the settings of now.
        """
        self.stream = EventStream(self.ask, liveTexts, self.clock)
        visitors = Visitors(self.sessions, self.users, self.operators, self.isSecure, self.status)
        parts = PageParts(
            ask=self.ask,
            status=lambda: self.status,
            looks=self.looks,
            stream=self.stream,
            changes=QueueChanges(self.ask, self.status),
            visitors=visitors,
            policies=self.policies,
        )
        self.site = siteOf(
            lambda: succeed(b""),
            "text/plain",
            list,
            frozenset({"localhost"}),
            lambda: None,
            self.clock,
            pagesOf(parts, self.clock),
            self.root,
        )
        return self.site

    def connect(self) -> tuple[Channel, Transport]:
        channel = self.site.buildProtocol(None)
        assert isinstance(channel, Channel)
        transport = Transport()
        channel.makeConnection(transport)
        return channel, transport

    def send(
        self, path: str, method: str = "GET", body: str = "", **headers: str
    ) -> tuple[Channel, Transport]:
        """
        Begin a request.
        """
        channel, transport = self.connect()
        said = {"host": "localhost", **headers}
        if self.cookie:
            said["cookie"] = f"{self.cookieName}={self.cookie}"
        if method == "POST":
            said["content-type"] = "application/x-www-form-urlencoded"
            said["content-length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in said.items()]
        channel.dataReceived("\r\n".join([*lines, "", body]).encode())
        return channel, transport

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return Answer(self.send(path, method, **headers)[1].value())

    def post(self, path: str, fields: Any, **headers: str) -> Answer:
        """
        Send a form; its cookie is kept.
        """
        body = urlencode(fields, doseq=True)
        answer = Answer(self.send(path, "POST", body, **headers)[1].value())
        found = re.match(r"(deferrals[^=]*)=([^;]*)", answer.headers.get("set-cookie", ""))
        if found is not None:
            self.cookieName, self.cookie = found[1], found[2]
        return answer

    def login(self, user: str = "alice", password: str = "secret") -> Answer:
        """
        Log in where only these users may look.
        """
        if self.users is None:
            self.users = Logins(alice="secret", bob="other")
            self.build()
        return self.post("/login", {"user": user, "password": password, "to": "/queue"})

    def harmless(self, answer: Answer) -> Answer:
        """
        Nothing of L{HOSTILE} is more than text.
        """
        self.assertNotIn("<img", answer.text)
        self.assertNotIn("alert(1)</script>", answer.text)
        self.assertEqual(answer.text.count("<script"), 1)
        self.assertNotIn("\u202e", answer.text)
        self.assertNotIn(" onerror=alert(1)>", answer.text)
        return answer
