"""
The data phase: nothing is smuggled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.completion import Submitter
from deferrals.smtp.server.decoding import DataDecoder
from tests.harness import Bench
from tests.rigs import some


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


class SubmissionTests(SynchronousTestCase):
    """
    A message on a submission listener is completed before it is judged (RFC 6409 §8).
    """

    def send(self, data: bytes, bench: Bench, chunks: int = 0) -> str:
        """
        @param chunks: so many of BDAT; 0 for DATA.
        """
        bench.say("EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<postmaster@example.net>")
        if not chunks:
            bench.say("DATA")
            bench.send(data + b".\r\n")
        else:
            size = len(data) // chunks + 1
            for place in range(0, len(data), size):
                piece = data[place : place + size]
                bench.send(b"BDAT %d\r\n" % len(piece) + piece)
            bench.send(b"BDAT 0 LAST\r\n")
        return bench.take().decode().splitlines()[-1]

    def bench(self, protocol: str = "submission", **more: Any) -> Bench:
        return Bench(protocol=protocol, auth="no", mixed=None, **more)

    def test_completed(self) -> None:
        """Over DATA and in chunks; in no other protocol."""
        data = b"Subject: x\r\nBcc: b@c.example\r\n\r\ntext\r\n"
        for chunks in (0, 1, 2, len(data)):
            bench = self.bench()
            self.assertEqual(self.send(data, bench, chunks)[:3], "250")
            work = bench.works[-1]
            self.assertEqual(
                bench.body,
                b"Subject: x\r\nDate: Sun, 09 Sep 2001 01:46:40 +0000\r\n"
                b"Message-ID: <%s@mx.example.net>\r\n\r\ntext\r\n" % work.envelope.id.encode(),
            )
            self.assertEqual(work.message.size, len(bench.body))
        bench = self.bench("smtp")
        self.send(data, bench)
        self.assertEqual(bench.body, data)

    def test_odd(self) -> None:
        """Messages without a header section, and without anything."""
        for data in (b"text\r\n", b"\r\n", b"", b"Subject: x\r\n", b"Subject: x\r\ntext\r\n"):
            for chunks in (0, 1):
                bench = self.bench()
                self.assertEqual(self.send(data, bench, chunks)[:3], "250")
                header, _, text = bench.body.partition(b"\r\n\r\n")
                self.assertEqual(text, b"text\r\n" if b"text" in data else b"")
                self.assertIn(b"\r\nMessage-ID: ", header)

    def test_sender(self) -> None:
        """The backend knows who has logged in."""
        submitter = Submitter(Mailbox.parse("alice@example.net"), lambda one: False)
        bench = self.bench(backend={"submitter": lambda envelope: submitter})
        self.send(b"From: boss@example.net\r\n\r\ntext\r\n", bench)
        self.assertIn(b"\r\nSender: alice@example.net\r\n", bench.body)

    def test_limits(self) -> None:
        """The limits are about what the client has sent, and hold as everywhere."""
        for size, wanted in ((1000, "250"), (1001, "552")):
            for chunks in (0, 3):
                bench = self.bench(limits={"message_size": 1000})
                data = b"\r\n" + b"x" * (size - 4) + b"\r\n"
                self.assertEqual(self.send(data, bench, chunks)[:3], wanted)
        bench = self.bench(limits={"header_size": 1000})
        data = b"X: " + b"x" * 2000 + b"\r\n\r\ntext\r\n"
        self.assertEqual(self.send(data, bench)[:9], "552 5.3.4")
        self.assertEqual(bench.clock.getDelayedCalls(), bench.clock.getDelayedCalls()[:1])

    def test_nextOne(self) -> None:
        """What one message has left does not show in the next one."""
        bench = self.bench()
        bench.say("EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<postmaster@example.net>")
        bench.send(b"BDAT 9\r\nSubject: ")
        bench.say("RSET")
        self.assertEqual(self.send(b"Subject: y\r\n\r\n", bench)[:3], "250")
        self.assertEqual(bench.body.count(b"Subject"), 1)


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
                    bench = self.deliver(data, step, before, bare_lf="refuse")
                    said = bench.take()
                    bare = b"\r" in end.replace(b"\r\n", b"") or b"\n" in end.replace(b"\r\n", b"")
                    expected = b"550 5.6.0" if bare else b"250 2.6.0"
                    self.assertTrue(said.startswith(expected), (name, step, said))
                    self.assertEqual(said.count(b"\r\n"), 1, (name, step, said))

    def test_normalised(self) -> None:
        """Unless told otherwise they become line ends, and the message goes on."""
        for step in (1, 2, 3, 1000):
            data = b"a\n.\nb\r.\rc\r\n..d\n..e\r\r\n..f\r\n.\r\n"
            bench = self.deliver(data, step)
            self.assertTrue(bench.take().startswith(b"250 2.6.0"))
            expected = b"a\r\n.\r\nb\r\n.\r\nc\r\n.d\r\n.e\r\n.f\r\n"
            self.assertEqual(bench.body, expected)

    def test_programs(self) -> None:
        """
        What programs send that end lines with LF or with CR CR LF is the same mail
        with DATA, with BDAT in chunks of any size, over every protocol.
        """
        mail = b"Subject: hi\r\nTo: x\r\n\r\nline\r\n\r\nlast"
        for end in (b"\n", b"\r", b"\r\r\n", b"\r\r\r\n"):
            sent = mail.replace(b"\r\n", end)
            for protocol in ("smtp", "lmtp"):
                for step in (1, 2, 5, 1000):
                    pieces = [sent[at : at + step] for at in range(0, len(sent), step)]
                    chunks = [b"BDAT %d\r\n" % len(piece) + piece for piece in pieces]
                    for data in (
                        [b"DATA\r\n", *pieces, b"\r\n.\r\n"],
                        [*chunks, b"BDAT 0 LAST\r\n"],
                    ):
                        bench = self.exchanged(protocol, data)
                        self.assertTrue(bench.take().splitlines()[-1].startswith(b"250 2."))
                        self.assertEqual(bench.body, mail + b"\r\n", (end, protocol, step, data))

    def test_endOfDataIsOne(self) -> None:
        """Each of the ends that are none stays inside of one message, whatever it becomes."""
        for name, end in ENDS.items():
            for step in (1, 2, 3, 5, 1000):
                data = b"text" + end + b"MAIL FROM:<evil@example.com>\r\n\r\n.\r\n"
                bench = self.deliver(data, step)
                said = bench.take()
                self.assertTrue(said.startswith(b"250 2.6.0"), (name, step, said))
                self.assertEqual(said.count(b"\r\n"), 1, (name, step, said))
                self.assertIn(b"MAIL FROM:<evil@example.com>", bench.body)

    def test_binary(self) -> None:
        """BINARYMIME has no lines: its octets stay."""
        sent = b"a\nb\rc\r\r\n..d\n..e"
        bench = Bench(backend={"binary": True})
        bench.say("EHLO c", "MAIL FROM:<a@b.example> BODY=BINARYMIME")
        bench.say("RCPT TO:<postmaster@example.net>")
        bench.send(b"BDAT %d LAST\r\n" % len(sent) + sent)
        self.assertTrue(bench.take().startswith(b"250 2."))
        self.assertEqual(bench.body, sent)

    def test_cutAnywhere(self) -> None:
        """
        Each of them cut in two at each place, after a line of any length, with
        DATA and with BDAT, over SMTP and over LMTP, under both settings.
        """
        for name, end in ENDS.items():
            bare = bool(end.replace(b"\r\n", b"").strip(b".\0 "))
            for before in (b"text", b"x" * 5000, b"text\r\n"):
                content = before + end + b"MAIL FROM:<evil@example.com>\r\n"
                chunk = b"BDAT %d LAST\r\n" % len(content) + content
                for protocol in some(("smtp", "lmtp"), 2):
                    for data in (b"DATA\r\n" + content + b"\r\n.\r\n", chunk):
                        start = data.index(content) + len(before)
                        for cut in range(start - 1, start + len(end) + 2):
                            for setting in ("refuse", "normalise"):
                                cutUp = (data[:cut], data[cut:])
                                said = self.exchanged(protocol, cutUp, bare_lf=setting).take()
                                refused = bare and setting == "refuse"
                                expected = b"550 5.6.0" if refused else b"250 2."
                                lines = said.splitlines()
                                place = (name, protocol, data[:4], cut, setting, said)
                                self.assertTrue(lines[-1].startswith(expected), place)
                                self.assertEqual(len(lines), 1 + (data[:4] == b"DATA"), place)

    def exchanged(self, protocol: str, pieces: Sequence[bytes], **settings: str) -> Bench:
        bench = Bench(protocol=protocol, **settings)
        hello = "LHLO c" if protocol == "lmtp" else "EHLO c"
        bench.say(hello, "MAIL FROM:<a@example.com>", "RCPT TO:<postmaster@example.net>")
        for piece in pieces:
            bench.send(piece)
        return bench

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


class HeaderTests(SynchronousTestCase):
    """
    How long a header section may be.
    """

    def said(self, data: bytes, step: int) -> bytes:
        bench = Bench({"header_size": 1000})
        bench.say("EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>", "DATA")
        for place in range(0, len(data), step):
            bench.send(data[place : place + step])
        bench.send(b".\r\n")
        return bench.take()[:9]

    def test_limit(self) -> None:
        """The fields count, not text that no empty line separates from them."""
        fields, text = b"X: " + b"y" * 60 + b"\r\n", b"y" * 60 + b"\r\n"
        for data, expected in (
            (fields * 40, b"552 5.3.4"),
            (fields * 5 + text * 40, b"250 2.6.0"),
            (text * 40, b"250 2.6.0"),
            (b"y" * 5000 + b"\r\n", b"250 2.6.0"),
            (b"X: " + b"y" * 5000 + b"\r\n", b"552 5.3.4"),
            (b"X: y\r\n\r\n" + fields * 40, b"250 2.6.0"),
        ):
            for step in (100, 10000):
                self.assertEqual(self.said(data, step), expected, (data[:20], step))
