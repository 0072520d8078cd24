"""
Lines of an envelope, made by a generator that knows nothing of what this server
reads, and what Postfix, Exim and this server answer to each of them.

::

    python -m tests.integration.wirelines 10000 [SEED]
"""

from __future__ import annotations

import random
import re
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

import attrs

from tests.harness import Bench
from tests.integration.daemons import Exim, Postfix
from tests.integration.support import IntegrationCase

_LOCALS = [
    *("a", "user", "a.b", "a..b", ".a", "a.", "..a", "a..", "A.b+c=d", "a%b", "a!b", "a/b", "|a"),
    *('"a b"', '"a..b"', '"a\\"b"', '"a@b"', '"a', 'a"', 'a"b"c', '"a"."b"', '""', '"a"b', "'a'"),
    *("a b", "a\\ b", "a\\@b", "\\a", "a@b", "a,b", "a;b", "a:b", "a(b)", "(c)a", "a<b", "a[b]"),
    *(
        "",
        "#a",
        "{a}",
        "~a",
        "-a",
        "é",
        "ü.ü",
        '"é"',
        "a\u200db",
        "a\u202eb",
        "a\u3000b",
        "a\u00adb",
    ),
    *("x" * 64, "x" * 65, "x" * 240, "x" * 300, "postmaster", "\x01", "a\tb", "a\x7f"),
]
_DOMAINS = [
    *("example.org", "EXAMPLE.Org", "example.org.", "example.org..", ".example.org", "a..example"),
    *("-x.example", "x-.example", "x_y.example", "_x.example", "x-.-y.example", "localhost", "x"),
    *("1.2.3.4", "123", "a.1", "[192.0.2.1]", "[192.0.2]", "[192.0.2.999]", "[192.0.2.1", "[]"),
    *("[IPv6:2001:db8::1]", "[ipv6:::1]", "[2001:db8::1]", "[IPv6:fe80::1%>x]", "[IPv6:1::2::3]"),
    *("[IPv6:fe80::1%eth0]", "[x]", "[ 192.0.2.1 ]", "bücher.example", "xn--bcher-kva.example"),
    *(
        "i❤.ws",
        "xn--i-7iq.ws",
        "☃.example",
        "xn--n3h.example",
        "ﬁ.example",
        "xn--a.example",
        "ß.example",
    ),
    *("ex ample.org", "example.org(c)", "(c)example.org", "exa#mple.org", "example.org:25", "*"),
    *(
        "example\\.org",
        '"example".org',
        "a/b.example",
        "a+b.example",
        "a,b.example",
        "",
        "@x.example",
    ),
    *("b" * 63 + ".example", "b" * 64 + ".example", "b." * 120 + "example", "b." * 130 + "example"),
    *(
        "a\u202e.example",
        "a\u3002example",
        "a\u200b.example",
        "日本.example",
        "example.org\t",
        "x.y.z.w",
    ),
]
_FROMS = ["FROM:", "FROM: ", "from:", "From:  ", "FROM :", "FROM", "FROM:\t", "FRM:", " FROM:", ""]
_TOS = [text.replace("FROM", "TO").replace("rom", "o").replace("from", "to") for text in _FROMS]
_SHAPES = [
    *["<{0}@{1}>"] * 12,
    *["{0}@{1}"] * 4,
    *("< {0}@{1} >", "<{0}@{1} >", "<{0} @ {1}>", "<{0}@{1}", "{0}@{1}>", "<<{0}@{1}>>"),
    *("<@r.example:{0}@{1}>", "<@r.example,@s.example:{0}@{1}>", "@r.example:{0}@{1}"),
    *("<@{1}>", "<{0}@>", "<{0}>", "{0}", "<>", "< >", "", "<{0}@{1}>>", "<{0}@{1}>x"),
    *(
        "Name <{0}@{1}>",
        '"A Name" <{0}@{1}>',
        "(c) <{0}@{1}>",
        "<{0}@{1}> (c)",
        "<{0}@{1}>,<a@b.example>",
    ),
    *(
        "<{0}@{1},b@c.example>",
        "<mailto:{0}@{1}>",
        "'{0}@{1}'",
        '<"{0}@{1}">',
        "<<>>",
        "<{0};@{1}>",
    ),
]
_ANY = [
    *("XFOO", "XFOO=1", "FOO BAR", "=x", "=", "SIZE = 1", "-x=1", "x_y=1", "é", "(c)", "<>"),
]
_MAIL_WORDS = [
    *("SIZE=100", "size=100", "SIZE=", "SIZE", "SIZE=abc", "SIZE=-1", "SIZE=0", "SIZE=1k"),
    *(
        "SIZE=99999999999999999999999",
        "SIZE=52428801",
        "SIZE=100 SIZE=100",
        "SIZE=00000000000000000000001",
    ),
    *("BODY=8BITMIME", "BODY=7BIT", "body=8bitmime", "BODY=BINARYMIME", "BODY=X", "BODY=", "BODY"),
    *("BODY=7BIT BODY=8BITMIME", "SMTPUTF8", "smtputf8", "SMTPUTF8=1", "SMTPUTF8 SMTPUTF8"),
    *(
        "RET=FULL",
        "RET=HDRS",
        "ret=hdrs",
        "RET=X",
        "RET=",
        "RET",
        "RET=FULL RET=HDRS",
        "RET=FULL RET=FULL",
    ),
    *(
        "ENVID=abc",
        "ENVID=a+2Bb",
        "ENVID=a+2bb",
        "ENVID=a+zz",
        "ENVID=a+",
        "ENVID=",
        "ENVID",
        "ENVID=a=b",
    ),
    *(
        "ENVID=" + "x" * 100,
        "ENVID=" + "x" * 101,
        "ENVID=a+0Ab",
        "ENVID=é",
        "ENVID=a ENVID=b",
        "envid=<a@b>",
    ),
    *("AUTH=<>", "AUTH=a@b.example", "AUTH=", "AUTH=a+40b", "AUTH=+zz", "NOTIFY=NEVER"),
]
_RCPT_WORDS = [
    *(
        "NOTIFY=NEVER",
        "NOTIFY=SUCCESS,FAILURE",
        "notify=never",
        "NOTIFY=DELAY",
        "NOTIFY=success,DELAY",
    ),
    *(
        "NOTIFY=",
        "NOTIFY",
        "NOTIFY=NEVER,SUCCESS",
        "NOTIFY=X",
        "NOTIFY=SUCCESS,SUCCESS",
        "NOTIFY=SUCCESS,",
    ),
    *("NOTIFY=,SUCCESS", "NOTIFY=SUCCESS,X", "NOTIFY=NEVER NOTIFY=NEVER", "NOTIFY=SUCCESS;FAILURE"),
    *(
        "ORCPT=rfc822;a@b.example",
        "ORCPT=RFC822;A@B",
        "ORCPT=a@b.example",
        "ORCPT=rfc822;",
        "ORCPT=",
        "ORCPT",
    ),
    *(
        "ORCPT=rfc822;a+40b",
        "ORCPT=rfc822;a+zz",
        "ORCPT=rfc822;a+2bb",
        "ORCPT=rfc822;a+",
        "ORCPT=;a",
    ),
    *(
        "ORCPT=x;y;z",
        "ORCPT=x400;/G=a/S=b/",
        "ORCPT=utf-8;a\\x{FC}b",
        "ORCPT=utf-8;ü@b",
        "ORCPT=utf-8;\\x{zz}",
    ),
    *(
        "ORCPT=rfc822;" + "x" * 480,
        "ORCPT=rfc822;" + "x" * 600,
        "ORCPT=rfc822;a=b@c",
        "ORCPT=rfc822;<a@b>",
    ),
    *(
        "ORCPT=rfc822;a+00b",
        "ORCPT=rfc822;é@b",
        "ORCPT=r_c;a@b",
        "ORCPT=rfc822; a@b",
        "SIZE=100",
        "RET=FULL",
    ),
    *("ORCPT=rfc822;a@b ORCPT=rfc822;a@b", 'ORCPT=rfc822;"a b"@c', "ORCPT=rfc822;a,b@c"),
]
_NAMES = [
    *(
        "x",
        "x.example",
        "X.Example.",
        "[192.0.2.1]",
        "[IPv6:2001:db8::1]",
        "[::1]",
        "192.0.2.1",
        "::1",
        "_x",
    ),
    *(
        "x_y.example",
        "",
        "x y",
        "x y z",
        "-x",
        "x-",
        "x..y",
        ".",
        ".x",
        "a/b",
        "a@b",
        "(x)",
        "<x>",
        "x#y",
    ),
    *(
        "x,y",
        "*",
        "$x",
        "x:y",
        "x;y",
        "x'y",
        'x"y',
        "{x}",
        "x!y",
        "x%y",
        "x&y",
        "x=y",
        "x?y",
        "x\\y",
        "x|y",
    ),
    *(
        "é.example",
        "bücher.example",
        "x\u202ey",
        "x\u3000y",
        "☃",
        "localhost.localdomain",
        "user's-pc",
    ),
    *(
        "x" * 63,
        "x" * 64,
        "x" * 255,
        "x" * 256,
        "x" * 512,
        "x" * 900,
        "\x01",
        "x\x7f",
        "x\ty",
        " x",
        "x ",
    ),
]
_ODD = [*'<>@"\\().,;: []=+%!#*', "\t", "\0", "\x7f", "é", "\u202e", "\x1f"]


