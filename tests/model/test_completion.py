"""
What a submission server adds to a message, and takes out of it.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.completion import Additions, Completion, Submitter, completed, mailboxes
from deferrals.model.fields import headerEnd

DATE = b"Date: Sun, 29 Nov 2026 12:00:00 +0000"
ID = b"Message-ID: <1@mx.example.net>"
SENDER = b"Sender: alice@example.net"
ALICE = Submitter(Mailbox.parse("alice@example.net"), lambda one: one.key == "sales@example.net")
WHOLE = b"From: alice@example.net\r\n" + DATE + b"\r\n" + ID

LINES = [
    *(b"From: alice@example.net\r\n", b"From: boss@example.net\r\n", b"Bcc: x@y.example\r\n"),
    *(b"Resent-Bcc: x@y.example,\r\n z@y.example\r\n", b"Sender: other@example.net\r\n"),
    *(b"Date: today\r\n", b"message-id : <a@b>\r\n", b"Subject: x\r\n", b" folded\r\n"),
    *(b"DKIM-Signature: a=b; h=date:from:sender; d=e\r\n", b"\r\n", b"text\r\n", b"\xff: x\r\n"),
    *(b"From a b\r\n", b"X: y\r\n\tz\r\n", b":\r\n", b".\r\n", b"Bcc x\r\n", b"z" * 100 + b"\r\n"),
]


def additions(submitter: Submitter | None = ALICE) -> Additions:
    return Additions(DATE[6:].decode(), ID[12:].decode(), submitter)


class CompletedTests(SynchronousTestCase):
    """
    L{completed}.
    """

    def head(self, *fields: bytes, submitter: Submitter | None = ALICE) -> list[bytes]:
        """
        What becomes of these fields.
        """
        content = b"".join(one + b"\r\n" for one in fields) + b"\r\ntext\r\n"
        found = completed(content, additions(submitter))
        header, mark, text = found.partition(b"\r\n\r\n")
        self.assertEqual((mark, text), (b"\r\n\r\n", b"text\r\n"))
        return header.split(b"\r\n")

    def test_complete(self) -> None:
        """What is complete is not touched."""
        for content in (
            WHOLE + b"\r\n\r\ntext\r\n",
            WHOLE + b"\r\n",
            WHOLE + b"\r\ntext\r\n",
            WHOLE.replace(b"Date:", b"DATE :") + b"\r\n\r\nBcc: in the text\r\n",
        ):
            self.assertIs(completed(content, additions()), content)

    def test_binary(self) -> None:
        """What stands behind half a line end is dropped, too, and the rest stays as it is."""
        for end in (b"\n", b"\r", b"\r\n"):
            hidden = (
                b"Subject: x" + end + b"Bcc: x@y.example" + end + b" z@y.example" + end + b"X: y"
            )
            found = completed(WHOLE + b"\r\n" + hidden + b"\r\n\r\nBcc: text", additions())
            left = b"Subject: x" + end + b"X: y\r\n\r\nBcc: text"
            self.assertEqual(found, WHOLE + b"\r\n" + left)
        lines = WHOLE.replace(b"\r\n", b"\n")
        found = completed(b"Bcc: x@y.example\n" + lines + b"\n\nBcc: text\n", additions())
        self.assertEqual(found, lines + b"\n\nBcc: text\n")
        completion = Completion(additions(), 200)
        fed = completion.feed(b"bcc: a@b\n" + lines + b"\n\n" + b"x" * 300) + completion.end()
        self.assertEqual(fed, lines + b"\n\n" + b"x" * 300)

    def test_missing(self) -> None:
        """Date and Message-ID are added behind the other fields."""
        self.assertEqual(self.head(b"Subject: x"), [b"Subject: x", DATE, ID])
        self.assertEqual(self.head(b"Date: x", b"A: b"), [b"Date: x", b"A: b", ID])
        self.assertEqual(self.head(b"message-id:x", b"A: b"), [b"message-id:x", b"A: b", DATE])

    def test_noHeader(self) -> None:
        """Text without fields stays text."""
        fields = DATE + b"\r\n" + ID + b"\r\n\r\n"
        for content, text in (
            (b"hello world\r\n", b"hello world\r\n"),
            (b"\r\nhello\r\n", b"hello\r\n"),
            (b" a blank\r\nSubject: x\r\n", b" a blank\r\nSubject: x\r\n"),
            (b"", b""),
            (b"\r\n", b""),
        ):
            self.assertEqual(completed(content, additions()), fields + text)
        found = completed(b"Subject: x\r\nhello\r\n", additions())
        self.assertEqual(found, b"Subject: x\r\n" + fields + b"hello\r\n")

    def test_bcc(self) -> None:
        """Bcc goes, however it is written, and nothing else with it."""
        fields = [
            b"BCC : a@b.example,",
            b"\tc@b.example",
            b"X-Bcc: stays",
            b"Resent-Bcc:",
            b"Bcc: x",
        ]
        self.assertEqual(self.head(*fields), [b"X-Bcc: stays", DATE, ID])
        only = b"Bcc: a@b.example\r\nDKIM-Signature: h=date:message-id:bcc\r\n\r\ntext\r\n"
        self.assertEqual(
            completed(only, additions()), b"DKIM-Signature: h=date:message-id:bcc\r\n\r\ntext\r\n"
        )

    def test_sender(self) -> None:
        """Sender says who it was, where From is not the login's."""
        for author, isOwn in (
            (b"alice@example.net", True),
            (b"ALICE@Example.Net", True),
            (b"Alice <alice@example.net>", True),
            (b'"boss@example.net, <boss@example.net>" <alice@example.net>', True),
            (b"(boss@example.net) alice@example.net (x (y))", True),
            (b"sales@example.net", True),
            (b"boss@example.net", False),
            (b'"alice@example.net" <boss@example.net>', False),
            (b"alice@example.net <boss@example.net>", False),
            (b"alice@example.net, boss@example.net", False),
            (b"alice@example.net, sales@example.net", False),
            (b"us: alice@example.net, boss@example.net;", False),
            (b"alice@example.net@example.org", False),
            (b"<alice@example.net", False),
            (b"\xff", False),
            (b"", False),
        ):
            head = self.head(b"From: " + author, DATE, ID)
            self.assertEqual(head[3:], [] if isOwn else [SENDER], author)
            self.assertEqual(self.head(b"From: " + author, DATE, ID, submitter=None)[3:], [])
        twice = self.head(b"From: alice@example.net", b"From: boss@example.net", DATE, ID)
        self.assertEqual(twice[4:], [SENDER])
        self.assertEqual(self.head(DATE, ID), [DATE, ID])

    def test_oldSender(self) -> None:
        """A Sender that is not the login's is replaced, whatever is around it."""
        author = b"From: boss@example.net"
        for sender, isOwn in (
            (b"alice@example.net", True),
            (b"Alice (x) <alice@example.net>", True),
            (b"sales@example.net", True),
            (b"other@example.net", False),
            (b"alice@example.net, other@example.net", False),
        ):
            old = b"Sender: " + sender
            wanted = [author, old, DATE, ID] if isOwn else [author, DATE, ID, SENDER]
            self.assertEqual(self.head(author, old, DATE, ID), wanted)
        own = [b"From: alice@example.net", b"Sender: other@example.net", DATE, ID]
        self.assertEqual(self.head(*own), own)

    def test_signed(self) -> None:
        """A field that is signed, or signed not to be there, is none of ours."""
        for name in (b"DKIM-Signature", b"ARC-Message-Signature"):
            signature = name + b": v=1; h=from : Date:\r\n  SENDER:message-id\r\n ; b=x"
            fields = [b"From: boss@example.net", *signature.split(b"\r\n")]
            self.assertEqual(self.head(*fields), fields)
        fields = [b"From: boss@example.net", b"DKIM-Signature: v=1; bh=date; h=from:date"]
        self.assertEqual(self.head(*fields), [*fields, ID, SENDER])

    @given(
        st.lists(st.sampled_from(LINES), max_size=12),
        st.lists(st.integers(1, 2000), min_size=1),
        st.integers(0, 2000),
    )
    def test_any(self, lines: list[bytes], sizes: list[int], more: int) -> None:
        """
        In pieces of any size it is the same; what is complete stays; the text stays,
        and so do all other fields in their order.
        """
        # the text is longer than a header section may be
        content = b"".join([*lines, b"text\r\n", b"z" * more])
        found = completed(content, additions())
        self.assertIs(completed(found, additions()), found)
        completion, out, place, step = Completion(additions(), 1700), b"", 0, 0
        while place < len(content):
            size = sizes[step % len(sizes)]
            out += completion.feed(content[place : place + size])
            place, step = place + size, step + 1
        self.assertEqual(out + completion.end(), found)
        header, _, text = found.partition(b"\r\n\r\n")
        self.assertTrue(content.endswith(text))
        self.assertNotRegex(header[: headerEnd(header)], rb"(?m)^(?:Resent-)?Bcc:")
        ours = {DATE, ID, SENDER}
        kept = [one for one in header.split(b"\r\n") if one not in ours]
        rest = iter(content.split(b"\r\n"))
        self.assertTrue(all(one in rest for one in kept), (kept, content))


