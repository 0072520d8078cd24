"""
Sending a message: what is on the wire is what was meant, whatever goes in.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.client import Login, sendMessage, withCRLF
from deferrals.errors import HopError
from deferrals.model.lines import normalised
from tests.peer import EHLO, Network, Peer

_WORDS = ["a", "b.c", "@x.example", "RCPT TO:<victim@x.example>", "SIZE=1", "é", ","]
_MARKS = ["<", ">", " ", '"', "\\", "\r\n", "\r", "\n", "\0", "\t", "\x85", "\u2028", "\ud800"]

_ADDRESS = st.lists(st.sampled_from(_WORDS + _MARKS), max_size=6).map("".join)

_MESSAGE = st.lists(
    st.sampled_from(
        [b"a", b".", b"\r\n", b"\r", b"\n", b"\r\n.\r\n", b"MAIL FROM:<evil@x.example>", b"\xe9"]
    ),
    max_size=10,
).map(b"".join)

_OFFERS = st.lists(
    st.sampled_from(["PIPELINING", "CHUNKING", "SIZE 1000000", "PRDR", "DEFERRALS"]), unique=True
)

_PARAMETERS = {"BODY=8BITMIME", "SMTPUTF8", "PRDR", "DEFERRALS"}


class ClientCase(SynchronousTestCase):
    """
    A server without sockets.
    """

    def connect(self, *keywords: str) -> None:
        self.clock = Clock()
        self.network = Network(self.clock)
        self.peer = self.network.peers["server"] = Peer(*(keywords or EHLO))

    def start(
        self, sender: str, recipients: list[str], message: bytes = b"text\r\n", **more: Any
    ) -> Deferred[Any]:
        endpoint = self.network.connect("server")
        more = {"hello": "client.example", **more}
        d = sendMessage(self.clock, endpoint, sender, recipients, message, **more)
        self.network.run()
        return d


def commandsOf(octets: bytes) -> list[str]:
    """
    The commands that the most lenient of servers would find: one for which any
    CR or LF ends a line, and any line of one dot a message.
    """
    found, isData, octetsLeft = [], False, octets
    while octetsLeft:
        line, _, octetsLeft = _oneLine(octetsLeft)
        if isData:
            isData = line != b"."
            continue
        found.append(line.decode("utf-8"))
        isData = line == b"DATA"
        if line.startswith(b"BDAT "):
            octetsLeft = octetsLeft[int(line.split()[1]) :]
    return found


def _oneLine(octets: bytes) -> tuple[bytes, bytes, bytes]:
    end = min((i for i in (octets.find(b"\r"), octets.find(b"\n")) if i >= 0), default=len(octets))
    mark = octets[end : end + 2] if octets[end : end + 2] == b"\r\n" else octets[end : end + 1]
    return octets[:end], mark, octets[end + len(mark) :]


class MeantTests(ClientCase):
    """
    Nothing that goes in becomes a command that was not meant.
    """

    @given(_ADDRESS, st.lists(_ADDRESS, min_size=1, max_size=3), _MESSAGE, _OFFERS, st.booleans())
    def test_commands(
        self, sender: str, recipients: list[str], text: bytes, offers: list[str], mend: bool
    ) -> None:
        """Either nothing is connected to, or the server has exactly what was meant."""
        self.connect("8BITMIME", "SMTPUTF8", *offers)
        message = withCRLF(text) if mend else text
        try:
            d = self.start(sender, recipients, message)
        except ValueError:
            self.assertEqual(self.network.tried, [])
            return
        answers = self.successResultOf(d).answers
        self.assertEqual([answer.recipient for answer in answers], recipients)
        self.assertTrue(all(answer.accepted for answer in answers))
        hello, mail, *rest, goodbye = commandsOf(self.peer.octets)
        self.assertEqual((hello, goodbye), ("EHLO client.example", "QUIT"))
        path, _, words = mail.rpartition(">")
        self.assertEqual(path, f"MAIL FROM:<{sender}")
        self.assertLessEqual(set(words.split()), _PARAMETERS | {f"SIZE={len(message)}"})
        last = f"BDAT {len(message)} LAST" if "CHUNKING" in offers else "DATA"
        self.assertEqual(rest, [*(f"RCPT TO:<{one}>" for one in recipients), last])
        # DATA has to end the message with a line's end.
        whole = message if "CHUNKING" in offers else withCRLF(message)
        self.assertEqual({body for *_, body in self.peer.accepted}, {whole})

    def test_injection(self) -> None:
        """Each entrance on its own: addresses, the name, the message, no recipient at all."""
        self.connect()
        good = "a@x.example"
        injected = "a@x.example>\r\nRCPT TO:<victim@x.example"
        for sender, recipients, more in (
            (injected, [good], {}),
            (good, [good, injected], {}),
            (good, [""], {}),
            (good, [], {}),
            (good, ["a b@x.example"], {}),
            (good, [good], {"hello": "x\r\nMAIL FROM:<>"}),
            (good, [good], {"hello": "two words"}),
            (good, [good], {"message": b"hi\n.\r\nMAIL FROM:<evil@x.example>\r\n"}),
            (good, [good], {"message": b"hi\r.\r\n"}),
            (good, [good], {"security": "verified"}),
        ):
            self.assertRaises(ValueError, self.start, sender, recipients, **more)
        self.assertRaises(TypeError, self.start, "a@x.example", "b@x.example")
        self.assertEqual(self.network.tried, [])

    def test_odd(self) -> None:
        """Odd addresses are sent as they are: a server may be asked about them."""
        odd = [
            '"a b"@x.example',
            '"a>b"@x.example',
            "postmaster",
            "x+=/y@[192.0.2.1]",
            "é@x.example",
        ]
        self.connect("8BITMIME", "SMTPUTF8")
        self.successResultOf(self.start("", odd))
        said = [line for line in self.peer.commands if line.startswith("RCPT")]
        self.assertEqual(said, [f"RCPT TO:<{one}>" for one in odd])

    def test_mended(self) -> None:
        """withCRLF makes of any message one that is taken."""
        self.connect()
        self.successResultOf(self.start("", ["a@x.example"], withCRLF(b"hi\n.\nbye\r")))
        self.assertEqual(self.peer.accepted[0][2], b"hi\r\n.\r\nbye\r\n")
        self.assertEqual(normalised(b"hi\n.\nbye\r"), b"hi\r\n.\r\nbye\r\n")


class SessionTests(ClientCase):
    """
    What comes before the message, and giving up.
    """

    def test_login(self) -> None:
        """The user is authenticated first, where the connection is encrypted."""
        self.connect(*EHLO, "AUTH PLAIN")
        self.network.peers["tls:server"] = self.peer
        self.peer.override["AUTH"] = "235 2.7.0 welcome"
        d = sendMessage(
            self.clock,
            self.network.connect("tls:server"),
            "",
            ["a@x.example"],
            b"",
            login=Login("me", "secret"),
        )
        self.network.run()
        self.assertTrue(self.successResultOf(d).accepted)
        self.assertEqual(self.peer.commands[1].split()[:2], ["AUTH", "PLAIN"])
        failure = self.failureResultOf(
            self.start("", ["a@x.example"], login=Login("me", "secret")), HopError
        )
        self.assertEqual(failure.value.enhanced, "4.7.11")

    def test_noTLS(self) -> None:
        """Where TLS is required and not offered, nothing is sent."""
        for security in ("required", "verified"):
            self.connect()
            d = self.start("", ["a@x.example"], security=security, host="mx.example")
            self.assertEqual(self.failureResultOf(d, HopError).value.enhanced, "4.7.4")
            self.assertEqual(self.peer.commands, ["EHLO client.example"])
            self.network.run()
            self.assertEqual(self.peer.sessions, [])

    def test_opportunistic(self) -> None:
        """Where it is not, and need not be, the message goes in clear."""
        self.connect()
        d = self.start("", ["a@x.example"], security="opportunistic")
        self.assertTrue(self.successResultOf(d).accepted)

    def test_noConnection(self) -> None:
        """A server that is not there, or is not friendly, is a HopError."""
        self.connect()
        self.network.peers.clear()
        self.failureResultOf(self.start("", ["a@x.example"]), HopError)
        self.connect()
        self.peer.greeting = "554 no"
        failure = self.failureResultOf(self.start("", ["a@x.example"]), HopError)
        self.assertIn("554", failure.getErrorMessage())

    def test_cancelled(self) -> None:
        """Whenever it is cancelled, the connection is given up."""
        for verb in ("EHLO", "MAIL", "DATA"):
            self.connect("8BITMIME")
            self.peer.override[verb] = "silence"
            d = self.start("", ["a@x.example"])
            self.assertNoResult(d)
            d.cancel()
            self.failureResultOf(d, CancelledError)
            self.network.run()
            self.assertEqual(self.peer.sessions, [])
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelledWhileConnecting(self) -> None:
        """Before there is a connection, too."""
        self.connect()
        cancelled: list[Any] = []
        connecting: Deferred[Any] = Deferred(cancelled.append)
        self.network.peers["server"] = connecting
        d = self.start("", ["a@x.example"])
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertEqual(cancelled, [connecting])

    def test_goodbye(self) -> None:
        """A server that does not say goodbye is waited for for some seconds only."""
        self.connect()
        self.peer.override["QUIT"] = "silence"
        d = self.start("", ["a@x.example"])
        self.clock.advance(5)
        self.network.run()
        self.assertTrue(self.successResultOf(d).accepted)
        self.assertEqual(self.peer.sessions, [])
