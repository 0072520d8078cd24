"""
The three architectures of the message that this server goes back to, as
docs/architectures.md configures them; the first one is replayed in
L{tests.integration.test_senders}, too.
"""

from __future__ import annotations

import os
import re

from tests.integration.stores import Dovecot
from tests.integration.support import ROOT, Dialogue, IntegrationCase, Server, crlf, message, until
from tests.requirements import requirement

LONG = message("a long line\n" * 200).decode()


def page(number: int) -> str:
    """
    A configuration of docs/architectures.md, for loopback.
    """
    with open(os.path.join(ROOT, "docs", "architectures.md"), encoding="utf-8") as file:
        text = file.read().split("```toml\n")[number].partition("```")[0]
    return re.sub(r'"tcp:\d+"', '"tcp:0:interface=127.0.0.1"', text)


class ArchitectureTests(IntegrationCase):
    """
    The configurations of the documentation, with a real Dovecot.
    """

    def start(self, number: int, main: str = "") -> Server:
        self.dovecot = Dovecot(self, main)
        return self.server(page(number).replace("/run/dovecot/lmtp", self.dovecot.socket))

    def transaction(
        self, dialogue: Dialogue, text: str, *locals: str, replies: int = 1, parameter: str = ""
    ) -> tuple[list[str], list[str]]:
        """
        @return: the replies to RCPT TO, and those behind the data.
        """
        dialogue.say(f"MAIL FROM:<other@example.net>{parameter}")
        envelope = dialogue.say(*(f"RCPT TO:<{local}@example.net>" for local in locals))
        dialogue.say("DATA")
        data = crlf(text.encode()) + b".\r\n"
        dialogue.socket.sendall(data)
        return envelope, [dialogue.reply() for _ in range(replies)]

    def connect(self, port: int, hello: str = "EHLO") -> Dialogue:
        dialogue = self.dialogue(port)
        dialogue.reply()
        dialogue.say(f"{hello} client.test")
        return dialogue

    @requirement("S-1")
    @requirement("S-2")
    @requirement("S-3")
    @requirement("S-4")
    def test_pureSMTP(self) -> None:
        """
        Scan and delivery are two: answers before responsibility, delivery after it,
        and the list gets smaller from stage to stage.
        """
        server = self.start(1)
        gtube = message("XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X")
        envelope, replies = self.transaction(
            self.connect(server.port),
            gtube.decode(),
            *("postmaster", "fine", "other", "old-user"),
            replies=4,
            parameter=" DEFERRALS",
        )
        self.assertEqual([reply[:3] for reply in envelope], ["250", "352", "352", "550"])
        self.assertEqual([reply[:3] for reply in replies], ["353", "550", "550", "250"])
        until(lambda: "to=<postmaster@example.net> failed by" in server.log, server.log)
        self.assertNotIn("to=<fine@example.net> delivered", server.log)

    @requirement("S-5")
    def test_smtpAndLMTP(self) -> None:
        """
        Yes or no in the envelope, the good recipients to Dovecot; whoever it
        refuses then becomes a DSN that this server makes.
        """
        server = self.start(2)
        envelope, replies = self.transaction(
            self.connect(server.port), LONG, "fine", "small", "unknown"
        )
        self.assertEqual([reply[:9] for reply in envelope], ["250 2.1.5", "250 2.1.5", "550 5.1.1"])
        self.assertRegex(replies[0], r"^250 2\.6\.0 ")
        self.assertIn(b"a long line", self.dovecot.arrived("fine")[0])
        (notice,) = self.dovecot.arrived("other")
        self.assertIn(b"Return-Path: <>", notice)
        self.assertIn(b"report-type=delivery-status", notice.replace(b'"', b""))
        text = notice.decode()
        self.assertRegex(text, r"Final-Recipient: rfc822; ?small@example\.net")
        self.assertIn("Diagnostic-Code: smtp; 552 5.2.2", text)
        self.assertNotIn("Final-Recipient: rfc822; fine", text)
        self.assertNotIn("unknown@example.net", text)

    @requirement("S-6")
    def test_pureLMTP(self) -> None:
        """
        Responsibility first, then delivery, then its results: RFC 2033 replies on
        the LMTP listener, one multi-line 250 on the SMTP listener.
        """
        server = self.start(3)
        smtp, lmtp = server.ports
        dialogue = self.connect(lmtp, "LHLO")
        envelope, replies = self.transaction(
            dialogue, LONG, "fine", "small", "unknown", "fine", replies=4
        )
        self.assertEqual({reply[:3] for reply in envelope}, {"250"})
        self.assertEqual(
            [reply[:9] for reply in replies], ["250 2.1.5", "552 5.2.2", "550 5.1.1", "250 2.1.5"]
        )
        # Delivered before it was said, once; who was refused is the client's: no DSN.
        self.assertEqual(len(self.dovecot.mail("fine")), 1)
        (reply,) = self.transaction(self.connect(smtp), LONG, "fine", "small", "unknown")[1]
        first, *lines = reply.split("\n")
        self.assertRegex(first, r"^250-2\.6\.0 message accepted, id ")
        self.assertEqual(lines[0], "250-2.6.0 <fine@example.net> delivered")
        self.assertRegex(
            lines[1],
            r"^250-2\.6\.0 <small@example\.net> refused, a notice is on its way: 552 5\.2\.2",
        )
        self.assertRegex(
            lines[2],
            r"^250 2\.6\.0 <unknown@example\.net> refused, a notice is on its way: 550 5\.1",
        )
        self.assertEqual(len(self.dovecot.mail("fine")), 2)
        (notice,) = self.dovecot.arrived("other")
        self.assertIn(b"small@example.net", notice)
        self.assertIn(b"unknown@example.net", notice)

    @requirement("S-6")
    def test_pureLMTPDown(self) -> None:
        """
        What cannot be delivered now: the SMTP side queues it, and says so; the LMTP
        side gives it back.
        """
        server = self.start(3)
        self.dovecot.stop()
        smtp, lmtp = server.ports
        (reply,) = self.transaction(self.connect(lmtp, "LHLO"), LONG, "fine")[1]
        self.assertRegex(reply, r"^451 4\.4\.\d <fine@example\.net>")
        (reply,) = self.transaction(self.connect(smtp), LONG, "fine")[1]
        self.assertRegex(reply, r"<fine@example\.net> queued for retry: 451 4\.4\.")
        self.dovecot.start()
        self.assertEqual(len(self.dovecot.arrived("fine")), 1)