class CompletionTests(SynchronousTestCase):
    """
    L{Completion}.
    """

    def test_passes(self) -> None:
        """Only the header section waits."""
        completion = Completion(additions(), 1000)
        self.assertEqual(completion.feed(b"Subject: x\r\n\r"), b"")
        head = b"Subject: x\r\n" + DATE + b"\r\n" + ID + b"\r\n\r\n"
        self.assertEqual(completion.feed(b"\nte"), head + b"te")
        self.assertEqual(completion.feed(b"xt"), b"xt")
        self.assertEqual(completion.end(), b"")

    def test_limit(self) -> None:
        """A header section that is too long is not for us to mend."""
        completion = Completion(additions(), 1000)
        content = b"X: " + b"x" * 2000
        self.assertEqual(completion.feed(content), content)
        self.assertEqual(completion.feed(b"\r\n\r\n"), b"\r\n\r\n")

    def test_longText(self) -> None:
        """It is the header section that is limited, and not what comes in one piece with it."""
        for separation in (b"\r\n", b"no field\r\n"):
            content = b"Bcc: x@y.example\r\n" + separation + b"x" * 2000 + b"\r\n"
            for size in (1, 600, 3000):
                completion = Completion(additions(), 1000)
                pieces = [content[place : place + size] for place in range(0, len(content), size)]
                out = b"".join(map(completion.feed, pieces)) + completion.end()
                self.assertEqual(out, completed(content, additions()))
                self.assertNotIn(b"Bcc", out)


