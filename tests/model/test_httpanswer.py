"""
How much a web service may say.
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
    AnswerCounter,
)

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