def _word(random: random.Random, words: list[str]) -> str:
    return random.choice(random.choice([words, words, words, words, _ANY]))


def _mutated(random: random.Random, line: str) -> str:
    for _ in range(random.choice([1, 1, 2, 3])):
        at = random.randrange(len(line) + 1)
        kind = random.randrange(4)
        if kind == 0:
            line = line[:at] + line[at + 1 :]
        elif kind == 1:
            line = line[:at] + random.choice(_ODD) + line[at:]
        elif kind == 2:
            line = line[:at] + line[at : at + 3] * 2 + line[at + 3 :]
        else:
            line = line[:at] + random.choice(_ODD) + line[at + 1 :]
    return line


def _path(random: random.Random) -> str:
    local, domain = random.choice(_LOCALS), random.choice(_DOMAINS)
    # Both odd at once, and neither is looked at.
    if random.random() < 0.4:
        domain = "example.org"
    elif random.random() < 0.7:
        local = "a"
    if random.random() < 0.04:
        local = random.choice(["postmaster", "Postmaster", '"postmaster"', local])
        return random.choice(["{0}", "<{0}>", "<{0}> ", "< {0} >", "{0}>", "<{0}"]).format(local)
    shape = random.choice(_SHAPES) if random.random() < 0.6 else "<{0}@{1}>"
    return shape.format(local, domain)


