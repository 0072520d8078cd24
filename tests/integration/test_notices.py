"""
Notices that this server has written, as a real Dovecot and a real Exim have
received them (RFC 3461, RFC 3464, RFC 6522).
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import mailbox
import os
import re
from email.message import EmailMessage
from typing import Any

from tests.integration.daemons import Exim
from tests.integration.stores import Dovecot
from tests.integration.support import IntegrationCase, Server, cli, until
from tests.requirements import requirement

CONFIG = """
hostname = "mx.example.net"
bounces = "outward"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[policies.open]
envelope = "accept"

[deliveries.outward]
use = "smtp"
endpoint = "tcp:127.0.0.1:{port}"
retry = 1

[[recipients]]
match = "*@example.net"
policy = "open"
deliver = {{ use = "lmtp", endpoint = "unix:{socket}", retry = 1 }}

[[recipients]]
match = "*"
policy = "open"
allow = ["127.0.0.0/8"]
deliver = "outward"
"""

HEAD = "Subject: what was sent\r\nMessage-ID: <one@client.test>\r\n"


class NoticeTests(IntegrationCase):
    """
    A store behind LMTP with our own people, and an Exim for everybody else.
    """

    def start(self, exim: str = "") -> Server:
        self.dovecot = Dovecot(self)
        self.exim = Exim(self, daemon=True, main=exim)
        return self.server(CONFIG.format(port=self.exim.port, socket=self.dovecot.socket))

    def send(self, server: Server, sender: str, *recipients: str) -> str:
        """
        @param sender, recipients: with their parameters.
        @return: the message's id.
        """
        dialogue = self.dialogue(server.port)
        dialogue.reply()
        envelope = [f"MAIL FROM:{sender}", *(f"RCPT TO:{one}" for one in recipients)]
        for reply in dialogue.say("EHLO client.test", *envelope):
            self.assertTrue(reply.startswith("250"), reply)
        *_, reply = dialogue.say("DATA", f"{HEAD}\r\nhello, all of you\r\n.")
        self.assertTrue(reply.startswith("250 2.6.0"), reply)
        return reply.rsplit(" ", 1)[1]

    def received(self, count: int) -> list[bytes]:
        """
        What Exim has put into its mailbox.
        """
        path = os.path.join(self.exim.directory, "spool", "received")

        def found() -> list[bytes]:
            if not os.path.exists(path):
                return []
            with contextlib.closing(mailbox.mbox(path, create=False)) as box:
                return [one.as_bytes() for one in box]

        until(lambda: len(found()) >= count, f"{count} at Exim's\n{self.exim.log()}")
        return found()

    def parsed(self, data: bytes) -> tuple[Any, dict[str, Any], Any]:
        """
        @return: a notice, its fields by recipient, and what was returned.
        """
        notice = email.message_from_bytes(data, policy=email.policy.default)
        assert isinstance(notice, EmailMessage)
        self.assertEqual(notice.get_content_type(), "multipart/report")
        self.assertEqual(notice["Content-Type"].params["report-type"], "delivery-status")
        self.assertEqual(notice["Auto-Submitted"], "auto-replied")
        self.assertEqual(notice["In-Reply-To"], "<one@client.test>")
        for part in notice.walk():
            self.assertEqual(part.defects, [])
        people, programs, returned = notice.iter_parts()
        self.assertEqual(people.get_content_type(), "text/plain")
        self.assertEqual(programs.get_content_type(), "message/delivery-status")
        perMessage, *perRecipient = programs.get_payload()
        self.assertEqual(perMessage["Reporting-MTA"], "dns; mx.example.net")
        return notice, {one["Final-Recipient"]: one for one in perRecipient}, returned

    @requirement("P-11")
    def test_dovecot(self) -> None:
        """
        One notice over LMTP about a store and a relay that refuse, a relay that
        knows no DSN and a store that has delivered: each with its own words (RFC
        3461 §5.2.2, RFC 3464 §2.3).
        """
        server = self.start()
        number = self.send(
            server,
            "<fine@example.net> RET=FULL ENVID=e+3D1",
            "<nobody@example.net> ORCPT=rfc822;list@example.net",
            "<unknown@exim.example.net>",
            "<lover@exim.example.net> NOTIFY=SUCCESS",
            "<other@example.net> NOTIFY=SUCCESS,FAILURE",
            "<unknown@x.exim.example.net> NOTIFY=NEVER",
        )
        (data,) = self.dovecot.arrived("fine")
        notice, found, returned = self.parsed(data)
        self.assertEqual(notice["Return-Path"], "<>")
        _, programs, _ = notice.iter_parts()
        self.assertEqual(programs.get_payload()[0]["Original-Envelope-Id"], "e=1")
        self.assertEqual(
            {to: (one["Action"], one["Status"][0]) for to, one in found.items()},
            {
                "rfc822; nobody@example.net": ("failed", "5"),
                "rfc822; unknown@exim.example.net": ("failed", "5"),
                "rfc822; lover@exim.example.net": ("relayed", "2"),
                "rfc822; other@example.net": ("delivered", "2"),
            },
        )
        store = found["rfc822; nobody@example.net"]
        self.assertEqual(store["Original-Recipient"], "rfc822; list@example.net")
        self.assertRegex(store["Diagnostic-Code"], r"^smtp; 550 5\.1\.1 .*nobody@example\.net")
        relay = found["rfc822; unknown@exim.example.net"]
        self.assertRegex(relay["Diagnostic-Code"], "^smtp; 550 no such user")
        self.assertEqual(relay["Remote-MTA"], "dns; exim.client.test")
        self.assertNotIn(b"127.0.0.1", data.partition(b"delivery-status\r\n")[2])
        self.assertEqual(returned.get_content_type(), "message/rfc822")
        self.assertIn("hello, all of you", returned.get_payload(0).get_content())
        until(lambda: f"{number} to=<unknown@x.exim" in server.log, "the one who is not told of")
        self.assertEqual(len(self.dovecot.mail("fine")), 1)

    def test_exim(self) -> None:
        """A notice over SMTP: from <>, and there is none about it when it is refused."""
        server = self.start()
        self.send(server, "<me@exim.example.net>", "<nobody@example.net>", "<fine@example.net>")
        (data,) = self.received(1)
        _, found, returned = self.parsed(data)
        self.assertEqual(list(found), ["rfc822; nobody@example.net"])
        self.assertEqual(returned.get_content_type(), "text/rfc822-headers")
        self.assertIn("Subject: what was sent", returned.get_content())
        self.assertNotIn("hello", returned.get_content())
        self.assertRegex(self.exim.log(), r"<= <> ")
        self.send(server, "<unknown@exim.example.net>", "<nobody@example.net>")
        until(lambda: "to=<unknown@exim.example.net> failed by" in server.log, "refused")
        until(lambda: "0 messages" in self.queue(server), "nothing is left")
        self.assertEqual(server.log.count("is told by"), 2)

    def queue(self, server: Server) -> str:
        return cli("status", "--config", server.path).stdout

    def test_passed(self) -> None:
        """Exim knows DSN, too: it is told what was asked for, and tells (RFC 3461 §5.2.1)."""
        server = self.start("dsn_advertise_hosts = *")
        number = self.send(
            server,
            "<me@exim.example.net> RET=HDRS ENVID=e1",
            "<lover@exim.example.net> NOTIFY=SUCCESS ORCPT=rfc822;old@client.test",
            "<unknown@exim.example.net> NOTIFY=SUCCESS",
        )
        until(lambda: len(re.findall(rf"{number} to=<\w+@\S+> \w+ by", server.log)) == 2, "both")
        reports = [
            one
            for one in map(email.message_from_bytes, self.received(2))
            if one.get_content_type() == "multipart/report"
        ]
        self.assertEqual(len(reports), 1)
        text = reports[0].as_string()
        self.assertIn("Original-Envelope-ID: e1", text)
        self.assertIn("Original-Recipient: rfc822;old@client.test", text)
        self.assertIn("Action: delivered", text)
        self.assertNotIn("is told by", server.log)
