"""
The table of parsers: what reads octets from outside, and what hostile inputs
are made of for it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import ipaddress
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.names import dns

from deferrals.errors import PeerError, StageError
from deferrals.model import arc, extensions, mixed, sasl
from deferrals.model.address import Mailbox
from deferrals.model.aliasfile import readBook, readIncluded
from deferrals.model.authentication import Signature, vouches
from deferrals.model.block import Block, Candidate, repliesFor
from deferrals.model.commands import checkRecipient
from deferrals.model.completion import Additions, Completion, Submitter
from deferrals.model.deliveryreport import resultLine, shortened
from deferrals.model.dkim import (
    FIELDS,
    BodyHash,
    Field,
    authors,
    fieldsIn,
    namesToSign,
    recordProblem,
)
from deferrals.model.dmarc import DMARCRecord, Suffixes, authorsOf, findRecord, judge
from deferrals.model.dnslists import listedNames, shownText
from deferrals.model.dsn import Notification, smaller
from deferrals.model.edits import edited
from deferrals.model.envelope import Form
from deferrals.model.exdata import ownReplies
from deferrals.model.fields import fieldsOf, messageIdOf
from deferrals.model.httpanswer import AnswerCounter
from deferrals.model.link import SignedLink
from deferrals.model.mixedgroup import groupOf
from deferrals.model.networks import normalAddress
from deferrals.model.ours import withoutOurs
from deferrals.model.outgoing import Outgoing, encodeOriginal
from deferrals.model.proxyprotocol import takeHeader
from deferrals.model.refusal import headerText
from deferrals.model.reply import R352_DEFERRED, Reply, kept
from deferrals.model.scoretext import scoresIn
from deferrals.model.sending import Sending
from deferrals.model.sievescript import Script, decisionOf
from deferrals.model.spf import checkHost
from deferrals.model.spfmacro import DomainSpec
from deferrals.model.spfrecord import parseRecord
from deferrals.model.srs import SRS, SRSError
from deferrals.model.taggedsenders import everyForm
from deferrals.model.text import cleaned, cleanedLines, oneLine
from deferrals.model.trace import Head, deliveredTo, field, placesBefore, received, returnPath
from deferrals.model.verdict import ACCEPT, AT_END, Failed, HeaderEdit, Marks, Refuse
from deferrals.operator.logs import entriesIn
from deferrals.server.proving import domainsOf
from deferrals.server.signing import ToSign
from deferrals.server.verifying import verified
from deferrals.smtp.client.auth import ScramSHA256
from deferrals.smtp.client.replies import ReplyParser
from deferrals.smtp.client.session import ClientSession
from deferrals.smtp.client.writing import Stuffing
from deferrals.smtp.server.decoding import BinaryDecoder, ChunkDecoder, DataDecoder
from deferrals.smtp.server.mixed import fingerprintOf
from deferrals.smtp.server.proxy import _attributes
from deferrals.spool.sqlite.cells import treePage
from deferrals.spool.sqlite.pages import readLogFrom
from deferrals.stages.content import clamav, rspamdreply, scores, spamassassin
from deferrals.stages.content.exchange import _Exchange
from deferrals.stages.content.http import _verdict
from deferrals.stages.content.match import (
    archives,
    contents,
    fields,
    filetypes,
    headers,
    mime,
    names,
    tnef,
    uuencode,
)
from deferrals.stages.content.match.stage import MatchRule, MatchSettings, MatchStage
from deferrals.stages.delivery.copy import Copy, withLF
from deferrals.stages.delivery.http import outcomeOf
from deferrals.stages.delivery.remote import _factsOf
from deferrals.stages.delivery.route import Router
from deferrals.stages.delivery.sevenbit import sevenBit
from deferrals.stages.envelope.usersettings import readRow
from deferrals.stages.lookups import Names
from deferrals.stages.milter.dialogue import replyOf
from deferrals.stages.milter.told import bodyOf
from deferrals.stages.milter.told import fieldsOf as filterFields
from deferrals.stages.milter.wire import Packets
from deferrals.stages.tables.dovecot import rowOf as dovecotRow
from deferrals.stages.tables.file import readRows
from deferrals.stages.web import fromJSON
from deferrals.testing import FakeServices, makeAddressees, makeEnvelope, makeMessage, makeRecipient
from deferrals.web.answers import BadRequest
from deferrals.web.forms import _netloc
from deferrals.web.queuepage import readCursor
from deferrals.web.site import hostOf
from deferrals.web.visitors import ownPath
from deferrals.workers.line import _Arrays
from tests.harness import Bench, gate

#: What a parser may answer to nonsense.
_REFUSALS = (BadRequest, ValueError, PeerError, StageError, mime.TooComplex, archives.Unreadable)


@attrs.frozen
class Parser:
    """
    One of them.

    @ivar name: of the parser.
    @ivar modules: where it is, from the package's root.
    @ivar pieces: what hostile input is made of: these, again and again.
    @ivar run: parses.
    @ivar octets: n; four times as much should be within the parser's bounds.
    @ivar before: what may stand in front, at most once.
    @ivar behind: likewise, at the end.
    @ivar known: why its work may grow faster, all the same.
    """

    name: str
    modules: Sequence[str]
    pieces: Sequence[bytes]
    run: Callable[[bytes], object]
    octets: int = 400
    before: Sequence[bytes] = (b"",)
    behind: Sequence[bytes] = (b"",)
    known: str = ""

    def made(self, before: bytes, unit: bytes, behind: bytes, octets: int) -> bytes:
        """
        Input of about so many octets.
        """
        times = max(1, (octets - len(before) - len(behind)) // max(1, len(unit)))
        return before + unit * times + behind

    def feed(self, data: bytes) -> None:
        """
        Parse; to be refused is an answer, too.
        """
        with contextlib.suppress(*_REFUSALS):
            self.run(data)


#: Some of each kind, in front and behind.
_EDITS = (
    HeaderEdit("insert", "A", "1", 0),
    HeaderEdit("insert", "B", "2", AT_END),
    HeaderEdit("change", "A", "3", 2),
    HeaderEdit("remove", "B", "", 1),
)


def _comeApart(data: bytes) -> None:
    """
    Three attempts of a message; each octet is a recipient with its verdict.
    """
    verdicts = {f"r{number}": mixed.State(chr(octet)) for number, octet in enumerate(data)}
    message, group = mixed.Fingerprint("ident", "digest"), groupOf("a@b", "192.0.2.1")
    for rules in (mixed.Rules(), mixed.Rules(split=True), mixed.Rules(diverts=True)):
        records: dict[str, mixed.Record] = {}
        for now in (1.0, 2.0, 3.0):
            plan = mixed.Plan(rules, group, records)
            plan = mixed.led(plan, [(key, key) for key in verdicts])
            isIn = [key for key in verdicts if mixed.letsIn(plan, key, key)]
            away = [key for key in verdicts if not mixed.letsIn(plan, key, key)]
            said = {key: verdicts[key] for key in isIn}
            reply = mixed.conclude(plan, message, said, away).reply
            changes = mixed.learn(plan, message, said, away, reply, now)
            changes = {**changes, **mixed.gaveUp(plan, isIn, away, mixed.End.QUIT, now)}
            records = {name: one for name, one in changes.items() if one is not None}


def _chained(data: bytes) -> None:
    fields = fieldsIn(data)
    arc.isSlow(fields)
    for one in fields:
        arc.placeOf(one)
    with contextlib.suppress(arc.NoChain):
        arc.setsIn(fields)
    verified(makeMessage(data), [], {})


def _reversed(local: str) -> None:
    address = Mailbox(local, "example.net")
    srs = SRS("example.net", (b"secret",))
    srs.forward(Mailbox(local, "example.org"), 0)
    with contextlib.suppress(SRSError):
        srs.reverse(address, 0)


def text(function: Callable[[str], object]) -> Callable[[bytes], object]:
    """
    A parser of text.
    """
    return lambda data: function(data.decode("utf-8", "surrogateescape"))


def cut(make: Callable[[], Callable[[bytes], object]], size: int) -> Callable[[bytes], None]:
    """
    A parser that is fed in pieces of a size.
    """

    def run(data: bytes) -> None:
        feed = make()
        for start in range(0, len(data), size):
            feed(data[start : start + size])

    return run


def each(parser: Parser, sizes: Sequence[int], make: Callable[[], Any]) -> list[Parser]:
    """
    The same parser, fed in pieces of several sizes.
    """
    return [
        attrs.evolve(parser, name=f"{parser.name}, by {size}", run=cut(make, size))
        for size in sizes
    ]


# The server's side.


def _session(start: bytes, protocol: str = "smtp") -> Callable[[], Callable[[bytes], None]]:
    def make() -> Callable[[bytes], None]:
        limits = {"commands": 100_000, "recipients": 100_000, "command_line": 1024}
        bench = Bench(
            limits,
            {"authenticator": gate(user=b"secret"), "binary": True},
            protocol=protocol,
            auth="offered",
            auth_without_tls=True,
        )
        bench.send(start)
        return bench.send

    make()
    return make


_ENVELOPE = b"EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<postmaster@example.net>\r\n"
_SESSION = (
    "smtp/server/session.py",
    "smtp/server/pipeline.py",
    "smtp/server/commandreader.py",
    "smtp/server/commandline.py",
    "smtp/server/envelope.py",
    "smtp/server/data.py",
    "smtp/server/auth.py",
    "smtp/server/simple.py",
)
_WORDS = (b" ", b"=", b"a", b"<", b">", b"@", b'"', b"\\", b":", b".", b",", b"+", b"\xc3\xa4")

PARSERS = [
    *each(
        Parser(
            "commands",
            _SESSION,
            (b"NOOP\r\n", b"x", b"\n"),
            len,
            1200,
        ),
        (1, 10_000),
        _session(b"EHLO c\r\n"),
    ),
    *each(
        Parser(
            "the envelope",
            _SESSION,
            (b"RCPT TO:<postmaster@example.net>\r\n", b"RCPT TO:<a@example.net>\r\n"),
            len,
            1200,
        ),
        (1, 10_000),
        _session(b"EHLO c\r\nMAIL FROM:<a@example.com>\r\n"),
    ),
    *each(
        Parser(
            "data",
            (*_SESSION, "spool/message.py"),
            (b".", b"\r\n", b"\n", b"a: b\r\n", b" \r\n", b"Received: x\r\n"),
            len,
            600,
        ),
        (1, 10_000),
        _session(_ENVELOPE + b"DATA\r\n"),
    ),
    *each(
        Parser("chunks", _SESSION, (b"BDAT 1\r\nx", b"BDAT 2\r\n\r\n"), len, 600),
        (1, 10_000),
        _session(_ENVELOPE),
    ),
    *each(
        Parser("AUTH", _SESSION, (b"AA\r\n", b"AUTH PLAIN A\r\n", b"*\r\n"), len, 600),
        (1, 10_000),
        _session(b"EHLO c\r\nAUTH PLAIN\r\n"),
    ),
    *each(
        Parser(
            "a line of AUTH",
            _SESSION,
            (b"A",),
            len,
            600,
            known="a line is copied with each piece of it, up to 12,288 octets",
        ),
        (1,),
        _session(b"EHLO c\r\nAUTH PLAIN\r\n"),
    ),
    *(
        one
        for decoder in (DataDecoder, ChunkDecoder, BinaryDecoder)
        for one in each(
            Parser(
                decoder.__name__,
                ("smtp/server/decoding.py", "model/lines.py"),
                (b"\r\n.", b"\r", b"\n", b".", b"x", b"\r\n"),
                len,
                400,
            ),
            (1, 100, 100_000),
            lambda decoder=decoder: decoder().feed,
        )
    ),
    Parser("addresses", ("model/address.py",), _WORDS, text(Mailbox.parse), 400),
    Parser(
        "quoted addresses",
        ("model/address.py",),
        (b"\\a", b'"', b" ", b"a", b"@"),
        text(Mailbox.parse),
        400,
        (b'"', b'"@', b"a@", b"a@[", b"@a,@"),
        (b"", b'"@b', b"]"),
    ),
    Parser(
        "MAIL FROM",
        ("model/extensions.py",),
        _WORDS,
        text(lambda rest: extensions.parseMail(rest, {"SIZE", "DSN", "AUTH", "SMTPUTF8"})),
        400,
        (b"", b"FROM:<a@b>", b"FROM:<a@b> ENVID=", b"FROM:<a@b> AUTH=", b"FROM:<", b"FROM:<@"),
    ),
    Parser(
        "RCPT TO",
        ("model/extensions.py",),
        (*_WORDS, b"SUCCESS,", b"\\x{41}", b"+41"),
        text(lambda rest: extensions.parseRcpt(rest, {"DSN"}, True)),
        400,
        (b"TO:<a@b> NOTIFY=", b"TO:<a@b> ORCPT=rfc822;", b"TO:<a@b> ORCPT=utf-8;"),
    ),
    Parser(
        "xtext", ("model/extensions.py",), (b"+41", b"+", b"a", b"="), text(extensions.decodeXtext)
    ),
    Parser("xtext written", ("model/extensions.py",), _WORDS, text(extensions.encodeXtext)),
    Parser(
        "ORCPT written",
        ("model/outgoing.py",),
        (b"\\", b"+", b"=", b"a", b"\xc3\xa4"),
        text(encodeOriginal),
        400,
        (b"utf-8;", b"rfc822;"),
    ),
    Parser(
        "XCLIENT",
        ("smtp/server/proxy.py",),
        (b"NAME=a ", b"ADDR=", b"+41", b" "),
        text(lambda rest: list(_attributes(rest))),
    ),
    Parser(
        "PROXY header",
        ("model/proxyprotocol.py",),
        (b" ", b"1", b".", b"\r\n", b"\0", b"x"),
        takeHeader,
        400,
        (b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x3f\xff"),
        (b"", b"\r\n"),
    ),
    Parser(
        "network addresses", ("model/networks.py",), (b":", b"0", b"1.", b"f"), text(normalAddress)
    ),
    Parser("base 64 of SASL", ("model/sasl.py",), (b"A", b"=", b"+", b" "), sasl.decode),
    Parser("PLAIN", ("model/sasl.py",), (b"\0", b"a", b"\xc3\xa4"), sasl.parsePlain),
    Parser(
        "SASLprep",
        ("model/sasl.py",),
        (b"a", b"\xc2\xad", b"\xd8\xa7", b"\xcc\x81"),
        text(sasl.saslprep),
    ),
    Parser(
        "SCRAM, first message",
        ("model/sasl.py",),
        (b"=2C", b"=3D", b"=", b"a", b",", b"n="),
        sasl.ScramExchange,
        400,
        (b"n,,n=", b"n,a=", b"n,,n=a,r="),
        (b"", b",r=x"),
    ),
    Parser(
        "senders that are signed",
        ("model/taggedsenders.py",),
        (b"=a", b"prvs=0123456789=", b"SRS0=a=b=c.d=", b"/", b"SRS1=a=b==c=d=e.f="),
        text(lambda value: everyForm(Mailbox(value, "example.net"))),
    ),
    Parser(
        "reverse paths that were rewritten",
        ("model/srs.py",),
        (b"=", b"a", b"SRS0=", b"SRS1=a=b", b"RA=", b"+"),
        text(_reversed),
        400,
        (b"SRS0=abcd=", b"srs1-", b""),
    ),
    Parser(
        "where a message has been",
        ("model/trace.py",),
        (b"Delivered-To: a@x.example\r\n", b"a", b" ", b"\r\n", b"@", b"."),
        lambda data: placesBefore(makeMessage(data).fields()),
        400,
    ),
    Parser(
        "chains of seals",
        ("model/arc.py", "server/verifying.py"),
        (b"ARC-Seal: i=1; ", b"s=a;", b"d=b; ", b" ", b";", b"\r\n", b"i"),
        _chained,
        400,
        (b"ARC-Message-Signature: i=1", b"DKIM-Signature:", b""),
    ),
    Parser(
        "results of another server",
        ("model/authentication.py",),
        (b"dmarc=pass ", b"header.from=a.example", b";", b"(", b")", b'"', b" ", b"\\", b"a", b"."),
        lambda data: vouches(data, "a.example"),
        400,
        (b"i=1; mx.example; dkim=pass", b""),
    ),
    Parser("recipients that differ", ("model/mixed.py",), (b"A", b"R", b"AR", b"T"), _comeApart),
    Parser(
        "fingerprints",
        ("smtp/server/mixed.py", "spool/message.py"),
        (b"a: b\r\n", b" x\r\n", b"\r\n", b"Message-ID: <a>\r\n"),
        lambda data: fingerprintOf(makeMessage(data)),
        400,
    ),
    Parser(
        "header fields",
        ("spool/message.py",),
        (b"a", b":", b" ", b"\r\n", b"\r\n ", b"\t"),
        lambda data: (makeMessage(data).fields(), makeMessage(data).header),
        400,
    ),
    Parser(
        "facts of a message",
        ("stages/delivery/remote.py",),
        (b"Received: x\r\n", b" y\r\n", b"\r\n", b"\xff"),
        lambda data: _factsOf(makeMessage(data)),
        400,
    ),
]

# Copies, notices, replies.


def _marked(data: bytes) -> None:
    head = Head(data)
    for number in range(5):
        marks = Marks((("X", str(number)),), ("x-spam", "a"), "[spam] ")
        copy = Copy(makeMessage(b"x: y\r\n\r\nz\r\n"), b"", marks, head)
        assert copy.size


def _notice(data: bytes) -> None:
    """
    One that quotes a reply, a header and an original recipient.
    """
    said = data.decode("utf-8", "replace")
    reply = Reply(550, "5.1.1", said)
    (one,) = makeAddressees("a@there.example")
    recipient = attrs.evolve(one.recipient, orcpt=f"rfc822;{said}")
    addressee = attrs.evolve(one, action="failed", reply=reply, host="mx", recipient=recipient)
    Notification(makeEnvelope(), [addressee], data, None, "mx.example.net", "0ABC", 1e9).build()


def _notices(data: bytes) -> None:
    """
    One about many recipients, in UTF-8.
    """
    envelope = makeEnvelope()
    envelope = attrs.evolve(envelope, parameters=attrs.evolve(envelope.parameters, smtputf8=True))
    addressees = [
        attrs.evolve(one, action="failed", reply=Reply(550, "5.1.1", "no"))
        for one in makeAddressees(*(f"a{number}@there.example" for number in range(len(data))))
    ]
    addressees = [
        attrs.evolve(one, recipient=attrs.evolve(one.recipient, orcpt="rfc822;a@b"))
        for one in addressees
    ]
    Notification(envelope, addressees, b"a: b", None, "mx.example.net", "0ABC", 1e9).build()


def _replies(data: bytes) -> None:
    """
    As many recipients, who refuse for different reasons.
    """
    for form in (Form.PLAIN, Form.DEFERRALS, Form.PRDR, Form.LMTP, Form.EXDATA):
        answers = [
            (f"a{number}@example.net", Reply(550, "5.7.1", f"no {number}"))
            for number in range(len(data))
        ]
        found = repliesFor(form, answers)
        assert b"".join(reply.encode() for reply in found)


def _decided(data: bytes) -> None:
    """
    As many recipients, whose verdicts come one by one, late and in both orders.
    """
    for form in (Form.DEFERRALS, Form.PRDR, Form.LMTP, Form.PLAIN):
        for step in (1, -1):
            candidates = [
                Candidate(makeRecipient(f"a{number}@example.net"), R352_DEFERRED, True, number)
                for number in range(len(data))
            ]
            block = Block(form, candidates, "1")
            for number in range(len(data))[::step]:
                block.verdict(number, ACCEPT if number % 2 else Refuse(Reply(550, "5.7.1", "no")))
                if not block.dilemma:
                    block.take()


def _delivered(data: bytes) -> None:
    """
    A message for as many recipients, half of whom refuse it.
    """
    bench = Bench()
    names = [f"a{number}@example.net" for number in range(len(data))]
    refuses = Refuse(Reply(550, "5.7.1", "no"))
    bench.content.verdicts = {
        name: refuses if number % 2 else ACCEPT for number, name in enumerate(names)
    }
    bench.say("EHLO c", "MAIL FROM:<a@example.com> PRDR")
    bench.say(*(f"RCPT TO:<{name}>" for name in names))
    bench.say("DATA")
    bench.say("Subject: x", "", "x", ".")


def _written(said: str) -> None:
    reply = Reply(550, "5.1.1", said)
    reply.encode()
    reply.encode(True)
    reply.addressed("a@b.example").lines()
    assert str(reply)


def _traced(said: str) -> None:
    envelope = makeEnvelope()
    envelope = attrs.evolve(envelope, client=attrs.evolve(envelope.client, helo=said, tls=said))
    received(envelope, "mx.example.net", said)
    returnPath(envelope)
    deliveredTo(said, envelope)


def _completed(data: bytes) -> bytes:
    """
    Octet by octet, as a client may send it.
    """
    submitter = Submitter(Mailbox.parse("a@b.example"), lambda one: False)
    completion = Completion(Additions("now", "<1@mx.example.net>", submitter), 1 << 20)
    pieces = [completion.feed(data[place : place + 1]) for place in range(len(data))]
    return b"".join([*pieces, completion.end()])


def _toSign(data: bytes) -> None:
    """
    As far as it is ours; what makes the signature of it is linear in what is chosen.
    """
    read = ToSign(data[place : place + 16] for place in range(0, len(data), 16))
    fields = read.fields()
    authors(fields)
    namesToSign(fields, FIELDS)
    read.bodyHash()


def _bodyHash(data: bytes) -> bytes:
    body = BodyHash()
    for place in range(0, len(data), 16):
        body.feed(data[place : place + 16])
    return body.end()


PARSERS += [
    Parser(
        "fields to be signed",
        ("model/dkim.py", "server/signing.py"),
        (
            *(b"From: ", b"To: ", b"\r\n", b"\r\n ", b" ", b":", b"a@b.example", b"<", b'"'),
            *(b"(", b","),
        ),
        _toSign,
        600,
        (b"", b"From: ", b"From: a@b.example\r\nTo:"),
    ),
    Parser(
        "a body to be signed",
        ("model/dkim.py",),
        (b" ", b"\t", b"\r\n", b"\r", b"\n", b"x", b" \r\n", b"\r\n\r\n"),
        _bodyHash,
        2000,
    ),
    Parser(
        "DKIM records",
        ("model/dkim.py",),
        (b"v=DKIM1", b";", b"=", b" ", b"p=", b"a2V5", b":", b"\r\n", b"h=sha256", b"x"),
        lambda data: recordProblem([b"v=DKIM1; " + data], "rsa", b"key"),
        600,
    ),
    Parser(
        "what is ours to say",
        ("model/ours.py", "model/fields.py"),
        (b"Authentication-Results: ", b"\r\n ", b"\r\n", b"(", b")", b"\\", b"Return-Path: x\r\n"),
        lambda data: withoutOurs(data, "mx.example.net", True),
        600,
        (b"", b"Authentication-Results: ", b"Authentication-Results: ("),
        (b"", b"\r\na: b"),
    ),
    Parser(
        "a submitted message completed",
        ("model/completion.py", "model/fields.py"),
        (
            *(b"From: ", b"Sender: ", b"DKIM-Signature: h=", b"\r\n", b"\r\n ", b"(", b")"),
            *(b'"', b"\\", b"<", b">", b",", b":", b";h=", b"a@b.example", b"Bcc: x\r\n"),
        ),
        lambda data: _completed(data),
        600,
        (b"", b"From: ", b"DKIM-Signature: h=", b"Sender: (", b'From: "', b"From: <"),
        (b"", b"\r\n\r\n"),
    ),
    Parser("header fields read", ("model/fields.py",), (b"a:", b"\r\n ", b"\r\n"), fieldsOf),
    Parser(
        "lines of a log",
        ("operator/logs.py",),
        (
            b"2026-11-29T16:00:00+00:00 [a] 1M84B9SJQ005Q b\n",
            *(b"\t", b"\n", b"{", b" ", b"a ", b"Nov 29 16:00:00 mx a[1]: ", b"a: "),
        ),
        lambda octets: list(entriesIn(io.StringIO(octets.decode("latin-1")))),
    ),
    Parser(
        "the Message-ID for the log",
        ("model/fields.py",),
        (b"message-id:", b"\r\n ", b" ", b"\r\n", b"a"),
        messageIdOf,
    ),
    Parser(
        "text for people",
        ("model/text.py",),
        (b"a", b"\x1b", b"\xe2\x80\xae", b"\n"),
        text(lambda said: (cleaned(said), oneLine(said), cleanedLines(said))),
    ),
    Parser(
        "copies",
        ("model/trace.py", "stages/delivery/copy.py"),
        (b"\r\n ", b"\r\n\t", b"\r\na: b", b"x", b":", b"\r\nSubject: y"),
        _marked,
        400,
        (b"", b"X: a"),
    ),
    Parser(
        "fields that are added",
        ("model/trace.py", "model/headertext.py"),
        (b" ", b"a", b"\r\n", b"a ", b"\xc3\xa4"),
        text(lambda value: field("X", value)),
        1000,  # longer words than fit into a line, at each size
    ),
    Parser("trace fields", ("model/trace.py",), (b" ", b"a", b"\xc3\xa4"), text(_traced)),
    Parser(
        "line ends",
        ("stages/delivery/copy.py",),
        (b"\r", b"\n", b"\r\n", b"x"),
        lambda data: list(withLF(data[at : at + 1] for at in range(len(data)))),
        400,
    ),
    Parser(
        "dot-stuffing",
        ("smtp/client/writing.py",),
        (b"\r\n.", b".", b"x", b"\r"),
        lambda data: cut(lambda: Stuffing().feed, 1)(data),
        400,
    ),
    Parser(
        "notices",
        ("model/dsn.py",),
        (b" ", b": ", b":", b"a", b"\xc3\xa4", b"\r\n", b"message-id: ", b"=_0ABC_1", b"<"),
        _notice,
        500,
    ),
    Parser(
        "smaller notices",
        ("model/dsn.py",),
        (b"--=_0ABC_0\r\n", b"--", b"\r\n\r\n", b"content-type: ", b"\xc3\xa4", b"x", b"\r\n"),
        lambda data: smaller(b'a: boundary="=_0ABC_0"\r\n\r\n' + data),
        500,
    ),
    Parser("notices about many", ("model/dsn.py",), (b"x",), _notices, 40),
    Parser(
        "replies",
        ("model/reply.py",),
        (b" ", b"a", b"\n", b"\xc3\xa4", b"\x9b"),
        text(_written),
        500,
    ),
    Parser(
        "kept replies",
        ("model/reply.py",),
        (b" ", b"a", b"\n", b"\xc3\xa4", b"\x9b"),
        text(lambda said: kept(Reply(550, None, said))),
        500,
    ),
    Parser(
        "replies of stages",
        ("model/reply.py",),
        (b"a", b"@", b"<", b">", b" ", b"."),
        text(Reply.parseRefusal),
        120,
        (b"551 5.1.6 ", b"551 5.1.6 <", b"550"),
    ),
    Parser("reply blocks", ("model/block.py", "model/exdata.py"), (b"x",), _replies, 40),
    Parser("verdicts one by one", ("model/block.py",), (b"x",), _decided, 40),
    Parser("a message for many", ("smtp/server/postdata.py",), (b"x",), _delivered, 40),
    Parser(
        "558s that are read",
        ("model/exdata.py",),
        (b"250 ok\n", b"550-no\n", b"550 no\n", b"x"),
        text(lambda said: ownReplies(said.split("\n"))),
        500,
    ),
    Parser(
        "reports",
        ("model/deliveryreport.py",),
        (b"a", b" ", b"\n"),
        text(
            lambda said: shortened(
                [resultLine("a@b", Failed(Reply(550, "5.1.1", said)), None, True)]
                * len(said.split())
            )
        ),
        120,
    ),
]

# The client's side.

_REPLIES = (b"250 ok\r\n", b"250-ok\r\n", b"550-5.1.1 : :\r\n", b"x", b"\r\n", b"354 go\r\n")


def _client(data: bytes, ahead: int = 0) -> None:
    """
    A session to whose server this is said.
    """
    clock = Clock()
    session = ClientSession(clock, "client.example.com")
    transport: Any = StringTransport()
    transport.abortConnection = lambda: None
    session.makeConnection(transport)
    opened = Deferred.fromCoroutine(session.open()).addErrback(lambda _: None)
    if ahead:
        session.dataReceived(b"220 mx\r\n250-mx\r\n250-PIPELINING\r\n250 EXDATA\r\n")
        recipients = [f"a{number}@example.net" for number in range(ahead)]
        message = Outgoing("a@example.com", recipients, 3, lambda: iter([b"x\r\n"]))
        opened = Deferred.fromCoroutine(session.send(message)).addErrback(lambda _: None)
        session.dataReceived(b"250 ok\r\n" * (ahead + 1))
    session.dataReceived(data)
    assert opened is not None


def _sent(data: bytes) -> None:
    """
    As many recipients, each refused.
    """
    recipients = [f"a{number}@example.net" for number in range(len(data))]
    message = Outgoing("a@example.com", recipients, 3, lambda: iter([b"x\r\n"]))
    sending = Sending(message, Form.DEFERRALS, {"DEFERRALS": []}, False)
    for command in sending.commands():
        code = 352 if command.startswith("RCPT") else 250
        sending.answered(command, Reply(354 if command == "DATA" else code))
    for index in sending.listed:
        sending.block[index] = Reply(550)
    sending.result("lost")


def _scram(data: bytes) -> None:
    mechanism = ScramSHA256("user", "secret", "nonce", lambda *args: succeed(b"x" * 32))
    mechanism.start()
    challenge = base64.b64encode(data).decode("ascii")
    failures: list[object] = []
    Deferred.fromCoroutine(mechanism.respond(challenge)).addErrback(failures.append)


PARSERS += [
    *each(
        Parser("replies of next hops", ("smtp/client/replies.py",), _REPLIES, len, 400),
        (1, 100, 100_000),
        lambda: lambda data: list(ReplyParser().feed(data)),
    ),
    *each(
        Parser(
            "one reply of a next hop",
            ("smtp/client/replies.py",),
            (b"250-ok\r\n", b"550-a b\r\n"),
            len,
            800,
        ),
        (1, 100, 100_000),
        lambda: (lambda parser: lambda data: list(parser.feed(data)))(ReplyParser()),
    ),
    Parser(
        "EHLO",
        ("smtp/client/conversation.py",),
        (b"250-X a b\r\n", b"250-AUTH ", b" a", b"\r\n"),
        _client,
        400,
        (b"220 mx\r\n", b""),
        (b"250 X\r\n",),
    ),
    Parser(
        "replies behind RCPT",
        ("smtp/client/session.py", "model/sending.py"),
        _REPLIES,
        lambda data: _client(data, 20),
        400,
    ),
    Parser("replies to many", ("model/sending.py", "model/answers.py"), (b"x",), _sent, 40),
    Parser(
        "SCRAM of a server",
        ("smtp/client/auth.py",),
        (b",", b"=", b"a", b"r=", b"i=1,"),
        _scram,
        400,
        (b"r=noncex,s=QQ==,i=4096,", b"e=", b""),
    ),
    Parser("recipients that are sent", ("model/commands.py",), _WORDS, text(checkRecipient)),
]

# Web services, scanners, DNS.


def _exchanged(whole: Callable[[], Any]) -> Callable[[], Callable[[bytes], None]]:
    def make() -> Callable[[bytes], None]:
        exchange = _Exchange(iter(()), whole())
        transport: Any = StringTransport()
        transport.abortConnection = lambda: None
        exchange.makeConnection(transport)
        return exchange.dataReceived

    return make


def _http(data: bytes) -> None:
    """
    An answer as Twisted's client reads it, behind our counter.
    """
    from twisted.web._newclient import HTTPClientParser, Request
    from twisted.web.http_headers import Headers

    counter = AnswerCounter()
    parser = HTTPClientParser(
        Request(b"GET", b"/", Headers({b"host": [b"x"]}), None), lambda _: None
    )
    parser.makeConnection(StringTransport())
    for start in range(0, len(data), 500):
        piece = data[start : start + 500]
        counter.feed(piece)
        try:
            parser.dataReceived(piece)
        except Exception:  # what its caller takes for a broken answer
            return


def _line(data: bytes) -> None:
    """
    What the other process of a line says, in pieces.
    """
    arrays = _Arrays()
    for start in range(0, len(data), 100):
        for _ in arrays.add(data[start : start + 100]):
            pass


def _names(records: Sequence[Any], kind: int) -> None:
    class Resolver:
        def query(self, query: Any, timeout: Any = None) -> Any:
            headers = [dns.RRHeader(b"a", one.TYPE, dns.IN, 60, one) for one in records]
            found = [one for one in headers if one.type == query.type]
            return succeed((found, [], []))

    names = Names(lambda: Resolver(), Clock())  # type: ignore[arg-type, return-value]
    router = Router(names, lambda found: None, lambda name: False, lambda one: True, 10, True)
    names.find(kind, "a.example").addErrback(lambda _: None)
    router.route("a.example").addErrback(lambda _: None)


def _dns(data: bytes) -> None:
    """
    As many records as there are octets; and the octets as a message.
    """
    _names([dns.Record_MX(10, b"mx.example")] * len(data), dns.MX)
    _names([dns.Record_A("192.0.2.1")] * len(data), dns.A)
    _names([dns.Record_TXT(data)] * 3, dns.TXT)


def _message(data: bytes) -> None:
    head = struct.pack(">HHHHHH", 1, 0x8180, 0, len(data) // 16 + 1, 0, 0)
    with contextlib.suppress(Exception):  # what its caller takes for a broken answer
        dns.Message().fromStr(head + data)


@attrs.frozen
class _Zone:
    """
    Records that a stranger chose.
    """

    record: bytes
    kind: bytes = b"v=spf1 "

    async def texts(self, name: str) -> Sequence[bytes]:
        return [self.kind + self.record]

    async def addresses(self, name: str, version: int) -> Sequence[Any]:
        return [ipaddress.ip_address("192.0.2.1")] * 10

    async def exchanges(self, name: str) -> Sequence[str]:
        return ["mx.example"] * 10

    async def pointers(self, name: str) -> Sequence[str]:
        return ["mx.example"] * 10


def _spf(data: bytes) -> None:
    found: list[object] = []
    d = Deferred.fromCoroutine(
        checkHost(_Zone(data), "192.0.2.1", "helo.example", Mailbox.parse("a@b.example"))
    )
    d.addBoth(found.append)
    assert found


def _dmarc(data: bytes) -> None:
    authorsOf([Field(b"from", b"From: " + data)])
    found: list[object] = []
    zone, suffixes = _Zone(data, b"v=DMARC1;"), Suffixes(lambda one: None)
    Deferred.fromCoroutine(findRecord(zone, "a.example", suffixes)).addBoth(found.append)
    (record,) = found
    if isinstance(record, DMARCRecord):
        judge("a.example", record, None, [Signature("pass", "b.example")], suffixes)


_MACRO_VALUES = dict.fromkeys("slodiphcrtv", "a.b.c" * 10)

PARSERS += [
    *each(
        Parser(
            "heads of web answers",
            ("model/httpanswer.py",),
            (b"a: b\r\n", b"x", b"\r\n", b" c\r\n", b"HTTP/1.1 100 C\r\n\r\n"),
            len,
            600,
            (b"HTTP/1.1 200 OK\r\n",),
        ),
        (1, 100, 100_000),
        lambda: AnswerCounter().feed,
    ),
    Parser(
        "web answers",
        ("stages/web.py", "stages/webconnection.py", "model/httpanswer.py"),
        known="Twisted copies a line with each piece of it, up to 16,384 octets",
        pieces=(b"a: b\r\n", b"x", b" c\r\n", b"\r\n", b"1\r\nx\r\n"),
        run=_http,
        octets=1000,
        before=(
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 100 C\r\n\r\n",
        ),
    ),
    *(
        Parser(
            f"files of {name}",
            ("model/aliasfile.py",),
            (
                *(b"a", b'"', b"\\", b"(", b")", b"<", b">", b",", b" ", b"\n", b"\n ", b"#", b"@"),
                *(b"a: b, c\n", b"a@b.c d\n", b":include:/x", b"|", b"."),
            ),
            text(read),
            1000,
            (b"", b"a: ", b"a@b.c "),
        )
        for name, read in {
            "aliases": lambda said: readBook(said, "aliases"),
            "virtual aliases": lambda said: readBook(said, "virtual"),
            "addresses that are included": readIncluded,
        }.items()
    ),
    Parser(
        "JSON",
        ("stages/web.py",),
        (b"[", b"{", b'"a":', b"1", b",", b"\\", b'"'),
        lambda data: fromJSON(200, data),
        500,
    ),
    Parser(
        "verdicts of a web service",
        ("stages/content/http.py", "stages/content/addedfields.py"),
        (b"x",),
        lambda data: _verdict(
            {
                "verdicts": {
                    f"a{n}@b.example": {"accept": True, "headers": {str(m): "y" for m in range(9)}}
                    for n in range(len(data))
                },
                "default": {"accept": True},
            },
            [makeRecipient("a@b.example")],
        ),
        100,
    ),
    Parser(
        "Retry-After",
        ("stages/delivery/http.py",),
        (b"1", b" ", b"Mon, ", b":", b"("),
        text(lambda value: outcomeOf(503, value, 0.0)),
        100,
    ),
    Parser(
        "answers of rspamd",
        (
            "stages/content/rspamdreply.py",
            "stages/content/addedfields.py",
            "stages/content/scores.py",
        ),
        (b"x",),
        lambda data: scores.symbolsNamed(
            rspamdreply.readScan(
                {
                    "score": 1,
                    "action": "reject",
                    "symbols": {str(n): {"score": n} for n in range(len(data))},
                    "milter": {
                        "add_headers": {str(n): [{"value": "x"}, "y"] for n in range(len(data))},
                        "remove_headers": {"X": 1},
                    },
                }
            ).symbols
        ),
        100,
    ),
    Parser(
        "nested answers of rspamd",
        ("stages/content/rspamdreply.py",),
        (b"[",),
        lambda data: rspamdreply.readScan(
            {
                "score": 1,
                "action": "x",
                "milter": {
                    "add_headers": {"X": json.loads(b"[" * len(data) + b'"a"' + b"]" * len(data))}
                },
            }
        ),
        50,
    ),
    *each(
        Parser(
            "answers of clamd",
            ("stages/content/clamav.py", "stages/content/exchange.py"),
            (b"x", b"stream: ", b" FOUND", b"\xff"),
            len,
            500,
        ),
        (1, 100, 100_000),
        _exchanged(lambda: clamav._isWhole),
    ),
    Parser(
        "clamd's words",
        ("stages/content/clamav.py",),
        (b"x", b"\x9b", b" FOUND"),
        clamav.parseAnswer,
        500,
        (b"stream: ", b""),
        (b" FOUND\0", b""),
    ),
    *each(
        Parser(
            "answers of spamd",
            ("stages/content/spamassassin.py", "stages/content/exchange.py"),
            (b"x", b"\r\n", b"spam: ", b"true ; ", b" ", b"1", b"content-length: 9\r\n", b"/"),
            len,
            500,
            (b"SPAMD/1.1 0 EX_OK\r\n",),
        ),
        (1, 100, 100_000),
        _exchanged(spamassassin.WholeAnswer),
    ),
    Parser(
        "spamd's words",
        ("stages/content/spamassassin.py",),
        (b"\r\n", b"spam: ", b"true ; ", b" ", b"1", b"/", b"content-length: "),
        spamassassin.parseAnswer,
        400,
        (b"SPAMD/1.1 0 EX_OK\r\n", b"SPAMD/1.1 0 "),
        (b"", b"spam: true ; 1 / 2\r\n\r\n"),
    ),
    Parser("DNS answers", ("stages/lookups.py", "stages/delivery/route.py"), (b"x",), _dns, 30),
    Parser(
        "DNS messages",
        ("stages/lookups.py",),
        known="Twisted joins labels one by one; resolvers pass on no name beyond 255 octets",
        pieces=(
            b"\0\0\1\0\1\0\0\0\0\0\4\1\2\3\4",
            b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\1\2\3\4",
            b"\1a",
            b"\xc0\x0c",
            b"\xc0\x0e",
        ),
        run=_message,
        octets=300,
    ),
    Parser(
        "SPF records",
        ("model/spfrecord.py",),
        (b"a ", b"ip4:1.2.3.4 ", b"mx:", b"x", b".", b"%{s}", b"/", b"=", b"redirect=", b"-"),
        lambda data: parseRecord(b"v=spf1 " + data),
        400,
    ),
    Parser(
        "names and texts of DNS lists",
        ("model/dnslists.py",),
        (b"a.", b".", b"a", b"\xc3\xa4", b"1.", b"\0"),
        lambda data: (listedNames([data.decode("utf-8", "replace")] * 2), shownText(data)),
    ),
    Parser(
        "Sieve scripts",
        ("model/sievescript.py",),
        (b"reject", b"ereject ", b'"', b"\\", b"/*", b"*/", b"#", b"\n", b"text:\n", b"require "),
        lambda data: Script.read(b'require "ereject"; ' + data),
        400,
    ),
    Parser(
        "what sieve-test says",
        ("model/sievescript.py",),
        (b" * discard\n", b"\nImplicit keep:\n", b"Performed actions:\n", b"?", b"\n", b"x"),
        text(lambda data: decisionOf(f"Performed actions:\n{data}\nImplicit keep:\n (none)")),
    ),
    Parser(
        "SPF checks",
        ("model/spf.py", "server/spf.py"),
        (
            b"a ",
            b"ip4:1.2.3.4 ",
            b"mx ",
            b"ptr ",
            b"include:b.example ",
            b"exists:%{i}.x ",
            b"?all ",
        ),
        _spf,
        500,
    ),
    Parser(
        "authors and their policies",
        ("model/dmarc.py", "server/dnsnames.py"),
        (b"a@b.example", b",", b"<", b">", b"p=reject", b"; ", b"np=none;", b"=", b"a", b" ", b"("),
        _dmarc,
        400,
        (b"v=DMARC1; p=none", b""),
    ),
    Parser(
        "SPF macros",
        ("model/spfmacro.py",),
        (b"%{s}", b"%{d9r.-+}", b"%%", b"%", b"{", b"a", b"."),
        text(lambda value: DomainSpec.parse(value).expand(_MACRO_VALUES)),
        400,
        (b"",),
        (b".example", b"%{d}"),
    ),
    Parser(
        "files of tables",
        ("stages/tables/file.py",),
        (b"a@b.example", b"*", b": ", b":", b"\n", b" ", b"#", b'{"a": [', b"x: 1\n"),
        text(readRows),
        400,
    ),
    Parser(
        "users of Dovecot",
        ("model/dovecot.py", "stages/tables/dovecot.py"),
        (b"a", b"=", b"\t", b"\x01t", b"\x01", b"\xff", b"a=b\t"),
        lambda data: dovecotRow(data.split(b"\t")),
        400,
    ),
    Parser(
        "rows of users",
        ("stages/envelope/usersettings.py", "model/rowlists.py"),
        (b"a@b.example ", b"*", b",", b"@", b" ", b'"', b"\\", b"(", b")", b"<", b">", b"\n", b"#"),
        text(lambda value: readRow({"forward": value, "allow": value})),
        400,
    ),
]

# MIME.


def _archive(data: bytes) -> None:
    for kind in ("x.zip", "x.tar", "x.gz"):
        with contextlib.suppress(archives.Unreadable):
            list(archives.members(io.BytesIO(data), [kind], archives.Budget()))


_HEADER = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
_RFC822 = b"Content-Type: message/rfc822\r\n\r\n"
_MIME = (
    *(b"--b\r\n", b"\r\n", b"a:b\r\n", b"--", b"x", b"\r\n--c", b" y\r\n", _HEADER, _RFC822),
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Disposition: attachment; filename=x\r\n",
)
_PARAMETERS = (b";", b" ", b"=", b'"', b"a", b"*", b"*0", b"'", b"\\", b"%41", b"; a*1=b")
_ENCODED = (b"=?utf-8?q?a?=", b"=?utf-8?b?QQ==?=", b"=?", b"?", b" ", b"=", b"a", b"?=")


_LOCAL_HEADER = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, 0, 0, 5, 0) + b"a.zip"
_ENCODED_MESSAGE = _RFC822[:-2] + b"Content-Transfer-Encoding: base64\r\n\r\n"
#: What encoded contents are of, and what they should not be.
_TRANSFERRED = (
    *(b"=", b"= ", b"=\r\n", b"A=", b"AA==", b"AA==\r\n", b"A", b"A ", b" ", b"\t", b"\r", b"\n"),
    *(b"-", b"\0", b"=4", b"=41", b"=\r", b" \r\n", b"begin", b"begin 644 a\n", b"begin 644"),
    *(b"begin-base64 644 a\n", b"====\n", b"M", b"`\nend\n", b"=ybegin line=1 size=1 name=a\n"),
)
_UNSURE = b"Content-Transfer-Encoding: base64 (quoted-printable) x-uue\r\n"


def _parts(data: bytes) -> None:
    """
    All that a rule may ask of a part.
    """
    for file in contents.files(data):
        file.content(100)
        file.texts(10_000)


def _partIn(encoding: str) -> Callable[[bytes], None]:
    """
    A part that says how it is encoded, and is not for long.
    """
    head = _HEADER + f"--b\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode("ascii")
    return lambda data: _parts(head + data + b"\r\n--b--\r\n")


def _inBase64(data: bytes) -> None:
    """
    A message in messages, encoded, as deep as they are looked into.
    """
    for _ in range(contents.MAX_DEPTH):
        data = _ENCODED_MESSAGE + base64.encodebytes(data)
    _parts(data)


def _uuencoded(data: bytes) -> None:
    """
    A file in files, each of them uuencoded.
    """
    for _ in range(4):
        lines = (binascii.b2a_uu(data[at : at + 45]) for at in range(0, len(data), 45))
        data = b"begin 644 a.txt\n" + b"".join(lines) + b"`\nend\n"
    _parts(b"Subject: x\r\n\r\n" + data)


def _twice(data: bytes) -> None:
    """
    A zip with that many members, and once more.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(len(data) // 10):
            archive.writestr(zipfile.ZipInfo(f"{number}.exe"), b"")
    with contextlib.suppress(archives.Unreadable):
        found = io.BytesIO(2 * file.getvalue())
        list(archives.members(found, ["x.zip"], archives.Budget()))


def _broken(data: bytes) -> None:
    """
    A zip and a tar with that many members which are broken archives, or encrypted.
    """
    file, tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, tarfile.open(fileobj=tar, mode="w") as other:
        for number in range(len(data) // 10):
            name = f"{number}.zip"
            archive.writestr(zipfile.ZipInfo(name), b"PK\3\4")
            info = tarfile.TarInfo(name)
            info.size = 4
            other.addfile(info, io.BytesIO(b"PK\3\4"))
    for made in (file, tar):
        with contextlib.suppress(archives.Unreadable):
            list(archives.members(io.BytesIO(made.getvalue()), ["x"], archives.Budget()))


def _rules(data: bytes) -> None:
    """
    Three policies with rules of every kind.
    """
    subjects = ("attachment", "mime_type", "file_type", "archive")
    rules = [MatchRule(**{name: ("*.exe",)}) for name in subjects]  # type: ignore[arg-type]
    rules += [MatchRule(header="Subject", words=("x y",)), MatchRule(test="eicar")]
    rules += [MatchRule(body=True, words=("x y",)), MatchRule(test="gtube")]
    services, message = FakeServices(), makeMessage(data)
    for _ in range(3):
        stage = MatchStage(MatchSettings(tuple(rules)), services)
        stage.judge(message, makeEnvelope(), [makeRecipient("a@b.example")])


PARSERS += [
    Parser(
        "MIME",
        ("stages/content/match/mime.py", "stages/content/match/contents.py"),
        (*_MIME, b"=41", b"QQ=="),
        _parts,
        800,
        (b"", _HEADER, _RFC822, _UNSURE + b"\r\n", _HEADER + b"--b\r\n" + _UNSURE),
    ),
    *(
        Parser(
            f"a part in {encoding}",
            ("stages/content/match/contents.py",),
            _TRANSFERRED,
            _partIn(encoding),
            800,
        )
        for encoding in ("base64", "quoted-printable", "x-uuencode", "7bit", "x")
    ),
    Parser(
        "messages in base 64 in messages",
        ("stages/content/match/contents.py",),
        (b"--b\r\n", b"a:b\r\n", b"x"),
        _inBase64,
        300,
        (b"", _HEADER),
    ),
    Parser(
        "uuencode in uuencode",
        ("stages/content/match/contents.py", "stages/content/match/uuencode.py"),
        (b"begin 644 a\n", b"M", b"#0V%T\n", b"end\n", b"\r", b"x"),
        _uuencoded,
        400,
    ),
    Parser(
        "two zips in one",
        ("stages/content/match/archives.py", "stages/content/match/zipentries.py"),
        (b"x",),
        _twice,
        400,
    ),
    Parser(
        "broken archives in archives",
        ("stages/content/match/archives.py", "stages/content/match/zipentries.py"),
        (b"x",),
        _broken,
        400,
    ),
    Parser(
        "boundaries",
        ("stages/content/match/mime.py", "stages/content/match/headers.py"),
        (b"; boundary=b", b"; boundary=c", b"; boundary*1=d", b"; name=a", b";\r\n x"),
        lambda data: mime.parts(data + b"\r\n\r\n--b\r\n\r\n--c\r\n\r\n--d\r\n"),
        400,
        (b"Content-Type: multipart/x", b'Content-Type: multipart/x; boundary="'),
    ),
    Parser(
        "header sections",
        ("stages/content/match/headers.py",),
        (b"a", *_MIME, b" ", b"(", b"\r", b"Content-Type: ", b"no field\r\n", b"/", b"a ", b"a/ "),
        lambda data: (headers.PartHeader.read(data), headers.otherStarts(data)),
        300,
        (b"Content-Type: ", b"", b"Content-Type: a/b; ", b"Content-Transfer-Encoding: "),
    ),
    Parser(
        "fields as all read them",
        ("stages/content/match/fields.py",),
        (*_PARAMETERS, b"(", b")", b"name=a", b"name*1*=", b"\r\n", b'name="'),
        text(fields.readings),
        200,
        (b"", b"a/b; name=", b'a/b; name="'),
    ),
    Parser(
        "names of files",
        ("stages/content/match/names.py",),
        (b"a", b".", b" ", b"/", b":", b'"', b"\xe2\x80\x8b", b"\xff", b"\xef\xb7\xba"),
        text(names.savedNames),
        400,
    ),
    Parser(
        "uuencode",
        ("stages/content/match/uuencode.py",),
        (b"begin 644 a\n", b"begin-base64 644 a\n", b"M", b"#0V%T\n", b"end\n", b"====\n", b"\r"),
        lambda data: list(uuencode.files(data)),
        500,
    ),
    Parser(
        "TNEF",
        ("stages/content/match/tnef.py",),
        (
            *(b"\0", b"\1", b"\x1e\0\7\x37\1\0\0\0\1\0\0\0a\0\0\0"),
            *(b"\2\x10\x80\1\0\1\0\0\0a\0\0", b"\2\x0f\x80\6\0\1\0\0\0a\0\0"),
        ),
        lambda data: list(tnef.files(data)),
        500,
        (b"", tnef.MAGIC + b"\0\0", tnef.MAGIC + b"\0\0\2\5\x90\6\0\0\2\0\0\xff\0\0\0"),
    ),
    Parser(
        "MIME, only the walk",
        ("stages/content/match/mime.py",),
        _MIME,
        lambda data: list(mime.parts(data)),
        400,
        (b"", _HEADER, _RFC822),
    ),
    Parser(
        "7-bit",
        ("stages/delivery/sevenbit.py",),
        (*_MIME, b"\xff"),
        sevenBit,
        500,
        (b"", _HEADER, _RFC822, b"Subject: \xff", b"Subject: \xff\r\n"),
    ),
    Parser(
        "rules",
        ("stages/content/match/stage.py", "stages/content/match/findings.py"),
        _MIME,
        _rules,
        300,
        (b"", _HEADER),
    ),
    Parser(
        "parameters", ("stages/content/match/fields.py",), _PARAMETERS, text(fields.parameters), 400
    ),
    Parser(
        "encoded words", ("stages/content/match/fields.py",), _ENCODED, text(fields.words), 2000
    ),
    Parser(
        "base 64",
        ("stages/content/match/fields.py",),
        (b"A", b"=", b"\r\n", b"-"),
        fields.base64,
        500,
    ),
    Parser(
        "character sets",
        ("stages/content/match/fields.py",),
        (b"+", b"A", b"-", b"\xff"),
        lambda data: fields.decoded(data, "utf-7"),
        400,
    ),
    Parser(
        "archives",
        (
            "stages/content/match/archives.py",
            "stages/content/match/compressed.py",
            "stages/content/match/zipentries.py",
        ),
        (
            _LOCAL_HEADER,
            _LOCAL_HEADER[:30],
            b"PK\3\4",
            b"PK\1\2",
            b"PK\5\6",
            b"\0",
            b"\x1f\x8b\x08",
            b"x",
            b"9 path=a\n",
        ),
        _archive,
        500,
        (b"", b"\x1f\x8b\x08\0\0\0\0\0\0\0"),
    ),
    Parser(
        "scores in a line of the log",
        ("model/scoretext.py",),
        (b"rspamd", b": score ", b"1", b"e", b"-", b".", b", refuse_score ", b"inf", b"; ", b" "),
        lambda data: scoresIn(data.decode()),
        4000,
    ),
    Parser(
        "where a page of the queue has ended",
        ("web/queuepage.py",),
        (b"W", b"z", b"E", b"s", b"M", b"l", b"0", b"=", b"\xc3\xa9", b"{"),
        lambda data: readCursor(data.decode()),
        500,
    ),
    Parser(
        "where a login leads",
        ("web/visitors.py",),
        (b"/", b"a", b"%", b"\\", b":", b"\xc3\xa9"),
        lambda data: ownPath(data.decode()),
        1000,
    ),
    Parser(
        "a Host header",
        ("web/site.py",),
        (b"[", b"]", b":", b"a", b"\xff"),
        hostOf,
        4000,
    ),
    Parser(
        "a link",
        ("model/link.py",),
        (b"A", b"=", b"-", b"_", b"\xff"),
        lambda data: SignedLink.read(data.decode("latin-1"), bytes(32), 0.0),
        200,
    ),
    Parser(
        "a field that is kept of a refusal",
        ("model/refusal.py",),
        (b"=?", b"?=", b"=?utf-8?q?a?=", b"=?utf-8?b?", b"?q?", b" ", b"\xff"),
        lambda data: headerText(data.decode("latin-1")),
    ),
    Parser(
        "an author's domains",
        ("server/proving.py",),
        (b"<", b">", b"a@b", b",", b"(", b'"', b"\\", b";", b":"),
        lambda data: domainsOf(makeMessage(b"From: " + data + b"\r\n\r\n"), makeEnvelope()),
    ),
    Parser(
        "an Origin header",
        ("web/forms.py",),
        (b"[", b"]", b":", b"/", b"a", b"\xff"),
        _netloc,
        4000,
        before=(b"", b"https://"),
    ),
    Parser(
        "packets of a filter",
        ("stages/milter/wire.py",),
        (b"\0\0\0\1c", b"\0\0\0\5hX\0v\0", b"\0\0\0\1p"),
        lambda data: list(Packets().feed(data)),
        400,
    ),
    Parser(
        "replies of a filter",
        ("stages/milter/dialogue.py",),
        (b"550-5.7.1 x\n", b"%%", b"\r", b"550 y"),
        lambda data: replyOf(b"550 " + data),
        400,
    ),
    Parser(
        "what a filter is told of a message",
        ("stages/milter/told.py",),
        (b"A: b\r\n", b" c\r\n", b"\r\n", b"\0"),
        lambda data: [*filterFields(makeMessage(data)), *bodyOf(makeMessage(data))],
        400,
    ),
    Parser(
        "edits of a header section",
        ("model/edits.py",),
        (b"A: b\n", b"B:c\n", b":\n", b"x\n"),
        lambda data: edited(data.splitlines(True), _EDITS, lambda name, value: b""),
        4000,
    ),
    Parser(
        "types of files",
        ("stages/content/match/filetypes.py",),
        (b"\0", b"x", b"PK\3\4", b"%PDF"),
        lambda data: filetypes.kindsOf(data[: archives.HEAD_OCTETS]),
        400,
    ),
    Parser(
        "pages of a database",
        ("spool/sqlite/cells.py",),
        (b"\0\x40", b"\x02\x01", b"\x08", b"\r"),
        lambda data: treePage(data, len(data), lambda number: b""),
        400,
        (b"\r\0\0\0\x20\0\0\0", b"\x02\0\0\0\x20\0\0\0\0\0\0\1"),
    ),
    Parser(
        "a write-ahead log",
        ("spool/sqlite/pages.py",),
        (b"\0\0\0\1" * 2 + b"\0" * 528, b"\0", b"x"),
        lambda data: readLogFrom(io.BytesIO(data)),
        4000,
        (b"\x37\x7f\x06\x82\0\0\0\0\0\0\2\0" + b"\0" * 20,),
    ),
    Parser(
        "arrays on the line of a worker",
        ("workers/line.py",),
        (b"[", b"]", b"\n", b",", b'"', b"1"),
        _line,
        4000,
    ),
]
