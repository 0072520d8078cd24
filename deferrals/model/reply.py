"""
SMTP replies as values (RFC 5321 §4.2, RFC 2034).

A L{Reply} is a code, an enhanced status code where one is allowed, and a text.
It is the only thing that becomes a reply line: what goes into its text is made
harmless here, once, so that no line is ever put together from bytes that came
from outside.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import attrs

from deferrals.model.text import cleanedLines, hasControls

__all__ = [
    "R250_CONTENT",
    "R451_LATE",
    "R452_NO_STORAGE",
    "R550_RELAYING_DENIED",
    "R550_UNKNOWN_RECIPIENT",
    "Reply",
]

#: The codes that answer RCPT TO (RFC 5321 §4.3.2), and so the ones that are
#: allowed for a recipient after the data (D-12, P-8).
RECIPIENT_CODES = frozenset({250, 251, 450, 451, 452, 455, 550, 551, 552, 553, 555})

#: RFC 5321 §4.5.3.1.5: a reply line, its code and CRLF included, in octets.
MAX_LINE_OCTETS = 512

#: What is kept of a reply that another server gave, in octets.
KEPT_OCTETS = 1024
#: So much of a text is said, however long it is: the client has to read it all
#: before the next reply, and so has whoever reads the log.
MAX_TEXT = 64 << 10
MAX_LINES = 500

#: So much may stand before each line where it is a line of another reply (EXDATA).
WRAPPING_OCTETS = len("558-")

#: A text that fits into one line whatever stands before it.
_SHORT = MAX_LINE_OCTETS - 20 - WRAPPING_OCTETS

_LINE = re.compile(r"([2-5][0-9][0-9])(?: (?:([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |$))?(.*))?", re.S)
_ENHANCED_CODE = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}", re.A)

#: So many replies are remembered as they are said: the same ones are said again and again.
MAX_REMEMBERED = 1024

#: Pairs of code and enhanced code that have been found to be valid; servers use few.
_KNOWN: set[tuple[int, str | None]] = set()
_MAX_KNOWN = 1000

_PATH = re.compile(r"<[^<>\s][^<>\s@]*+@[^<>\s]++>")
_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |$)")


def _pieces(line: str, room: int) -> list[str]:
    """
    Break one line of text into pieces of at most C{room} octets, at blanks
    where there are any.
    """
    pieces, octets = [], line.encode("utf-8")
    start, end = 0, len(octets)
    while end - start > room:
        head = octets[start : start + room].decode("utf-8", "ignore")
        cut = head.rfind(" ")
        head = head[:cut] if cut > room // 2 else head
        pieces.append(head)
        start += len(head.encode("utf-8"))
        while octets[start : start + 1] == b" ":
            start += 1
    pieces.append(octets[start:].decode("utf-8"))
    return pieces


@attrs.frozen
class Reply:
    """
    One reply.

    @ivar code: the three digits.
    @ivar enhanced: the enhanced status code, e.g. C{"5.1.1"}; C{None} on the
        replies that carry none: all of 3xx (P-5), the greeting and EHLO.
    @ivar text: what a postmaster reads.  A line feed in it makes a multi-line
        reply; what else acts or hides is made visible
        (L{deferrals.model.text}).  Only its first 65536 characters, and 500 lines,
        are said.
    @ivar byServer: whether another server has said it: only what was read from
        one is such a reply (L{ofLines}).
    @raise TypeError: an attribute is of another type.
    @raise ValueError: there is no such code, or it goes with another enhanced
        code.
    """

    code: int
    enhanced: str | None = None
    text: str = ""
    byServer: bool = attrs.field(default=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        isKnown = type(self.code) is int and (self.code, self.enhanced) in _KNOWN
        if not (isKnown and type(self.text) is str):
            self._check()

    def _check(self) -> None:
        if type(self.code) is not int or not isinstance(self.text, str):
            raise TypeError(f"a code such as 550, and text: not {self.code!r}, {self.text!r}")
        if not 200 <= self.code <= 599:
            raise ValueError(f"a code from 200 to 599, not {self.code}")
        if self.enhanced is not None:
            if not isinstance(self.enhanced, str):
                raise TypeError(f"an enhanced code such as '5.1.1', not {self.enhanced!r}")
            if not _ENHANCED_CODE.fullmatch(self.enhanced):
                raise ValueError(f"an enhanced code such as '5.1.1', not {self.enhanced!r}")
            if int(self.enhanced[0]) != self.code // 100:
                raise ValueError(f"an enhanced code of the class of {self.code}: {self.enhanced}")
        if len(_KNOWN) < _MAX_KNOWN:
            _KNOWN.add((self.code, self.enhanced))

    @classmethod
    def parse(cls, text: str) -> Reply:
        """
        Read C{"550 5.1.1 no such user"}, as configurations and stages write it.

        @raise ValueError: it is no reply: no code from 200 to 599, an enhanced
            code of another class, control characters, or more than 512 octets.
        """
        if len(text.encode("utf-8", "replace")) > MAX_LINE_OCTETS:
            raise ValueError(f"a reply of at most {MAX_LINE_OCTETS} octets")
        if hasControls(text):
            raise ValueError("a reply without control characters")
        match = _LINE.fullmatch(text)
        if match is None:
            raise ValueError("a reply such as '550 5.1.1 no such recipient'")
        code, enhanced, rest = int(match[1]), match[2], match[3] or ""
        if enhanced and enhanced[0] != match[1][0]:
            raise ValueError(f"an enhanced status code of class {match[1][0]}")
        return cls(code, enhanced, rest)

    @classmethod
    def ofLines(cls, lines: Sequence[str]) -> Reply:
        """
        Put together what a server has said: each line with its code.  An
        enhanced code that the first one has is taken off all of them.
        """
        texts = [line[4:] for line in lines]
        code, enhanced = int(lines[0][:3]), _ENHANCED.match(texts[0])
        if enhanced is None or enhanced[1][0] != lines[0][0]:
            return cls(code, None, "\n".join(texts), True)
        texts = [text.removeprefix(enhanced[1]).removeprefix(" ") for text in texts]
        return cls(code, enhanced[1], "\n".join(texts), True)

    @classmethod
    def parseRefusal(cls, text: str) -> Reply:
        """
        Like L{parse}, for a reply that refuses a recipient: 4xx or 5xx, with
        an enhanced status code (X.0.0 where the text has none, D-13), and the
        forward path that a 551 must carry (D-12).

        @raise ValueError: it is no such reply.
        """
        reply = cls.parse(text)
        if reply.code < 400:
            raise ValueError("a reply that refuses: 4xx or 5xx")
        if reply.code == 551 and not _PATH.search(reply.text):
            raise ValueError("the new address in angle brackets, as a 551 must carry it")
        if reply.enhanced is None:
            reply = attrs.evolve(reply, enhanced=f"{reply.code // 100}.0.0")  # D-13
        return reply

    @classmethod
    def mended(cls, code: int, enhanced: str | None, text: str) -> Reply:
        """
        A reply that was stored: an earlier release may have let pass what is
        none.
        """
        try:
            return cls(code, enhanced, text)
        except ValueError:
            return cls(code if 200 <= code <= 599 else 451, None, text)

    @property
    def isPositive(self) -> bool:
        """Whether this is a 2xx."""
        return 200 <= self.code < 300

    @property
    def isIntermediate(self) -> bool:
        """Whether this is a 3xx."""
        return 300 <= self.code < 400

    @property
    def isTemporary(self) -> bool:
        """Whether this is a 4xx."""
        return 400 <= self.code < 500

    @property
    def isPermanent(self) -> bool:
        """Whether this is a 5xx."""
        return self.code >= 500

    def forRecipient(self) -> Reply:
        """
        This reply with a code that is valid for RCPT TO (D-12, P-8): a code
        that is not, such as 554, becomes the general one of its class.
        """
        if self.code in RECIPIENT_CODES:  # D-12, P-8
            return self
        if self.isPositive:
            return attrs.evolve(self, code=250)
        return attrs.evolve(self, code=550 if self.isPermanent else 451)

    def addressed(self, address: str) -> Reply:
        """
        This reply with the recipient's address in front of its text.  A 251
        or 551 stays as it is: its text has a path of its own (D-12).
        """
        if self.code in (251, 551):
            return self
        make = _addressed if len(self.text) < _SHORT else _addressed.__wrapped__
        return make(self.code, self.enhanced, self.text, address)

    def referring(self, reference: str) -> Reply:
        """
        This reply with a reference in parentheses at the end of its last line; as
        it is, where the reference is empty.  What would make that line too long is
        cut, and never the reference.
        """
        if not reference:
            return self
        end = f" ({reference})"
        whole = (self.text + end).lstrip()
        if len(whole) >= _SHORT or not (whole.isascii() and whole.isprintable()):
            text = "\n".join(self.lines(WRAPPING_OCTETS))[: MAX_TEXT - len(end)]
            others, mark, last = text.rpartition("\n")
            octets = last.encode("utf-8", "replace")[: _SHORT - len(end)]
            whole = f"{others}{mark}{octets.decode('utf-8', 'ignore').rstrip()}{end}"
        return attrs.evolve(self, text=whole)

    def lines(self, before: int = 0) -> list[str]:
        """
        The text, made harmless and cut into lines that fit.

        @param before: how many octets stand before each line, its own code not
            counted.
        """
        room = MAX_LINE_OCTETS - 6 - before - (len(self.enhanced) + 1 if self.enhanced else 0)
        lines: list[str] = []
        isWhole = self.code == 558  # there is a recipient's reply in each line
        text = self.text if isWhole else self.text[:MAX_TEXT]
        for line in cleanedLines(text):
            lines += _pieces(line, room) if len(line) * 4 > room else [line]
        return lines if isWhole else lines[:MAX_LINES]

    def encode(self, utf8: bool = False) -> bytes:
        """
        The octets for the wire, CRLF included.

        @param utf8: whether the client asked for SMTPUTF8, and so may be sent
            UTF-8 (RFC 6531 §3.5); otherwise what is not ASCII becomes C{?}.
        """
        line = self._line()
        if line is not None:
            if self.code != 334:  # RFC 4954 §4: an empty challenge keeps its blank
                line = line.rstrip(" ")
            return line.encode("ascii") + b"\r\n"
        octets = "".join(line + "\r\n" for line in self.coded())
        return octets.encode("utf-8" if utf8 else "ascii", "replace")

    def coded(self, before: int = 0) -> list[str]:
        """
        The lines, each with its code.

        @param before: see L{lines}.
        """
        prefix = f"{self.enhanced} " if self.enhanced else ""
        *others, last = self.lines(before)
        end = f"{self.code} {prefix}{last}"
        return [*(f"{self.code}-{prefix}{line}" for line in others), end if last else end.rstrip()]

    def _line(self) -> str | None:
        """
        What is long is not remembered: much of it comes from next hops and scanners.
        """
        if len(self.text) >= _SHORT:
            return None
        return _line(self.code, self.enhanced, self.text)

    def __str__(self) -> str:
        line = self._line()
        if line is None:
            prefix = f"{self.enhanced} " if self.enhanced else ""
            line = f"{self.code} {prefix}{' / '.join(self.lines())}"
        return line.rstrip()


@functools.lru_cache(MAX_REMEMBERED)
def _line(code: int, enhanced: str | None, text: str) -> str | None:
    """
    A reply as its one line; C{None} where its text is none as it is: nearly all are.
    """
    if not (text.isascii() and text.isprintable()):
        return None
    return f"{code} {enhanced} {text}" if enhanced else f"{code} {text}"


@functools.lru_cache(MAX_REMEMBERED)
def _addressed(code: int, enhanced: str | None, text: str, address: str) -> Reply:
    return Reply(code, enhanced, f"<{address}> {text}".rstrip())


def kept(reply: Reply) -> Reply:
    """
    What is kept of a reply that another server gave: its text made harmless,
    and no longer than L{KEPT_OCTETS}.
    """
    text = "\n".join(cleanedLines(reply.text[:KEPT_OCTETS]))[:KEPT_OCTETS]
    if not text.isascii():
        text = text.encode("utf-8")[:KEPT_OCTETS].decode("utf-8", "ignore")
    return reply if text == reply.text else attrs.evolve(reply, text=text)


R220_READY_FOR_TLS = Reply(220, "2.0.0", "ready to start TLS")
R221_BYE = Reply(221, "2.0.0", "closing the connection")
R235_AUTHENTICATED = Reply(235, "2.7.0", "authenticated")
R250_OK = Reply(250, "2.0.0", "ok")
R250_SENDER = Reply(250, "2.1.0", "sender ok")
R250_RECIPIENT = Reply(250, "2.1.5", "recipient ok")
R250_CONTENT = Reply(250, "2.1.5", "accepts the content")
R250_EXPANDED = Reply(250, "2.1.5", "passed on to those whom this address stands for")
R252_VRFY = Reply(252, "2.1.5", "not verified here: send the message and see")
R352_DEFERRED = Reply(352, None, "decided after the data")
R353_ENUMERATE = Reply(353, None, "data received, each recipient's answer follows")
R354_GO_AHEAD = Reply(354, None, "end data with <CR><LF>.<CR><LF>")
R421_SHUTDOWN = Reply(421, "4.3.2", "the server is shutting down, try again later")
R421_TIMEOUT = Reply(421, "4.4.2", "timeout, closing the connection")
R421_TOO_MANY_ERRORS = Reply(421, "4.7.0", "too many errors, closing the connection")
R421_TOO_MANY_COMMANDS = Reply(421, "4.7.0", "too many commands on one connection")
R421_TOO_MANY_MESSAGES = Reply(421, "4.7.0", "too many messages on one connection, make a new one")
R421_TOO_MANY_CONNECTIONS = Reply(421, "4.3.2", "too many connections, try again later")
R421_EARLY = Reply(421, "4.3.2", "mail cannot be taken here yet, try again later")
R421_NO_WORKER = Reply(421, "4.3.2", "no process is here to take mail, try again in a moment")
R421_NO_DESCRIPTOR = Reply(421, "4.3.2", "too many open files here, try again later")
R421_TOO_MANY_FROM_YOU = Reply(421, "4.7.0", "too many connections from your address")
R421_AUTH_FAILURES = Reply(421, "4.7.0", "too many failed authentications")
R421_LOCAL_ERROR = Reply(421, "4.3.0", "local error, closing the connection")
R450_SOME_TEMPORARY = Reply(
    450, "4.7.1", "refused for all recipients, for some of them only for now"
)
R450_OVER_LIMIT = Reply(450, "4.7.1", "you have sent as much as you may for now, try again later")
R451_LATE = Reply(451, "4.3.0", "no decision in time, try again later")
R451_STAGE_FAILED = Reply(451, "4.3.0", "local error while judging the message, try again later")
R451_LOCAL_ERROR = Reply(451, "4.3.0", "local error in processing, try again later")
R451_NO_LOOK_UP = Reply(451, "4.3.0", "cannot be looked up now, try again later")
R451_MIXED = Reply(
    451, "4.7.1", "recipients of this message differ: try again, and each gets its own answer"
)
R451_MEMBERS = Reply(
    451, "4.7.1", "not taken by all that this address stands for yet, try again later"
)
R451_SHUTDOWN = Reply(451, "4.3.2", "the server is shutting down, try again later")
R452_NO_STORAGE = Reply(452, "4.3.1", "not enough storage, try again later")
R452_OVERLOADED = Reply(452, "4.3.1", "too many messages are being judged, try again later")
R452_OTHER_COHORT = Reply(
    452,
    "4.5.3",
    "has other rules than the recipients before: send again in a transaction of its own",
)
R452_OTHERS_FIRST = Reply(
    452,
    "4.5.3",
    "send it to the others first, then to this one again in a transaction of its own",
)
R452_TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "too many recipients in one message")
R454_AUTH_NOT_NOW = Reply(454, "4.7.0", "authentication does not work at the moment")
R454_TOO_MANY_FAILURES = Reply(454, "4.7.0", "too many wrong passwords, try again later")
R500_UNKNOWN_COMMAND = Reply(500, "5.5.1", "command not recognised")
R500_LINE_TOO_LONG = Reply(500, "5.5.2", "line too long")
R500_BAD_LINE = Reply(500, "5.5.2", "control character in the command line")
R500_NOT_UTF8 = Reply(500, "5.5.2", "the command line is not UTF-8")
R553_NOT_UTF8 = Reply(553, "5.6.7", "the address is not UTF-8")
R421_OTHER_PROTOCOL = Reply(421, "4.7.0", "this is a mail server")
R500_BARE_LF = Reply(500, "5.5.2", "command lines end with <CR><LF>")
R500_AUTH_LINE_TOO_LONG = Reply(500, "5.5.6", "authentication line too long")
R501_AUTH_CANCELLED = Reply(501, "5.7.0", "authentication cancelled")
R501_AUTH_SYNTAX = Reply(501, "5.5.2", "not what this authentication mechanism says")
R501_SYNTAX = Reply(501, "5.5.4", "syntax error in the arguments")
R501_SENDER_SYNTAX = Reply(501, "5.1.7", "bad sender address syntax")
R501_RECIPIENT_SYNTAX = Reply(501, "5.1.3", "bad recipient address syntax")
R502_NOT_HERE = Reply(502, "5.5.1", "command not implemented")
R503_AUTHENTICATED = Reply(503, "5.5.1", "already authenticated")
R503_NOT_BY_DATA = Reply(503, "5.5.1", "BODY=BINARYMIME comes with BDAT, not with DATA")
R503_TLS_IS_ON = Reply(503, "5.5.1", "TLS is already in use")
R504_NO_MECHANISM = Reply(504, "5.5.4", "authentication mechanism not offered")
R530_STARTTLS_FIRST = Reply(530, "5.7.0", "say STARTTLS first")
R530_AUTH_FIRST = Reply(530, "5.7.0", "authentication required")
R535_AUTH_FAILED = Reply(535, "5.7.8", "authentication failed")
R538_NEEDS_TLS = Reply(538, "5.7.11", "authentication needs TLS: say STARTTLS first")
R503_SEQUENCE = Reply(503, "5.5.1", "bad sequence of commands")
R503_NO_RECIPIENT = Reply(503, "5.5.1", "no valid recipients")
R503_HELO_FIRST = Reply(503, "5.5.1", "say EHLO first")
R550_NOT_TRUSTED = Reply(550, "5.7.0", "not from you")
R550_UNKNOWN_RECIPIENT = Reply(550, "5.1.1", "no such recipient here")
R550_RELAYING_DENIED = Reply(550, "5.7.1", "relaying denied")
R550_SENDER_ROUTING = Reply(550, "5.7.1", "routing by the sender is refused")
R550_MEMBERS = Reply(550, "5.7.1", "refused by all that this address stands for")
R550_BARE_NEWLINE = Reply(550, "5.6.0", "the message has a bare CR or LF: lines end with <CR><LF>")
R550_REFUSED_BY_ALL = Reply(550, "5.7.1", "refused for all recipients")
R552_TOO_LARGE = Reply(552, "5.3.4", "message too large")
R552_HEADER_TOO_LARGE = Reply(552, "5.3.4", "message header too large")
R553_NEEDS_UTF8 = Reply(553, "5.6.7", "address needs SMTPUTF8")
R553_NOT_YOUR_SENDER = Reply(553, "5.7.1", "this is no sender that you may use")
R554_EARLY_TALKER = Reply(554, "5.5.1", "you talk before the greeting")
R554_BEHIND_STARTTLS = Reply(554, "5.5.1", "nothing may follow STARTTLS before the handshake")
R554_ROUTING_LOOP = Reply(554, "5.4.6", "too many Received headers: the message is in a loop")
R555_UNKNOWN_PARAMETER = Reply(555, "5.5.4", "parameter not recognised")
