"""
The data phase: nothing is smuggled.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.smtp.server.decoding import DataDecoder
from tests.harness import Bench


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


ENDS = {
    "LF.LF": b"\n.\n",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CR": b"\r.\r",
    "CRLF.CR": b"\r\n.\r",
    "CR.CRLF": b"\r.\r\n",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "NUL": b"\r\n.\0\r\n",
    "NULdot": b"\r\n\0.\r\n",
    "spacedot": b"\r\n. \r\n",
}


class SmugglingTests(SynchronousTestCase):
    """
    Nothing but CRLF.CRLF ends a message (traps b1 to b4).
    """

    def deliver(self, data: bytes, step: int, before: bytes = b"", **settings: str) -> Bench:
        bench = Bench(**settings)
        bench.say("EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<postmaster@example.net>", "DATA")
        bench.send(before)
        for place in range(0, len(data), step):
            bench.send(data[place : place + step])
        return bench

    def test_refused(self) -> None:
        """A bare CR or LF is refused with 550 5.6.0, and what follows is no command."""
        for name, end in ENDS.items():
            for step in (1, 2, 3, 5, 1000):
                for before in (b"text", b"x" * 40000):
                    data = end + b"MAIL FROM:<evil@example.com>\r\n\r\n.\r\n"
                    bench = self.deliver(data, step, before)
                    said = bench.take()
                    bare = b"\r" in end.replace(b"\r\n", b"") or b"\n" in end.replace(b"\r\n", b"")
                    expected = b"550 5.6.0" if bare else b"250 2.6.0"
                    self.assertTrue(said.startswith(expected), (name, step, said))
                    self.assertEqual(said.count(b"\r\n"), 1, (name, step, said))

    def test_normalised(self) -> None:
        """With bare_lf = "normalise" they become line ends, and the message goes on."""
        for step in (1, 2, 3, 1000):
            data = b"a\n.\nb\r.\rc\r\n..d\r\n.\r\n"
            bench = self.deliver(data, step, bare_lf="normalise")
            self.assertTrue(bench.take().startswith(b"250 2.6.0"))
            with bench.works[0].message.open() as file:
                self.assertEqual(file.read(), b"a\r\n.\r\nb\r\n.\r\nc\r\n.d\r\n")

    def test_cutAnywhere(self) -> None:
        """
        Each of them cut in two at each place, after a line of any length, with
        DATA and with BDAT, over SMTP and over LMTP.
        """
        for name, end in ENDS.items():
            bare = bool(end.replace(b"\r\n", b"").strip(b".\0 "))
            for before in (b"text", b"x" * 5000, b"text\r\n"):
                content = before + end + b"MAIL FROM:<evil@example.com>\r\n"
                chunk = b"BDAT %d LAST\r\n" % len(content) + content
                for protocol in ("smtp", "lmtp"):
                    for data in (b"DATA\r\n" + content + b"\r\n.\r\n", chunk):
                        start = data.index(content) + len(before)
                        for cut in range(start - 1, start + len(end) + 2):
                            said = self.exchange(protocol, data[:cut], data[cut:])
                            expected = b"550 5.6.0" if bare else b"250 2."
                            place = (name, protocol, data[:4], cut, said)
                            self.assertTrue(said[-1].startswith(expected), place)
                            self.assertEqual(len(said), 2 if data[:4] == b"DATA" else 1, place)

    def exchange(self, protocol: str, *pieces: bytes) -> list[bytes]:
        bench = Bench(protocol=protocol)
        hello = "LHLO c" if protocol == "lmtp" else "EHLO c"
        bench.say(hello, "MAIL FROM:<a@example.com>", "RCPT TO:<postmaster@example.net>")
        for piece in pieces:
            bench.send(piece)
        return bench.take().splitlines()

    def test_nextHop(self) -> None:
        """
        What is kept, sent on with dots stuffed, is the same message to the next
        hop, whatever ended lines in it.
        """
        for setting in ("refuse", "normalise"):
            for name, end in ENDS.items():
                data = b"a" + end + b"b" + end + b".c\r\n.\r\n"
                bench = self.deliver(data, 3, bare_lf=setting)
                if bench.take().startswith(b"550"):
                    continue
                kept = bench.body
                stuffed = (b"\r\n" + kept).replace(b"\r\n.", b"\r\n..")[2:]
                content, rest, bare = decode(stuffed + b".\r\nNOOP\r\n", [1000])
                self.assertEqual((content, rest, bare), (kept, b"NOOP\r\n", False), name)

    def test_longLine(self) -> None:
        """A line of any length is data, and kept as it is."""
        data = b"x" * 200000 + b"\r\nMAIL FROM:<evil@example.com>\r\n.\r\n"
        bench = self.deliver(data, 16384)
        said = bench.take()
        self.assertEqual(said.count(b"\r\n"), 1)
        self.assertTrue(said.startswith(b"250 2.6.0"))
        self.assertEqual(bench.works[0].message.size, len(data) - 3)

    def test_afterTooLarge(self) -> None:
        """Behind a message that is dropped nothing is executed either."""
        bench = Bench({"message_size": 10})
        bench.say("EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<postmaster@example.net>", "DATA")
        bench.send(b"x" * 100)
        bench.send(b"\n.\nMAIL FROM:<evil@example.com>\r\n")
        self.assertEqual(bench.take(), b"")
        bench.send(b".\r\nNOOP\r\n")
        self.assertEqual([line[:3] for line in bench.take().splitlines()], [b"552", b"250"])
