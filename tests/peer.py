"""
A next hop written for tests: an SMTP or LMTP server that says what it is told
to say, keeps account of what it has accepted, and drops connections where it is
told to.

In a unit test it is connected without sockets (L{Network}); as a program
(C{python -m tests.peer SPEC}) it is a server on loopback, with its account in a
file of JSON lines.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import directlyProvides

EHLO = ("PIPELINING", "SIZE 1000000", "8BITMIME", "ENHANCEDSTATUSCODES", "PRDR", "DEFERRALS")


class Peer:
    """
    A server: what it says, and what it has seen.

    @ivar keywords: what EHLO or LHLO lists.
    @ivar rcpt: replies to RCPT TO by address, or a list of them to be used up;
        C{250} for all others; C{"silence"}.
    @ivar block: replies behind the data by address, for those who are in;
        C{250 2.1.5 ok} for all others; C{"silence"}, under LMTP; or a list of
        them to be used up.
    @ivar mail: the reply to MAIL FROM.
    @ivar final: the reply behind the data, and behind a block.
    @ivar enumerates: whether there is a block where one was asked for.
    @ivar extra: further replies in a 558, which is said where C{XEXDATA} is listed
        and a recipient refuses.
    @ivar override: answers to verbs instead of the usual ones; C{"hang up"},
        C{"silence"}.
    @ivar drop: called at the end of each message with the sender; the number of
        octets of what is said then after which the connection is dropped, or
        L{None}.
    @ivar holds: whether, instead, it is silent then.
    @ivar octets: all that has come.
    @ivar commands: every command that has come.
    @ivar accepted: (sender, recipient, message) for which it has taken
        responsibility: the final reply was written as a whole.
    @ivar connections: how many there have been.
    @ivar answer: all that was to be said to the last message.
    """

    def __init__(self, *keywords: str, lmtp: bool = False, name: str = "peer.example") -> None:
        self.keywords = list(keywords or EHLO)
        self.lmtp = lmtp
        self.name = name
        self.greeting = f"220 {name} ready"
        self.rcpt: dict[str, Any] = {}
        self.block: dict[str, Any] = {}
        self.mail = "250 2.1.0 ok"
        self.final = "250 2.6.0 taken"
        self.enumerates = True
        self.extra: list[str] = []
        self.drop: Callable[[str], int | None] = lambda sender: None
        self.holds = False
        self.override: dict[str, str] = {}
        self.octets = b""
        self.commands: list[str] = []
        self.accepted: list[tuple[str, str, bytes]] = []
        self.connections = 0
        self.answer = b""
        self.sessions: list[PeerSession] = []

    def took(self, sender: str, recipients: list[str], message: bytes) -> None:
        """
        Responsibility for these.
        """
        self.accepted += [(sender, recipient, message) for recipient in recipients]

    def own(self, address: str) -> str:
        """
        What a recipient is answered behind the data.
        """
        told = self.block.get(address, "250 2.1.5 ok")
        return told if isinstance(told, str) else told.pop(0) if told else "250 2.1.5 ok"

    @property
    def delivered(self) -> list[str]:
        """
        The recipients, in the order in which they were taken.
        """
        return [recipient for _, recipient, _ in self.accepted]


class PeerSession(Protocol):
    """
    One connection to a L{Peer}.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.buffer = b""
        self.mode: Any = "commands"
        self.reset()

    def reset(self) -> None:
        self.sender: str | None = None
        self.form = ""
        self.rcpts: list[tuple[str, str]] = []

    def connectionMade(self) -> None:
        self.peer.connections += 1
        self.peer.sessions.append(self)
        self.say(self.peer.greeting)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.peer.sessions.remove(self)

    def say(self, *lines: str) -> None:
        self.transport.write("".join(line + "\r\n" for line in lines).encode())

    def dataReceived(self, data: bytes) -> None:
        self.peer.octets += data
        self.buffer += data
        while True:
            before = self.buffer
            if self.mode == "commands":
                line, mark, rest = self.buffer.partition(b"\r\n")
                if not mark:
                    return
                self.buffer = rest
                self.command(line.decode())
            elif self.mode == "data":
                found = (b"\r\n" + self.buffer).find(b"\r\n.\r\n")
                if found < 0:
                    return
                body, self.buffer = self.buffer[:found], self.buffer[found + 3 :]
                self.mode = "commands"
                self.message((b"\r\n" + body).replace(b"\r\n.", b"\r\n")[2:])
            else:
                if len(self.buffer) < self.mode:
                    return
                body, self.buffer = self.buffer[: self.mode], self.buffer[self.mode :]
                self.mode = "commands"
                self.message(body)
            if self.buffer == before:
                return

    def command(self, line: str) -> None:
        peer = self.peer
        peer.commands.append(line)
        verb = line.partition(" ")[0].upper()
        if verb in peer.override:
            answer = peer.override[verb]
            if answer == "hang up":
                self.transport.loseConnection()
            if answer in ("hang up", "silence"):
                self.buffer = b""
            else:
                self.say(answer)
        elif verb == ("LHLO" if peer.lmtp else "EHLO"):
            self.reset()
            lines = [peer.name, *peer.keywords]
            self.say(*(f"250-{word}" for word in lines[:-1]), f"250 {lines[-1]}")
        elif verb in ("MAIL", "RCPT", "DATA", "BDAT"):
            getattr(self, f"do_{verb}")(line)
        elif verb == "RSET":
            self.reset()
            self.say("250 2.0.0 ok")
        elif verb == "QUIT":
            self.say("221 2.0.0 bye")
            self.transport.loseConnection()
        else:
            self.say("500 5.5.1 what?")

    def do_MAIL(self, line: str) -> None:
        self.reset()
        if self.peer.mail.startswith("2"):
            self.sender = _path(line)
            words = line.split()
            self.form = next(
                (word for word in ("DEFERRALS", "PRDR", "EXDATA") if word in words), ""
            )
        self.say(self.peer.mail)

    def do_RCPT(self, line: str) -> None:
        address = _path(line)
        reply = "503 5.5.1 no" if self.sender is None else "250 2.1.5 ok"
        told = self.peer.rcpt.get(address, reply)
        reply = told if isinstance(told, str) else told.pop(0) if told else reply
        if reply == "silence":
            self.mode = sys.maxsize
            return
        if reply[0] in "23":
            self.rcpts.append((address, reply))
        self.say(reply)

    def do_DATA(self, line: str) -> None:
        if not self.rcpts:
            return self.say("503 5.5.1 nobody")
        self.mode = "data"
        self.say("354 go")

    def do_BDAT(self, line: str) -> None:
        self.mode = int(line.split()[1])

    def message(self, body: bytes) -> None:
        """
        All that is said to a message, in one piece or as much of it as is to
        be said before the connection is dropped.
        """
        peer, sender, rcpts = self.peer, self.sender or "", self.rcpts
        own = {address: peer.own(address) for address, _ in rcpts}
        lines, taken = [peer.final], [address for address, _ in rcpts]
        if peer.lmtp:
            lines = list(itertools.takewhile("silence".__ne__, own.values()))
        elif self.form in ("", "EXDATA") and self.extends(own):
            *first, last = [*(own[address] for address, _ in rcpts), *peer.extra]
            lines = [*(f"558-{reply}" for reply in first), f"558 {last}"]
        elif self.form in ("DEFERRALS", "PRDR") and peer.enumerates and len(rcpts) > 1:
            prdr = self.form == "PRDR"
            listed = [address for address, reply in rcpts if prdr or reply.startswith("352")]
            if listed:
                lines = ["353 wait", *(own[address] for address in listed), peer.final]
                taken = [a for a, _ in rcpts if a not in listed or own[a].startswith("2")]
        self.reset()
        octets = "".join(line + "\r\n" for line in lines).encode()
        peer.answer = octets
        end = peer.drop(sender)
        self.transport.write(octets[:end])
        complete = end is None or end >= len(octets)
        if peer.lmtp or lines[0].startswith("558"):
            said = octets[:end].count(b"\r\n")
            taken = [a for a, reply in list(own.items())[:said] if reply.startswith("2")]
            peer.took(sender, taken, body)
        elif complete and peer.final.startswith("2"):
            peer.took(sender, taken, body)
        if end is not None and not peer.holds:
            self.transport.loseConnection()

    def extends(self, own: dict[str, str]) -> bool:
        """
        Whether there is a 558, as Courier says it: asked for or not.
        """
        refused = any(not reply.startswith("2") for reply in own.values())
        return refused and "XEXDATA" in self.peer.keywords


