"""
What reads octets from outside, and what must hold whatever they are.  A target
is a function of octets that raises C{AssertionError} where it does not hold;
each begins with octets of its own that say how they come.

All of them: an answer within the deadline, no exception that nothing expects, no
event at the level I{critical}, and the same result however the octets are cut.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogLevel, globalLogPublisher
from twisted.names import dns
from twisted.names.error import DNSNameError
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from deferrals.errors import PeerError, StageError
from deferrals.model.address import Mailbox
from deferrals.model.answers import Result
from deferrals.model.authentication import Signature, vouches
from deferrals.model.dkim import fieldsIn
from deferrals.model.dmarc import MOST_AUTHORS, DMARCRecord, Suffixes, authorsOf, judge
from deferrals.model.outgoing import Outgoing
from deferrals.model.proxyprotocol import ProxyError, takeHeader
from deferrals.model.reply import Reply
from deferrals.model.text import hasControls
from deferrals.server.dnsnames import DNSNames
from deferrals.server.spf import SPF
from deferrals.smtp.client.replies import ReplyParser
from deferrals.smtp.client.session import ClientSession
from deferrals.stages.content.match.contents import files
from deferrals.stages.content.match.mime import TooComplex, parts
from deferrals.stages.content.match.names import savedNames
from deferrals.stages.content.spamassassin import parseAnswer
from deferrals.stages.delivery.route import NoRoute, Router
from deferrals.stages.lookups import Names
from deferrals.stages.web import WebClient
from tests.octets import STATES, checkSame

_STATES = sorted(STATES)
_ADDRESS = "192.0.2.1"


def session(data: bytes) -> None:
    """
    Commands, data and chunks: L{tests.octets.checkSame}.
    """
    if len(data) < 4:
        return
    protocol = "lmtp" if data[1] & 1 else "smtp"
    checkSame(data[4:], _STATES[data[0] % len(_STATES)], [data[2], data[3]], protocol)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """
    @return: pieces of so many octets.
    """
    for start in range(0, len(data), max(1, size)):
        yield data[start : start + max(1, size)]


def replies(data: bytes) -> None:
    """
    What a next hop says: one recipient's answer each, however it comes.
    """
    if len(data) < 2:
        return
    lmtp, size, data = bool(data[0] & 1), data[1], data[2:]
    assert _parsed([data]) == _parsed(cut(data, size)), "it depends on the pieces"
    whole, pieces = _sent([data], lmtp), _sent(cut(data, size), lmtp)
    # What comes before it was asked for is an error, so pieces may differ here.
    for result in (whole, pieces):
        if result is not None:
            assert len(result.answers) == 2, result
            for answer in result.answers:
                assert 200 <= answer.reply.code <= 599, answer
                _checkWire(answer.reply)


def _parsed(pieces: Iterable[bytes]) -> tuple[list[Any], bool]:
    parser, found = ReplyParser(), []
    try:
        for piece in pieces:
            for reply, _ in parser.feed(piece):
                found.append((reply.code, reply.enhanced, reply.text))
                _checkWire(reply)
    except PeerError:
        # What was complete before it may have been in the same piece.
        return [], False
    return found, True


def _checkWire(reply: Reply) -> None:
    """
    What was said to us can be said to others: whole lines of one code.
    """
    *lines, rest = reply.encode(utf8=True).split(b"\r\n")
    assert lines and not rest, reply
    for line in lines:
        assert line[:3] == b"%d" % reply.code and len(line) <= 510, line
        assert not hasControls(line.decode()), line


class _Transport(StringTransport):
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        while self.producer is not None:
            producer.resumeProducing()


def _sent(pieces: Iterable[bytes], lmtp: bool) -> Result | None:
    clock, transport = Clock(), _Transport()
    client = ClientSession(clock, "client.example.com", lmtp=lmtp)
    client.makeConnection(transport)
    outgoing = Outgoing("a@example.com", ["b@x.test", "c@x.test"], 6, lambda: iter([b"text\r\n"]))

    async def run() -> Result:
        await client.open()
        return await client.send(outgoing)

    done: list[Any] = []
    Deferred.fromCoroutine(run()).addBoth(done.append)
    for piece in pieces:
        if transport.aborted or transport.disconnecting:
            break
        client.dataReceived(piece)
        clock.advance(0)
    clock.advance(10_000)
    client.connectionLost(Failure(ConnectionDone()))
    assert done, "there is no end"
    if isinstance(done[0], Failure):
        done[0].trap(PeerError)
        return None
    result: Result = done[0]
    return result


def http(data: bytes) -> None:
    """
    What a service answers, from its status line on: an answer or an error,
    never neither.
    """
    if not data:
        return
    size, data = data[0], data[1:]
    whole, pieces = _asked(data, len(data)), _asked(data, size)
    assert whole == pieces, f"it depends on the pieces: {whole} {pieces}"


def _asked(data: bytes, size: int) -> tuple[int, bytes] | None:
    reactor, done = MemoryReactorClock(), []
    client = WebClient(reactor, 1)
    asking = client.request("GET", "http://127.0.0.1:81/", Headers())
    Deferred.fromCoroutine(asking).addBoth(done.append)
    served = 0
    while served < len(reactor.tcpClients) and not done:
        protocol = reactor.tcpClients[served][2].buildProtocol(None)
        transport = _Transport()
        protocol.makeConnection(transport)
        for piece in cut(data, size):
            if transport.disconnecting or transport.aborted:
                break
            protocol.dataReceived(piece)
        protocol.connectionLost(Failure(ConnectionDone()))
        reactor.advance(0)
        served += 1
        assert served < 50, "it asks for ever"
    assert done, "there is no end"
    return None if isinstance(done[0], Failure) else done[0]


def spamd(data: bytes) -> None:
    """
    What spamd answers.
    """
    with contextlib.suppress(StageError):
        parseAnswer(data)


class _Answering:
    """
    A resolver: the same answer to every question.
    """

    def __init__(self, message: dns.Message) -> None:
        self._message = message

    def query(self, query: Any, timeout: Any = None) -> Deferred[Any]:
        message = self._message
        if message.rCode == dns.ENAME:
            return fail(DNSNameError(message))
        return succeed((message.answers, message.authority, message.additional))


def names(data: bytes) -> None:
    """
    DNS answers: an SPF result, and a route or none.
    """
    message = dns.Message()
    try:
        message.decode(io.BytesIO(data))
    except Exception:
        return  # a datagram that Twisted drops
    clock = Clock()
    found: list[Any] = []
    spf = SPF(DNSNames(lambda: _Answering(message), clock), clock)
    spf.check(_ADDRESS, "c.example.com", Mailbox.parse("a@x.test")).addBoth(found.append)
    router = Router(
        Names(lambda: _Answering(message), clock),
        lambda some: None,
        lambda one: False,
        lambda address: True,
        5,
        True,
    )
    router.route("x.test").addBoth(found.append)
    clock.advance(100)
    assert len(found) == 2, "there is no end"
    for one in found:
        if isinstance(one, Failure):
            one.trap(NoRoute)


def proxy(data: bytes) -> None:
    """
    A PROXY header: none of its beginnings is another one, and what follows it
    does not count.
    """
    whole = _taken(data)
    for end in range(len(data)):
        found = _taken(data[:end])
        if found is not None:
            assert found == whole, (data, end, found, whole)
            return


def _taken(data: bytes) -> Any:
    """
    @return: what was found; C{None} where there is not enough of it.
    """
    try:
        return takeHeader(data)
    except ProxyError:
        return "refused"


def mime(data: bytes) -> None:
    """
    A message: its parts lie in it, and each can be read.
    """
    try:
        found = list(parts(data))
    except TooComplex:
        return
    for part in found:
        assert 0 <= part.start <= part.end <= len(data), part
        assert all(0 <= start <= end <= len(data) for start, end in part.ranges), part
        assert all(kind == kind.lower() for kind in part.header.mimeTypes)
    try:
        for file in files(data):
            assert len(file.content(100)) <= 100
            assert all(savedNames(name) is not None for name in file.header.names)
            file.texts(1000)
    except TooComplex:
        pass


def origin(data: bytes) -> None:
    """
    Authors, what a sealer says, and the policy of a domain, which is never stricter than
    it can be, nor about another author.
    """
    head, _, record = data.partition(b"\0")
    fields = fieldsIn(head)
    authors = authorsOf(fields)
    assert len(authors.domains) <= MOST_AUTHORS and all(authors.domains)
    if authors.domains and not authors.problem:
        assert len(authors.domains) == 1
    for one in fields:
        vouches(one.value, "a.test")
    text = f"v=DMARC1; {record.decode('utf-8', 'replace')}"
    suffixes = Suffixes(lambda domain: ".".join(domain.split(".")[-2:]))
    for signer, isOwn in (("b.a.test", True), ("a.test", True), ("aa.test", False)):
        found = judge(
            "a.test", DMARCRecord(text, "a.test"), None, [Signature("pass", signer)], suffixes
        )
        assert found.result in ("fail", "pass", "permerror"), found
        assert isOwn or found.result != "pass", found
        assert found.policy in ("none", "quarantine", "reject")


#: By name; the first octet of an input chooses.
TARGETS: dict[str, Callable[[bytes], None]] = {
    "session": session,
    "replies": replies,
    "http": http,
    "names": names,
    "proxy": proxy,
    "mime": mime,
    "spamd": spamd,
    "origin": origin,
}


def check(name: str, data: bytes) -> None:
    """
    One input of one target.

    @raise AssertionError: something does not hold.
    """
    logged: list[str] = []

    def exceptions(event: dict[str, Any]) -> None:
        if event.get("log_level") is LogLevel.critical:
            logged.append(str(event.get("log_failure")))

    globalLogPublisher.addObserver(exceptions)
    try:
        TARGETS[name](data)
    finally:
        globalLogPublisher.removeObserver(exceptions)
    assert not logged, logged[0]
