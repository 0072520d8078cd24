"""
Chunks in, the message out.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.smtp.server.decoding import DataDecoder

_mail = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"a", b"\0"]), max_size=20).map(
    b"".join
)


def byLines(data: bytes) -> tuple[bytes, bytes] | None:
    """
    The same, line by line, as RFC 5321 tells it.
    """
    out, place = [], 0
    while (end := data.find(b"\r\n", place)) >= 0:
        line, place = data[place:end], end + 2
        if line == b".":
            return b"".join(out), data[place:]
        out.append((line[1:] if line[:1] == b"." else line) + b"\r\n")
    return None


def decode(data: bytes, sizes: list[int]) -> tuple[bytes, bytes, bool]:
    decoder, content, place = DataDecoder(), b"", 0
    rest: bytes | None = None
    sizes = sizes or [1]
    step = 0
    while rest is None and place < len(data):
        size = sizes[step % len(sizes)]
        chunk, rest = decoder.feed(data[place : place + size])
        content += chunk
        place += size
        step += 1
    return content, (rest or b"") + data[place:], decoder.bare


class DecoderTests(SynchronousTestCase):
    """
    L{DataDecoder} against a reader by lines.
    """

    @given(_mail, st.lists(st.integers(1, 7), min_size=1, max_size=5))
    def test_anySegments(self, body: bytes, sizes: list[int]) -> None:
        """However the octets come in pieces, message and rest are the same."""
        data = body + b"\r\n.\r\nNOOP\r\n"
        expected = byLines(data)
        assert expected is not None
        content, rest, bare = decode(data, sizes)
        self.assertEqual((content, rest), expected)
        stripped = data[: len(data) - len(rest)].replace(b"\r\n", b"")
        self.assertEqual(bare, b"\r" in stripped or b"\n" in stripped)
