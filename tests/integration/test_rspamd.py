"""
rspamd as Debian installs it: what becomes of a message here, and behind rspamd's own
milter.
"""

from __future__ import annotations

import email.utils
import os

from deferrals.stages.content.match.stage import GTUBE
from tests.integration import dkim
from tests.integration.milter import Milter, MilterAnswer
from tests.integration.scanners import StockRspamd
from tests.integration.support import Server, message, until
from tests.integration.test_scanners import ScannerCase, config

#: By Subject: rspamd's action, and what becomes of the message behind its milter, and here.
OUTCOMES = (
    ("a test", "no action", "accepted", "accepted"),
    ("score-five", "greylist", "accepted", "accepted"),
    ("score-seven", "add header", "marked", "marked"),
    ("score-twenty", "reject", "refused", "refused"),
    ("score-soft", "soft reject", "refused for now", "refused for now"),
    ("score-subject", "rewrite subject", "rewritten", "rewritten"),
    ("score-own", "our own", "accepted", "accepted"),
    ("gtube", "reject", "refused", "refused"),
    # Here nothing is dropped without a word, and there is no other quarantine.
    ("score-discard", "discard", "dropped", "refused"),
    ("score-quarantine", "quarantine", "held", "marked"),
)


def mail(subject: str) -> bytes:
    text = GTUBE if subject == "gtube" else "hello"
    date = email.utils.formatdate()
    data = message(text, subject, Message_ID="<1@client.test>")
    return data.replace(b"Mon, 23 Nov 2026 12:00:00 +0000", date.encode())


def said(answer: MilterAnswer) -> str:
    """
    What a mail server does with a message of which its filter says this.
    """
    if answer.outcome != "accept":
        words = {"reject": "refused", "tempfail": "refused for now", "discard": "dropped"}
        return words[answer.outcome]
    changed = dict(answer.changed)
    if answer.quarantined:
        return "held"
    if changed.get("Subject"):
        return "rewritten"
    return "marked" if changed.get("X-Spam") == "Yes" else "accepted"


class StockTests(ScannerCase):
    """
    L{StockRspamd}.
    """

    def found(self, server: Server, subject: str) -> str:
        """
        What becomes of a message here.
        """
        before = set(server.mail("plain"))
        (reply,) = self.ask(server, mail(subject), "plain").values()
        if not reply.startswith("250"):
            return "refused for now" if reply.startswith("4") else "refused"
        copies = lambda: {*server.mail("plain"), *server.mail("plain/.Junk")} - before  # noqa: E731
        until(lambda: bool(copies()), "a copy")
        (copy,) = copies()
        self.copies[subject] = copy
        self.empty(server)
        if f"\r\nSubject: {subject}".encode() not in copy:
            return "rewritten"
        return "marked" if b"\r\nX-Spam: Yes" in copy else "accepted"

    def empty(self, server: Server) -> None:
        for box in ("plain", "plain/.Junk"):
            path = os.path.join(server.directory, "mail", box, "new")
            for name in os.listdir(path) if os.path.isdir(path) else ():
                os.unlink(os.path.join(path, name))

    def test_milter(self) -> None:
        """The same class of outcome as behind rspamd's own milter, but where the page says so."""
        rspamd = StockRspamd(self)
        server = self.server(config({"plain": f'{{ use = "rspamd", url = "{rspamd.url}" }}'}))
        self.copies: dict[str, bytes] = {}
        with open(os.path.join(rspamd.directory, "dkim.key"), "rb") as file:
            key = file.read()
        for subject, action, behindMilter, here in OUTCOMES:
            data = mail(subject).replace(b"\n", b"\r\n")
            answer = Milter(rspamd.milter).judge(data, "sender@client.test", ["plain@example.net"])
            self.assertEqual(said(answer), behindMilter, (subject, answer))
            self.assertEqual(self.found(server, subject), here, subject)
            until(lambda action=action: f": {action}, score" in server.log, action)
            if subject in self.copies and here != "rewritten":
                self.signed(self.copies[subject], answer, key)
        self.assertIn("rspamd's action our own is not carried out here", server.log)
        self.assertNotIn("of rspamd's answers", server.log)

    def signed(self, copy: bytes, answer: MilterAnswer, key: bytes) -> None:
        """
        The copy has what the milter would have added, and its signature is right.
        """
        head = copy.partition(b"\r\n\r\n")[0]
        for name, value in answer.added:
            if name != "DKIM-Signature":
                self.assertIn(f"\r\n{name}: {value}\r\n".encode(), b"\r\n" + head + b"\r\n")
        self.assertEqual(head.count(b"DKIM-Signature: "), 1)
        self.assertTrue(dkim.isRight(copy, key), copy)
        self.assertFalse(dkim.isRight(copy.replace(b"From: s", b"From: t"), key))

    def test_tooLarge(self) -> None:
        """What is larger than rspamd takes; ordinary mail is judged all the while."""
        rspamd = StockRspamd(self, "max_message = 2M;")
        server = self.server(
            config(
                {
                    "plain": f'{{ use = "rspamd", url = "{rspamd.url}" }}',
                    "strict": f'{{ use = "rspamd", url = "{rspamd.url}", too_large = "refuse" }}',
                }
            )
        )
        for size in (3_000_000, 8_000_000) * 4:
            found = self.ask(server, message(("y" * 70 + "\n") * (size // 71)), "plain", "strict")
            self.assertTrue(found["plain"].startswith("250"), found)
            self.assertEqual(found["strict"], "552 5.3.4 too large to be scanned")
        for copy in server.arrived("plain", 8):
            self.assertIn(b"Deferrals-Unscanned: rspamd (too large)\r\n", copy)
        self.assertNotIn("left alone", server.log)
        self.assertEqual(self.codes(server, mail("score-twenty"), "plain"), {"plain": "550"})
