"""
What a session must keep to, whatever octets come and however they are cut:
shared by the property test and the fuzz target.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from deferrals.model.mixed import Mixed
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Refuse
from tests.harness import Bench, gate

_MAIL = b"MAIL FROM:<a@example.com>"
_RCPT = b"RCPT TO:<postmaster@example.net>\r\n"

#: What was said before, by the name of the state that it leads to.
STATES = {
    "nothing": b"",
    "greeted": b"EHLO c\r\n",
    "old greeting": b"HELO c\r\n",
    "sender": b"EHLO c\r\n" + _MAIL + b"\r\n",
    "recipient": b"EHLO c\r\n" + _MAIL + b"\r\n" + _RCPT,
    "data": b"EHLO c\r\n" + _MAIL + b"\r\n" + _RCPT + b"DATA\r\n",
    "in a line of data": b"EHLO c\r\n" + _MAIL + b"\r\n" + _RCPT + b"DATA\r\nSubject: x",
    "between chunks": b"EHLO c\r\n" + _MAIL + b"\r\n" + _RCPT + b"BDAT 3\r\na\r\n",
    "in a chunk": b"EHLO c\r\n" + _MAIL + b"\r\n" + _RCPT + b"BDAT 20 LAST\r\na",
    "binary": b"EHLO c\r\n" + _MAIL + b" BODY=BINARYMIME\r\n" + _RCPT + b"BDAT 1\r\n\n",
    "in a refused chunk": b"EHLO c\r\nBDAT 20\r\na",
    "in a long line": b"EHLO c\r\n" + b"x" * 5000,
    "user name": b"EHLO c\r\nAUTH LOGIN\r\n",
    "PLAIN": b"EHLO c\r\nAUTH PLAIN\r\n",
    "deferred": b"EHLO c\r\n"
    + _MAIL
    + b" DEFERRALS\r\nRCPT TO:<one@example.net>\r\nRCPT TO:<two@example.net>\r\nDATA\r\n",
    "UTF-8": b"EHLO c\r\n" + _MAIL + b" SMTPUTF8\r\nRCPT TO:<d\xc3\xbcrer@example.net>\r\n",
}

_LINE = re.compile(rb"([2-5][0-9][0-9])([ -])((?:[ -~]|[\xc2-\xf4][\x80-\xbf]+)*)\r\n")
_NUMBER = re.compile(rb"\bid [0-9A-Z]{13}")


def bench(protocol: str = "smtp") -> Bench:
    """
    A session that anybody may use for anything, with small limits.  It does
    not split: who leads a transaction there depends on who comes in one piece.
    """
    made = Bench(
        {"message_size": 2000, "header_size": 500, "recipients": 5, "commands": 200},
        {"authenticator": gate(user=b"secret"), "binary": True},
        protocol=protocol,
        mixed=Mixed.STRICTEST,
        auth="offered",
        auth_without_tls=True,
    )
    made.content.verdicts = {
        "one@example.net": Refuse(Reply(550, "5.6.0", "no")),
        "two@example.net": ACCEPT,
        "dürer@example.net": ACCEPT,
    }
    return made


def said(pieces: Iterable[bytes], state: str, protocol: str = "smtp") -> tuple[bytes, bool, bytes]:
    """
    @return: all that the session says to these pieces, whether it ends the
        connection, and what it takes responsibility for; without the numbers of
        transactions.
    """
    session = bench(protocol)
    before = STATES[state]
    session.send(before.replace(b"EHLO", b"LHLO") if protocol == "lmtp" else before)
    for piece in pieces:
        session.send(piece)
    for _ in range(6):
        session.clock.advance(31)  # answers to wrong passwords are held back
    out = session.take()
    closed = session.closed
    session.lose()
    bodies = []
    for work in session.works:
        with work.message.open() as file:
            bodies.append(repr(work.addressees).encode() + file.read())
    return _NUMBER.sub(b"id X", out), closed, b"\0".join(bodies)


def checkReplies(out: bytes) -> None:
    """
    Everything that was said is a sequence of replies (RFC 5321 §4.2): whole
    lines of at most 512 octets, without control characters, one code per reply.

    @raise AssertionError: it is not.
    """
    place, code = 0, None
    while place < len(out):
        match = _LINE.match(out, place)
        assert match is not None, f"no line of a reply: {out[place : place + 600]!r}"
        assert len(match[0]) <= 512, f"too long: {match[0]!r}"
        assert code in (None, match[1]), f"another code within a reply: {match[0]!r}"
        code = match[1] if match[2] == b"-" else None
        place = match.end()
    assert code is None, f"a reply without its end: {out!r}"


def checkSame(data: bytes, state: str, sizes: list[int], protocol: str = "smtp") -> None:
    """
    Whole, octet by octet, and in pieces of these sizes: the same well-formed
    replies, the same end, the same mail.

    @raise AssertionError: that is not so.
    """
    whole = said([data], state, protocol)
    checkReplies(whole[0])
    octets = (data[i : i + 1] for i in range(len(data)))
    for cut in (octets, _cut(data, sizes)):
        found = said(cut, state, protocol)
        assert found == whole, f"{state}: {data!r}\n{found!r}\n{whole!r}"


def _cut(data: bytes, sizes: list[int]) -> Iterable[bytes]:
    place = 0
    for size in sizes:
        yield data[place : place + size]
        place += size
    yield data[place:]
