"""
What a web service answers: how much it may say, and what its status means.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.httpanswer import (
    MAX_ANSWER_OCTETS,
    MAX_HEAD_LINES,
    MAX_HEAD_OCTETS,
    MAX_INTERIM_ANSWERS,
    MAX_RETRY_AFTER_SECONDS,
    MEANINGS,
    AnswerCounter,
    meaningOf,
    secondsOf,
)
from tests.characters import CHARACTERS, anyText

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
ASK = b"POST /x HTTP/1.1\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def fed(data: bytes, size: int, counter: AnswerCounter | None = None) -> AnswerCounter:
    """
    A counter that got these octets in pieces.
    """
    counter = counter or AnswerCounter()
    for start in range(0, len(data), size):
        counter.feed(data[start : start + size])
    return counter


DATES = r"[A-Z][a-z]{2}, [0-9 ]+ [A-Z].{,30}"


class AnswerCounterTests(SynchronousTestCase):
    """
    L{AnswerCounter}.
    """

    def test_endless(self) -> None:
        """No part of an answer is without end, in whatever pieces it comes."""
        for data in (
            b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * MAX_HEAD_LINES,
            b"HTTP/1.1 200 OK\r\n" + (b"a: " + b"b" * 1000 + b"\r\n") * 70,
            b"HTTP/1.1 200 OK\r\na: b\r\n" + b" c\r\n" * MAX_HEAD_LINES,
            b"HTTP/1.1 200 OK\r\na: " + b"b" * MAX_HEAD_OCTETS,
            b"HTTP/1.1 200 " + b"b" * MAX_HEAD_OCTETS,
            CONTINUE * (MAX_INTERIM_ANSWERS + 1) + OK,
            b"HTTP/1.1 100 Continue\n\n" * (MAX_INTERIM_ANSWERS + 1) + OK,
            b"\r\n" * MAX_HEAD_LINES,
            b"HTTP/1.1 1_00 Continue\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n",
        ):
            for size in (1, 1000, len(data)):
                self.assertRaises(ValueError, fed, data, size)

    def test_longBody(self) -> None:
        """All together has a bound, too."""
        self.assertRaises(ValueError, fed, OK + b"1\r\nx\r\n" * (MAX_ANSWER_OCTETS // 6), 4000)

    def test_honest(self) -> None:
        """What is usual passes: a long body after answers on the way, over one connection."""
        for size in (1, 1000, 100000):
            counter = AnswerCounter()
            for _ in range(5):
                fed(CONTINUE + OK + b"x" * (2 * MAX_HEAD_OCTETS) + b"\n" * 1000, size, counter)
                counter.sent(ASK)
                counter.sent(b"the body of the request")

    def test_unfinished(self) -> None:
        """What is sent before the head of the answer is complete begins no other request."""
        counter = AnswerCounter()
        with self.assertRaises(ValueError):
            for _ in range(MAX_INTERIM_ANSWERS + 2):
                fed(CONTINUE, 100, counter)
                counter.sent(ASK)

    def test_early(self) -> None:
        """A service may answer before it has got all of the request: that renews no bound."""
        for size in (1, 1000):
            counter = fed(OK, size)
            with self.assertRaises(ValueError):
                for _ in range(MAX_ANSWER_OCTETS // 1000 + 1):
                    counter.sent(b"more of the request")
                    fed(b"more of the answer\r\n" * 50, size, counter)
            self.assertGreater(counter._octets, MAX_ANSWER_OCTETS)

    @given(st.binary(max_size=300), st.integers(1, 300))
    def test_pieces(self, data: bytes, size: int) -> None:
        """Whatever comes, the pieces make no difference."""
        outcomes = []
        for one in (size, 300):
            try:
                outcomes.append(vars(fed(b"HTTP/1.1 " + data, one)))
            except ValueError as error:
                outcomes.append({"error": str(error)})
        self.assertEqual(outcomes[0], outcomes[1])


class StatusTests(SynchronousTestCase):
    """
    L{MEANINGS}.
    """

    def test_table(self) -> None:
        """Delivered is 2xx alone; what may be better later comes again, all else does not."""
        again = {408, 425, 429, *range(500, 600)}
        for status in (*range(100, 600), 0, 99, 600, 999, 1000, -1):
            reply = meaningOf(status)
            self.assertEqual(reply.isPositive, 200 <= status < 300, status)
            self.assertEqual(reply.isTemporary, status in again, status)

    def test_reachable(self) -> None:
        """Each row says something of some status."""
        found = {meaningOf(status) for status in range(100, 600)}
        self.assertEqual(found, {row.reply for row in MEANINGS})

    @given(anyText() | st.integers().map(str) | st.from_regex(DATES, alphabet=CHARACTERS))
    def test_retryAfter(self, text: str) -> None:
        """Whatever it is, it is a span that can be waited for, or nothing."""
        seconds = secondsOf(text, 1e9)
        self.assertTrue(seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_SECONDS)
