"""
What is answered to whoever asks.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from deferrals.web.site import (
    CONNECTION_SECONDS,
    MAX_CONNECTIONS,
    MAX_OCTETS,
    Channel,
    hostOf,
    siteOf,
)


class Transport(StringTransport):
    """
    One that says whether it was cut off.
    """

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class SiteTests(SynchronousTestCase):
    """
    L{siteOf}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.reasons: list[str] = []
        self.token: bytes | None = None
        self.made: Deferred[bytes] = succeed(b"a 1\n")
        self.site = siteOf(
            lambda: self.made,
            "text/plain; version=0.0.4",
            lambda: self.reasons,
            frozenset({"localhost", "::1"}),
            lambda: self.token,
            self.clock,
        )

    def connect(self) -> tuple[Channel, Transport]:
        channel = self.site.buildProtocol(None)
        assert isinstance(channel, Channel)
        transport = Transport()
        channel.makeConnection(transport)
        return channel, transport

    def ask(self, path: str, *headers: str, method: str = "GET", host: str = "localhost") -> str:
        channel, transport = self.connect()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]
        channel.dataReceived("\r\n".join(lines).encode())
        return transport.value().decode()

    def test_health(self) -> None:
        """The process turns."""
        answer = self.ask("/healthz")
        self.assertIn("HTTP/1.1 200", answer)
        self.assertTrue(answer.endswith("ok\n"))

    def test_ready(self) -> None:
        """Whether mail can be taken, and why not."""
        self.assertIn("200 OK", self.ask("/readyz"))
        self.reasons = ["spool", "stopping"]
        answer = self.ask("/readyz")
        self.assertIn("HTTP/1.1 503", answer)
        self.assertIn('{"ready": false, "reasons": ["spool", "stopping"]}', answer)

    def test_metrics(self) -> None:
        """The metrics, in the format that Prometheus reads."""
        answer = self.ask("/metrics")
        self.assertIn("Content-Type: text/plain; version=0.0.4\r\n", answer)
        self.assertTrue(answer.endswith("\r\n\r\na 1\n"))

    def test_host(self) -> None:
        """A page elsewhere makes a browser ask: it is not answered."""
        for host in ("evil.example", "evil.example:8025", "", "localhost.evil.example", "[::2]"):
            for path in ("/metrics", "/healthz", "/readyz", "/x"):
                self.assertIn("421 Misdirected Request", self.ask(path, host=host), host)
        for host in ("LOCALHOST", "localhost:8025", "[::1]:8025", "[::1]"):
            self.assertIn("200 OK", self.ask("/healthz", host=host), host)

    def test_twoHosts(self) -> None:
        """A second Host is none that could be believed."""
        for second in ("Host: localhost", "Host: evil.example"):
            self.assertIn("HTTP/1.1 421", self.ask("/healthz", second))

    def test_token(self) -> None:
        """With a token, whoever has it not is told nothing."""
        self.token = b"secret"
        for line in (
            "X: y",
            "Authorization: Bearer wrong",
            "Authorization: Basic secret",
            "Authorization: Bearer",
            "Authorization: Bearer secret2",
        ):
            answer = self.ask("/metrics", line)
            self.assertIn("HTTP/1.1 401", answer, line)
            self.assertNotIn("a 1", answer)
        self.assertIn("a 1", self.ask("/metrics", "Authorization: Bearer secret"))
        self.assertIn("200 OK", self.ask("/healthz"))

    def test_noToken(self) -> None:
        """A file with a token that is gone opens nothing."""

        def gone() -> bytes:
            raise error

        error: Exception = OSError("it is not there")
        self.site = siteOf(lambda: self.made, "x", list, frozenset({"localhost"}), gone, self.clock)
        self.assertIn("HTTP/1.1 401", self.ask("/metrics", "Authorization: Bearer x"))
        error = ValueError("it is empty")
        for shown in ("x", ""):
            self.assertIn("HTTP/1.1 401", self.ask("/metrics", f"Authorization: Bearer {shown}"))

    def test_others(self) -> None:
        """What is not there, and what cannot be done."""
        self.assertIn("HTTP/1.1 404", self.ask("/queue"))
        for path in ("/", "/metrics/x", "/healthz/", "//metrics", "/readyz/x/y"):
            self.assertIn("HTTP/1.1 404", self.ask(path), path)
        self.assertIn("HTTP/1.1 405", self.ask("/metrics", method="POST"))
        self.assertIn("HTTP/1.1 405", self.ask("/x", method="DELETE"))

    def test_asterisk(self) -> None:
        """Who asks what the whole server can is refused as for any page, with its headers."""
        for method, code in (("OPTIONS", 405), ("POST", 405), ("GET", 404)):
            answer = self.ask("*", method=method)
            self.assertIn(f"HTTP/1.1 {code}", answer)
            self.assertIn("X-Content-Type-Options: nosniff", answer)
            self.assertEqual("Allow: GET, HEAD\r\n" in answer, code == 405)
        self.assertIn("HTTP/1.1 421", self.ask("*", host="evil.example"))

    def test_failed(self) -> None:
        """Metrics that cannot be made."""
        self.made = fail(ValueError("no"))
        self.assertIn("HTTP/1.1 500", self.ask("/metrics"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_gone(self) -> None:
        """A scraper that does not wait for its answer."""
        self.made = Deferred()
        channel, _ = self.connect()
        channel.dataReceived(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        channel.connectionLost()
        self.made.callback(b"late")
        self.assertEqual(len(self.site.channels), 0)

    def test_silent(self) -> None:
        """One that says nothing, or a little every now and then, is cut off."""
        channel, transport = self.connect()
        for octet in b"GET /metr":
            channel.dataReceived(bytes([octet]))
            self.clock.advance(CONNECTION_SECONDS / 10)
        self.assertFalse(transport.aborted)
        self.clock.advance(CONNECTION_SECONDS / 10)
        self.assertTrue(transport.aborted)
        channel.connectionLost()
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])

    def test_flood(self) -> None:
        """One that says too much is cut off, header or not."""
        for begin in (
            b"GET /",
            b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n",
        ):
            channel, transport = self.connect()
            channel.dataReceived(begin)
            for _ in range(MAX_OCTETS // 1024):
                channel.dataReceived(b"x" * 1024)
            self.assertTrue(transport.aborted)

    def test_many(self) -> None:
        """There are not many at once: for a new one the oldest goes, so none can sit there."""
        first = [self.connect() for _ in range(MAX_CONNECTIONS)]
        self.assertFalse(any(transport.aborted for _, transport in first))
        self.assertIn("200 OK", self.ask("/healthz"))
        self.assertEqual([transport.aborted for _, transport in first].count(True), 1)
        self.assertTrue(first[0][1].aborted)
        for channel, _ in first:
            channel.connectionLost()
        self.assertEqual(len(self.site.channels), 1)  # the one that asked

    def test_hostOf(self) -> None:
        """Nonsense is no host."""
        self.assertEqual(hostOf(b"\xff:1"), "\ufffd")
        self.assertEqual(hostOf(b"[::1"), "::1")
