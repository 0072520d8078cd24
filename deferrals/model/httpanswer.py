"""
What a web service answers: what its status means for a message that was POSTed
to it, when it says to come again, and how much it may say.

The bounds are those of one answer: status lines, header fields, answers on the
way (1xx) and body together (RFC 9112).  Libraries bound a line, and what uses them
bounds a body; between the two there is room for header fields and C{100 Continue}
without end.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Container

import attrs

from deferrals.model.reply import R552_TOO_LARGE, Reply

#: Of all heads of an answer together, those of 1xx answers included.
MAX_HEAD_OCTETS = 64 * 1024
MAX_HEAD_LINES = 500

#: So many 1xx answers may come before the one that counts.
MAX_INTERIM_ANSWERS = 16

#: A longer body is none.
MAX_BODY_OCTETS = 1024 * 1024

#: All octets of an answer, with those that only frame its body.
MAX_ANSWER_OCTETS = 2 * MAX_BODY_OCTETS

#: A body may come in so many pieces: each costs time, however few octets it has.
MAX_BODY_PIECES = 20_000

_REQUEST = re.compile(rb"[A-Z]+ [^ \r\n]+ HTTP/1\.1\r\n")
_STATUS = re.compile(rb"HTTP/[0-9]\.[0-9] ([0-9][0-9][0-9])(?: |\r?\Z)")

#: As much of a line as says what it is.
_BEGIN_OCTETS = 16

#: A longer Retry-After says no more than this, in seconds.
MAX_RETRY_AFTER_SECONDS = 86400.0

_DIGITS = re.compile(r"[0-9]{1,9}", re.A)


@attrs.frozen
class StatusMeaning:
    """
    What some statuses mean for the message.

    @ivar shown: these statuses, for people.
    @ivar statuses: the same.
    @ivar reply: what the sender is told: 2xx, the service has the message; 4xx, it
        is tried again; 5xx, it is not.
    """

    shown: str
    statuses: Container[int]
    reply: Reply


#: All of them: the first one that has a status counts.  A redirection is no
#: delivery, and is not followed.
MEANINGS = (
    StatusMeaning("2xx", range(200, 300), Reply(250, "2.0.0", "delivered")),
    StatusMeaning("413", {413}, R552_TOO_LARGE),
    StatusMeaning(
        "408, 425, 429, 5xx",
        {408, 425, 429, *range(500, 600)},
        Reply(451, "4.3.0", "the service for this recipient cannot take the message now"),
    ),
    StatusMeaning(
        "all others: 1xx, 3xx, 4xx",
        range(1000),
        Reply(550, "5.3.0", "the service for this recipient refuses the message"),
    ),
)


def meaningOf(status: int) -> Reply:
    """
    What a status comes to, as a reply.
    """
    found = (one.reply for one in MEANINGS if status in one.statuses)
    return next(found, MEANINGS[-1].reply)


def secondsOf(retryAfter: str, now: float) -> float | None:
    """
    When a service says to come again (RFC 9110 §10.2.3): C{None} where it says
    nothing, or nothing that can be understood.

    @param retryAfter: the value of its header; empty for none.
    @param now: seconds since the epoch.
    """
    text = retryAfter.strip()
    if _DIGITS.fullmatch(text):
        return min(float(text), MAX_RETRY_AFTER_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(text)
        seconds = moment.timestamp() - now
    except (ValueError, OverflowError, TypeError, OSError, IndexError):
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)


class AnswerCounter:
    """
    What has come in over one connection since a request began.

    @ivar status: the answer's; 0 as long as it is not known.
    @ivar isKept: whether there has been an answer before this request.
    """

    def __init__(self) -> None:
        self.isKept = False
        self._renew()

    def _renew(self) -> None:
        self._inHead, self._isFirst, self._isInterim = True, True, False
        self._octets = self._headOctets = self._lines = self._answers = 0
        self._begin, self._length = b"", 0
        self.status = 0

    @property
    def isHeaded(self) -> bool:
        """
        Whether all of the answer's head is there.
        """
        return self.status > 0 and not self._inHead

    def sent(self, data: bytes) -> None:
        """
        Something is sent.  The next request begins there, where the head of an
        answer is complete; what only goes on with a request does not count:
        there are services that answer before its end.
        """
        if not self._inHead and _REQUEST.match(data):
            self.isKept = True
            self._renew()

    def feed(self, data: bytes) -> None:
        """
        @raise ValueError: this is too much, or no answer.
        """
        self._octets += len(data)
        if self._octets > MAX_ANSWER_OCTETS:
            raise ValueError("the answer is too long")
        position = 0
        while self._inHead and position < len(data):
            end = data.find(b"\n", position)
            stop = len(data) if end < 0 else end
            self._more(data[position : min(stop, position + _BEGIN_OCTETS)], stop - position)
            if end >= 0:
                self._line()
            position = stop + 1

    def _more(self, begin: bytes, octets: int) -> None:
        """
        So much more of a line.
        """
        self._begin = (self._begin + begin)[:_BEGIN_OCTETS]
        self._length += octets
        self._headOctets += octets
        if self._headOctets > MAX_HEAD_OCTETS:
            raise ValueError("the head of the answer is too long")

    def _line(self) -> None:
        """
        A line of a head is complete.
        """
        self._headOctets += 1
        self._lines += 1
        if self._lines > MAX_HEAD_LINES:
            raise ValueError("the head of the answer has too many lines")
        if self._isFirst:
            self._status()
        elif self._length == 0 or (self._length == 1 and self._begin == b"\r"):
            self._inHead = self._isFirst = self._isInterim
        self._begin, self._length = b"", 0

    def _status(self) -> None:
        match = _STATUS.match(self._begin)
        if match is None:
            raise ValueError("the answer does not begin with a status line")
        self._isFirst, self._isInterim = False, match[1].startswith(b"1")
        self.status = 0 if self._isInterim else int(match[1])
        self._answers += 1
        if self._answers > MAX_INTERIM_ANSWERS + 1:
            raise ValueError("too many answers on the way (1xx)")