class MailboxesTests(SynchronousTestCase):
    """
    L{mailboxes}.
    """

    def test_mailboxes(self) -> None:
        """Addresses, with what they are called taken away; odd ones as what they are."""
        for text, wanted in (
            ("a@b.c", ["a@b.c"]),
            ("A <a@b.c>, d@e.f", ["a@b.c", "d@e.f"]),
            ('"x, y" <a@b.c>', ["a@b.c"]),
            ('"a b"@c.d', ['"a b"@c.d']),
            ("g: a@b.c;", ["a@b.c"]),
            ("g: a@b.c, d@e.f; h@i.j", ["a@b.c", "d@e.f", "h@i.j"]),
            ("(c) a@b.c (d (e) <x@y.z>)", ["a@b.c"]),
            ("<a@b.c> <d@e.f>", [""]),
            ("<a@b.c> <d@e.f> <a@b.c>", [""]),
            ("", []),
            (", ,", []),
            ("<>", [""]),
            ("((", []),
            (") a@b.c", ["a@b.c"]),
            ("a@b.c (", ["a@b.c", ""]),
            ("<a@b.c> (", ["a@b.c", ""]),
            ("a@b.c <d@e.f>", ["d@e.f"]),
            ("<a@b.c> d@e.f", ["a@b.c", "d@e.f"]),
            ('<a@b.c> "d@e.f"', ["a@b.c"]),
            ("<a@b.c> x", ["a@b.c"]),
            ("a@b.c: d@e.f;", ["a@b.c", "d@e.f"]),
            ('"a@b.c": d@e.f;', ["d@e.f"]),
            ("g: <a@b.c>: d@e.f", ["a@b.c", "d@e.f"]),
            ("<@a.b:c@d.e>", ["@a.b:c@d.e"]),
        ):
            self.assertEqual(list(mailboxes(text)), wanted, text)
