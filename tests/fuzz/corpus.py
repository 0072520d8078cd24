"""
What each target begins with: octets as honest peers, and hostile ones, send them.
"""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterator

from twisted.names import dns

from tests.dialogue import DIRECTORY, read
from tests.mails import mail, zipped
from tests.proxies import GOOD


def corpus() -> Iterator[tuple[str, bytes]]:
    """
    @return: names of targets, each with an input.
    """
    yield from (("session", b"\0\0\3\5" + text) for text in _dialogues())
    yield from (("replies", head + text) for text in _REPLIES for head in (b"\0\7", b"\1\2"))
    yield from (("http", b"\5" + text) for text in _HTTP)
    yield from (("names", one) for one in _datagrams())
    yield from (("proxy", header + b"EHLO c\r\n") for header, _ in GOOD)
    yield from (("mime", one) for one in _messages())
    yield from (("spamd", one) for one in _SPAMD)
    yield from (("origin", one) for one in _ORIGINS)


def _dialogues() -> Iterator[bytes]:
    """
    What clients say in the dialogues.
    """
    for path in sorted(glob.glob(os.path.join(DIRECTORY, "*.smtp"))):
        lines = [step.text for step in read(path)[1] if step.kind in ("C", "C+")]
        yield "".join(f"{line}\r\n" for line in lines).encode("utf-8", "replace")


_GREETING = b"220 mx ESMTP\r\n250-mx\r\n250-PIPELINING\r\n250-SIZE 100\r\n250 "
_BLOCK = b"354 go\r\n353 each\r\n250 b\r\n550 c\r\n250 d\r\n"
_REPLIES = (
    _GREETING + b"8BITMIME\r\n250 a\r\n250 b\r\n550 5.1.1 c\r\n354 go\r\n250 taken\r\n",
    _GREETING
    + b"PRDR\r\n250 a\r\n250 b\r\n250 c\r\n354 go\r\n353 x\r\n250 b\r\n550 c\r\n250 d\r\n",
    _GREETING
    + b"DEFERRALS\r\n250 a\r\n352 b\r\n352 c\r\n354 g\r\n353 x\r\n250 b\r\n550 c\r\n250 d\r\n",
    _GREETING + b"XEXDATA\r\n250 a\r\n250 b\r\n250 c\r\n354 go\r\n558-250 b\r\n558 550 c\r\n",
    b"220-a\r\n220 b\r\n250 mx\r\n250 a\r\n250 b\r\n250 c\r\n354 go\r\n250 b\r\n450 4.2.2 c\r\n",
    b"554 no\r\n" + b"421-" + b": " * 100 + b"\r\n421 x\r\n",
    b"220 \xff\x85\r\n250-mx\r\n250 x\r\n250 2.1.0\xe2\x80\xa8x\r\n550-5.1.1 a\r\n550 5.1.1 b\r\n",
)

_HTTP = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 no\r\nRetry-After: soon\xff\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n{}",
    b"HTTP/1.1 303 x\r\nLocation: /login\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
)

_SPAMD = (
    b"SPAMD/1.1 0 EX_OK\r\nContent-length: 3\r\nSpam: True ; 15.5 / 5.0\r\n\r\nA,B",
    b"SPAMD/1.1 76 Bad header line\r\n",
)

_ORIGINS = (
    b'From: "a@b.test" (c) <d@a.test>\r\nARC-Authentication-Results: i=1; m; dmarc=pass'
    b" (p=reject) header.from=a.test\r\nFrom : G: e@f.test, <@g:h@i.test>;\0p=reject; sp=none",
    b"From: \xc3\xbc@b\xc3\xbccher.test\0p=none; np=quarantine; psd=y; t=y; pct=0; adkim=s",
)


def _datagrams() -> Iterator[bytes]:
    for payload in (
        dns.Record_TXT(b"v=spf1 mx a:%{d} include:x.test exists:%{ir}.x.test ptr -all"),
        dns.Record_MX(10, b"mx.x.test"),
        dns.Record_MX(0, b""),
        dns.Record_A("192.0.2.1"),
        dns.Record_AAAA("2001:db8::1"),
        dns.Record_CNAME(b"x.test"),
        dns.Record_PTR(b"c.example.com"),
    ):
        message = dns.Message(1, answer=1)
        message.answers = [dns.RRHeader(b"x.test", payload.TYPE, ttl=60, payload=payload)]
        file = io.BytesIO()
        message.encode(file)
        yield file.getvalue()


def _messages() -> Iterator[bytes]:
    archive = zipped({"a.exe": b"MZ"})
    yield bytes(mail(html="<p>x", attachments=[("a.zip", "application/zip", archive)]))
    yield (
        b"Content-Type: multipart/mixed; boundary*0=a; boundary*1=b\r\n\r\n--ab\r\n"
        b"Content-Type: message/rfc822\r\n\r\nSubject: =?utf-8?b?w6Q=?=\r\n\r\nx\r\n--ab\r\n"
        b"Content-Disposition: attachment; filename*=utf-8''%e2%80%ae.exe\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n=4D=5\r\n--ab--\r\n"
    )