def _line(random: random.Random) -> tuple[str, bytes]:
    kind = random.choice(["MAIL", "MAIL", "RCPT", "RCPT", "EHLO"])
    if kind == "EHLO":
        rest = random.choice(_NAMES)
    else:
        words = _MAIL_WORDS if kind == "MAIL" else _RCPT_WORDS
        prefixes = _FROMS if kind == "MAIL" else _TOS
        prefix = random.choice(prefixes) if random.random() < 0.15 else prefixes[0]
        path = _path(random) if random.random() < 0.6 else "<a@example.org>"
        count = (
            random.choice([0, 0, 1, 1, 2]) if path != "<a@example.org>" else random.choice([1, 2])
        )
        blank = random.choice([" "] * 8 + ["  ", "\t", ""])
        rest = prefix + path + "".join(blank + _word(random, words) for _ in range(count))
        if kind == "MAIL" and not rest.isascii() and random.random() < 0.7:
            rest += " SMTPUTF8"
    line = f"{kind} {rest}"
    if random.random() < 0.2:
        line = kind + _mutated(random, line[4:])
    octets = line.encode("utf-8")
    if random.random() < 0.03:
        octets = line.encode("latin-1", "replace")
    # Of programs that put a CR in front of each LF.
    return kind, re.sub(rb"[\r\n]", b"", octets) + b"\r" * (random.random() < 0.03)


