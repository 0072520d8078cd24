"""
A web service that takes mail, and does what its program says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs
from twisted.internet.task import Clock

from tests.hopfaults.account import Account
from tests.hopfaults.faults import Fault, Program
from tests.hopfaults.wire import Speaker

STEPS = ("connect", "head", "request", "request", "idle")

#: Whole answers, and what comes near them.
ANSWERS = (
    *("200 OK", "204 No Content", "299 Odd", "301 Moved", "303 See Other", "304 Not Modified"),
    *("400 Bad", "404 Not Found", "408 Timeout", "409 No", "413 Large", "425 Early"),
    *("429 Slow", "451 Legal", "499 Gone", "500 Broken", "501 What", "503 Busy", "599 Odd"),
)

HEADERS = (
    b"",
    b"Retry-After: 120\r\n",
    b"Retry-After: soon\xff\r\n",
    b"Retry-After: \xd9\xa3\r\n",
    b"Retry-After: " + b"9" * 400 + b"\r\n",
    b"Retry-After: Fri, 31 Dec 9999 23:59:59 -2359\r\n",
    b"Retry-After: -1\r\n",
    b"Location: http://192.0.2.1/login\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Set-Cookie: a=b\r\n",
    b": nothing\r\n",
    b"X-\xff: \xfe\r\n",
    b"Connection: close\r\n",
    b"A: b\r\n" * 2000,
)

#: These are none, or too much.
CONFUSING = (b": nothing\r\n", b"X-\xff: \xfe\r\n", b"A: b\r\n" * 2000)

GARBAGE = (
    b"\r\n\r\n",
    b"hello\r\n\r\n",
    b"HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/9.9 200 OK\r\nContent-Length: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: odd\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 \xff\xfe \r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    b"220 peer.example\r\n",
)

FLOODS = (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"X: y\r\n",
    b"x",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
)


@attrs.define
class WebService:
    """
    @ivar verdicts: whole answers by address, to be used up; then C{204}.
    """

    clock: Clock
    program: Program
    verdicts: Mapping[str, list[str]]
    account: Account = attrs.field(factory=Account)
    sessions: list[WebSession] = attrs.field(factory=list)

    def session(self) -> WebSession:
        """
        @return: a new connection.
        """
        session = WebSession(self)
        self.sessions.append(session)
        return session


class WebSession(Speaker):
    """
    One connection.
    """

    def __init__(self, service: WebService) -> None:
        super().__init__(service.clock, service.program)
        self.service = service
        self.account = service.account
        self.buffer = b""
        self.isHeaded = False

    def connectionMade(self) -> None:
        if self.fault("connect") is not None:
            self.hangUp()

    def dataReceived(self, data: bytes) -> None:
        self.buffer += data
        while not self.isStuck:
            head, mark, rest = self.buffer.partition(b"\r\n\r\n")
            if not mark:
                return
            people = re.findall(rb"(?mi)^deferrals-rcpt-to: (\S+)", head)
            addresses = [one.decode() for one in people]
            if not self.isHeaded:
                self.isHeaded = True
                fault = self.fault("head")
                if fault is not None:
                    self.isConfused = True  # the request was not read
                    self.answered(addresses, fault)
                    self.hangUp()
                    return
            _, mark, rest = rest.partition(b"\r\n0\r\n\r\n")  # in chunks
            if not mark:
                return
            self.buffer, self.isHeaded = rest, False
            for address in addresses:
                self.account.sent(address)
            self.answered(addresses, self.fault("request"))
            if self.fault("idle") is not None:
                self.hangUp()

    def answered(self, people: list[str], fault: Fault | None) -> None:
        """
        Answer one request.
        """
        left = self.service.verdicts.get(people[0])
        status = left.pop(0) if left else "204 No Content"
        header = b""
        if fault is not None:
            if fault.kind in ("reply", "closing", "twice", "slow"):
                status = ANSWERS[fault.number % len(ANSWERS)]
                header = HEADERS[int(fault.code[:3]) % len(HEADERS)]
            elif fault.kind == "garbage":
                self.isConfused = True
                octets = GARBAGE[fault.number % len(GARBAGE)]
                self.say(octets, lambda: self.tells(people, octets[9:12]))
                return
            elif fault.kind == "flood":
                self.flood(FLOODS[fault.number % len(FLOODS)])
                self.account.anyone = True
                return
            elif fault.kind in ("hang up", "silence"):
                if fault.kind == "hang up":
                    self.hangUp()
                self.isStuck = True
                return
        self.whole(people, status, header, fault)

    def whole(self, people: list[str], status: str, header: bytes, fault: Fault | None) -> None:
        """
        An answer, as a whole or nearly so.
        """
        hasBody = status[:3] not in ("204", "304")
        length = b"Content-Length: 2\r\n" if hasBody else b""
        octets = b"HTTP/1.1 " + status.encode() + b"\r\n" + header + length + b"\r\n"
        code, body = status[:3].encode(), b"ok" if hasBody else b""
        kind = "" if fault is None else fault.kind
        self.isConfused = self.isConfused or kind == "twice" or header in CONFUSING
        number = 0 if fault is None else fault.number
        if kind == "cut":
            self.say(octets[: number % len(octets)])
            self.hangUp()
        elif kind == "slow":
            pieces = [octets[i : i + 16] for i in range(0, len(octets), 16)]
            for piece in pieces[:-1]:
                self.say(piece, seconds=float(number % 3))
            self.say(pieces[-1], lambda: self.tells(people, code), float(number % 3))
            self.say(body)
        else:
            self.say(octets + body, lambda: self.tells(people, code))
            if kind == "twice":
                self.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                self.account.anyone = True  # whoever asks next
        if kind == "closing":
            self.hangUp()

    def tells(self, people: list[str], status: bytes) -> None:
        """
        The client has an answer.
        """
        for address in people:
            if status.startswith(b"2"):
                self.account.took(address, not self.isConfused)
            elif status[:1] in (b"3", b"4") or self.isConfused:
                for code in range(500, 600):  # the reply is made of the status
                    self.account.refuses(address, code)