def _path(line: str) -> str:
    return line.partition("<")[2].partition(">")[0]


class Wire:
    """
    One end of a connection without sockets: what is written arrives in the
    next turn of the clock.
    """

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.protocol: Any = None
        self.other: Any = None
        self.pending = b""
        self.closed = False
        self.producer: Any = None

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.25", 25)

    def getHandle(self) -> None:
        """There is no TLS, whatever else is said."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """There is nothing to delay."""

    def write(self, data: bytes) -> None:
        if not self.closed and data:
            if not self.pending:
                self.clock.callLater(0, self._flush)
            self.pending += data

    def _flush(self) -> None:
        data, self.pending = self.pending, b""
        if data and not self.other.closed:
            self.other.protocol.dataReceived(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer
        self.clock.callLater(0, self._resume)

    def _resume(self) -> None:
        if self.producer is not None and not self.closed:
            self.producer.resumeProducing()
            self.clock.callLater(0, self._resume)

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseConnection(self) -> None:
        self.clock.callLater(0, self._end, ConnectionDone(), True)

    def abortConnection(self) -> None:
        self.clock.callLater(0, self._end, ConnectionAborted(), False)

    def _end(self, reason: Exception, flushed: bool) -> None:
        if self.closed:
            return
        if flushed:
            self._flush()
        self.closed = True
        other, producer = self.other, self.producer
        if producer is not None:
            self.producer = None
            producer.stopProducing()
        self.protocol.connectionLost(Failure(reason))
        if not other.closed:
            other._end(ConnectionDone(), True)


class Network:
    """
    Peers by endpoint string; C{connect} makes endpoints to them.

    @ivar peers: a L{Peer}, or an exception that connecting fails with, or a
        Deferred of a peer.
    @ivar tried: the endpoints that were connected to, in order.
    """

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.peers: dict[str, Any] = {}
        self.tried: list[str] = []

    def connect(self, endpoint: str) -> Any:
        return _Endpoint(self, endpoint)

    def run(self) -> None:
        """
        Until nothing is on its way any longer.
        """
        self.clock.advance(0)


class _Endpoint:
    def __init__(self, network: Network, name: str) -> None:
        self.network = network
        self.name = name

    def connect(self, factory: Any) -> Deferred[Any]:
        network = self.network
        network.tried.append(self.name)
        peer = network.peers.get(self.name, ConnectionRefusedError())
        if isinstance(peer, Exception):
            return fail(peer)
        if isinstance(peer, Deferred):
            return peer
        client, server = Wire(network.clock), Wire(network.clock)
        client.other, server.other = server, client
        client.protocol, server.protocol = factory.buildProtocol(None), PeerSession(peer)
        if self.name.startswith(("tls:", "ssl:")):
            directlyProvides(client, ISSLTransport)
        client.protocol.makeConnection(client)
        network.clock.callLater(0, server.protocol.makeConnection, server)
        return succeed(client.protocol)


def main(path: str) -> None:
    """
    Serve as the file says: C{keywords}, C{lmtp}, C{rcpt}, C{block}, C{final},
    C{mail}, C{name}, C{greeting}; C{port} and C{interface}; C{account}, the
    file to which each responsibility is written; C{drops}, whether a sender
    C{drop-N@…} has its first connection dropped after N octets of what is said
    to its data.
    """
    from twisted.internet import reactor

    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    account = open(spec["account"], "a", encoding="utf-8")  # noqa: SIM115 (until the end)
    seen: set[str] = set()

    class Served(Peer):
        def took(self, sender: str, recipients: list[str], message: bytes) -> None:
            for recipient in recipients:
                print(json.dumps([sender, recipient]), file=account, flush=True)

    peer = Served(*spec.get("keywords", ()), lmtp=spec.get("lmtp", False))
    for name in ("rcpt", "block", "final", "mail", "name", "greeting"):
        setattr(peer, name, spec.get(name, getattr(peer, name)))

    def drop(sender: str) -> int | None:
        local = sender.partition("@")[0]
        if not spec.get("drops") or not local.startswith("drop-") or sender in seen:
            return None
        seen.add(sender)
        return int(local.removeprefix("drop-"))

    peer.drop = drop
    factory = Factory.forProtocol(lambda: PeerSession(peer))
    interface = spec.get("interface", "127.0.0.1")
    listen = reactor.listenTCP  # type: ignore[attr-defined]
    port = listen(spec.get("port", 0), factory, interface=interface)
    print(f"listening on {port.getHost().port}", flush=True)
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(sys.argv[1])