def lines(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """
    @return: so many lines, each with the command that it is; the same for the
        same seed.
    """
    source = random.Random(seed)
    seen: set[bytes] = set()
    while len(seen) < count:
        kind, line = _line(source)
        if line not in seen:
            seen.add(line)
            yield kind, line


class _Peer(Protocol):
    def ask(self, *lines: bytes) -> int:
        """
        Say lines in one piece.

        @return: the code of what is said to the last one.
        """


class SocketPeer:
    """
    A server behind a port.  Where it hangs up, the next line begins anew.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, *lines: bytes) -> int:
        try:
            return self._ask(*lines)
        except ConnectionError:
            self.close()
            return 421

    def _ask(self, *lines: bytes) -> int:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
            self._file = self._socket.makefile("rb")
            self._reply()
            self.ask(b"EHLO client.test")
        self._socket.sendall(b"".join(line + b"\r\n" for line in lines))
        # A server that writes in two pieces waits for this.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return [self._reply() for _ in lines][-1]

    def _reply(self) -> int:
        if self._socket is None:
            return 421
        while line := self._file.readline():
            if line[3:4] != b"-":
                return int(line[:3])
        self.close()
        return 421

    def close(self) -> None:
        if self._socket is not None:
            self._file.close()
            self._socket.close()
            self._socket = None


class Ours:
    """
    This server's session.
    """

    def __init__(self) -> None:
        self._bench: Bench | None = None

    def ask(self, *lines: bytes) -> int:
        if self._bench is None or self._bench.closed:
            many = dict.fromkeys(("errors", "commands", "transactions"), 10**9)
            self._bench = Bench(many)
            self._bench.say("EHLO client.test")
        for line in lines:
            self._bench.take()
            self._bench.send(line + b"\r\n")
        return int(self._bench.take().splitlines()[-1][:3])


@attrs.frozen
class Answers:
    """
    What a line was answered.
    """

    kind: str
    line: bytes
    postfix: int
    exim: int
    ours: int

    @property
    def difference(self) -> str:
        """
        C{"strict"} where both take it and we refuse it for good, C{"loose"}
        where both refuse it and we take it.
        """
        peers = {self.postfix // 100, self.exim // 100}
        if peers == {2} and self.ours // 100 == 5:
            return "strict"
        return "loose" if peers == {5} and self.ours // 100 == 2 else ""


#: Differences that stay, by the names that C{docs/wire.md} gives them a reason
#: under.
REASONS = {
    "unseen": "[\x00-\x1f\x7f-\x9f\xad\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]",
    "comment": r"\(",
    "backslash": r"\\",
    "words": r'"\.|\."',
    "blank": r"[ \t]@|@[ \t]|^.{4}[ \t]{2}",
    "text": r"^[^<]*[^<: \t]<",
    "utf8": r"[\u0080-\U0010ffff]",
    "long": r".{255}",
    "apart": r"[<: \t]-[^@]*@",
    "optional": r"(?i)[ \t](?:ENVID|ORCPT|AUTH)=",
}


def reasonFor(answers: Answers) -> str:
    """
    @return: why a difference stays; empty where there is no reason.
    """
    line = answers.line.decode("utf-8", "replace")
    for name, pattern in REASONS.items():
        applies = name in ("apart", "blank", "optional") or answers.difference == "strict"
        isSaid = name != "utf8" or answers.ours == 553
        if applies and isSaid and re.search(pattern, line):
            return name
    return ""


def _answer(peer: _Peer, kind: str, line: bytes) -> int:
    utf8 = b"" if line.isascii() else b" SMTPUTF8"
    if kind == "EHLO":
        code = peer.ask(line)
        peer.ask(b"EHLO client.test")
        return code
    if kind == "MAIL":
        return peer.ask(b"RSET", line)
    return peer.ask(b"RSET", b"MAIL FROM:<a@example.org>" + utf8, line)


def compared(case: IntegrationCase, seed: int, count: int) -> Iterator[Answers]:
    """
    Ask all three.
    """
    postfix = Postfix(case, "discard:", _POSTFIX)
    exim = Exim(case, daemon=True, main=_EXIM)
    peers: list[SocketPeer] = [SocketPeer(postfix.port), SocketPeer(exim.port)]
    for peer in peers:
        case.addCleanup(peer.close)
    ours = Ours()
    for kind, line in lines(seed, count):
        yield Answers(kind, line, *(_answer(one, kind, line) for one in [*peers, ours]))


_POSTFIX = """
smtpd_error_sleep_time = 0
smtpd_soft_error_limit = 100000000
smtpd_hard_error_limit = 100000000
smtpd_junk_command_limit = 100000000
message_size_limit = 52428800
mailbox_size_limit = 0
smtputf8_enable = yes
"""

_EXIM = """
smtp_max_synprot_errors = 100000000
smtp_max_unknown_commands = 100000000
smtp_accept_max_nonmail = 100000000
smtp_accept_max_per_connection = 0
message_size_limit = 52428800
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
allow_domain_literals = true
"""


class _Run(IntegrationCase):
    def runTest(self) -> None:
        """Nothing by itself."""


def main(arguments: list[str]) -> None:
    """
    Print what differs.
    """
    count = int(arguments[0]) if arguments else 1000
    seed = int(arguments[1]) if arguments[1:] else random.randrange(10**6)
    case = _Run()
    counts: Counter[str] = Counter()
    try:
        for one in compared(case, seed, count):
            counts["lines"] += 1
            if one.difference:
                counts[one.difference] += 1
                reason = reasonFor(one) or "NO REASON"
                counts[reason] += 1
                print(reason, one.difference, one.postfix, one.exim, one.ours, one.line[:150])
    finally:
        case.doCleanups()
    print(f"seed {seed}: {dict(counts)}")


if __name__ == "__main__":
    main(sys.argv[1:])
