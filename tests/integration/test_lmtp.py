"""
A real Dovecot behind our server.
"""

from __future__ import annotations

import re

from tests.integration.stores import Cyrus, Dovecot
from tests.integration.support import IntegrationCase, Server, cli, message, until
from tests.requirements import requirement

CONFIG = """
hostname = "mx.example.net"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[policies.open]
envelope = "accept"

[[recipients]]
match = "*@example.net"
policy = "open"
{check}
deliver = {{ use = "lmtp", endpoint = "unix:{socket}", retry = 1 }}
"""

CALLOUT = 'check = [ {{ use = "callout", endpoint = "unix:{socket}", positive_cache = 0 }} ]'


class DovecotTests(IntegrationCase):
    """
    LMTP to a real Dovecot with three users, one of them over its quota.
    """

    def start(self, main: str = "", check: str = "") -> None:
        self.dovecot = Dovecot(self, main)
        socket = self.dovecot.socket
        self.mx: Server = self.server(
            CONFIG.format(check=check.format(socket=socket), socket=socket)
        )

    def send(self, *locals: str, text: str = "hello") -> str:
        """
        @return: the table of C{deferrals send}.
        """
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(message(text))
        words = [word for local in locals for word in ("--rcpt", f"{local}@example.net")]
        to = ("send", "--to", f"127.0.0.1:{self.mx.port}", "--from", "me@client.test")
        return cli(*to, *words, path).stdout

    def logged(self, pattern: str) -> None:
        until(lambda: re.search(pattern, self.mx.log), f"{pattern}\n{self.mx.log}")

    @requirement("S-5")
    def test_quota(self) -> None:
        """
        One session for all three; the quota refuses one of them, and that is its
        own outcome (RFC 2033).
        """
        self.start()
        self.send("fine", "small", "other", "unknown", text="long\n" * 400)
        self.logged(r"to=<small@example.net> failed by .* 552 5\.2\.2")
        self.logged(r"to=<unknown@example.net> failed by .* 550 5\.1\.1")
        for user in ("fine", "other"):
            self.logged(rf"to=<{user}@example.net> delivered by .* 250 2\.0\.0 .*Saved")
            self.assertIn(b"long", self.dovecot.arrived(user)[0])
        self.assertEqual(self.dovecot.mail("small"), [])
        sessions = re.findall(r"250 2\.0\.0 <\S+> ([^\s:]+)\S* Saved", self.mx.log)  # base64
        self.assertEqual((len(sessions), len(set(sessions))), (2, 1), self.mx.log)

    def test_full(self) -> None:
        """A full mailbox that may be emptied is tried again (4xx); the others have their mail."""
        self.start("quota_full_tempfail = yes\n")
        self.send("fine", "small", text="long\n" * 400)
        self.logged(r"to=<small@example.net> retry by .* 452 4\.2\.2")
        self.dovecot.setQuota(100_000)
        self.dovecot.arrived("small")
        self.assertEqual(len(self.dovecot.arrived("fine")), 1)

    def test_utf8(self) -> None:
        """
        Dovecot offers no SMTPUTF8: a message that needs it for its header alone is
        delivered as it is; one that is too much for it by its address is refused at RCPT.
        """
        self.start()
        dialogue = self.dialogue(self.mx.port)
        dialogue.reply()
        dialogue.say("EHLO client.test")
        dialogue.say("MAIL FROM:<a@client.test> SMTPUTF8", "RCPT TO:<fine@example.net>", "DATA")
        dialogue.say("Subject: \u00fc\r\n\r\nhello\r\n.")
        (found,) = self.dovecot.arrived("fine")
        self.assertIn("Subject: \u00fc".encode(), found)
        self.logged(r"to=<fine@example.net> delivered by")  # what Dovecot offers is known now
        said = dialogue.say("MAIL FROM:<a@client.test> SMTPUTF8", "RCPT TO:<\u00fc@example.net>")
        self.assertTrue(said[1].startswith("553 5.6.7 "), said)

    def test_down(self) -> None:
        """While Dovecot is down mail waits; connections that it has closed are replaced."""
        self.start()
        self.send("fine")
        self.dovecot.arrived("fine")
        self.dovecot.stop()
        self.send("fine")
        self.logged(r"to=<fine@example.net> retry by .* 451 4\.4\.")
        self.dovecot.start()
        self.dovecot.arrived("fine", 2)
        self.send("fine")
        self.assertEqual(len(self.dovecot.arrived("fine", 3)), 3)

    def test_callout(self) -> None:
        """
        Unknown users and full mailboxes are refused at RCPT, 550 5.1.1 and 452
        4.2.2, and the mail for the others goes on.
        """
        self.start("lmtp_rcpt_check_quota = yes\n", CALLOUT)
        self.send("small")
        self.dovecot.arrived("small")
        self.dovecot.setQuota(100)
        until(
            lambda: re.search(r"small@\S+ +452", self.send("small", "fine")),
            f"a refusal at RCPT\n{self.mx.log}",
        )
        table = self.send("fine", "small", "unknown")
        self.assertRegex(table, r"fine@example\.net +250")
        self.assertRegex(table, r"small@example\.net +452 +4\.2\.2 ")
        self.assertRegex(table, r"unknown@example\.net +550 +5\.1\.1 ")
        self.assertIn("doesn't exist", table)
        self.dovecot.arrived("fine")
        self.assertEqual(len(self.dovecot.mail("small")), 1)


class CyrusTests(IntegrationCase):
    """
    LMTP to a real Cyrus, which offers SIZE and 8BITMIME, and no SMTPUTF8.
    """

    def send(self, mx: Server, parameters: str, data: str, *locals: str) -> str:
        """
        @return: the reply to the data.
        """
        dialogue = self.dialogue(mx.port)
        dialogue.reply()
        dialogue.say("EHLO x", f"MAIL FROM:<me@client.test>{parameters}")
        dialogue.say(*(f"RCPT TO:<{local}@example.net>" for local in locals))
        *_, reply = dialogue.say("DATA", f"Subject: \u00fc\r\n\r\n{data}\r\n.")
        return reply

    def test_store(self) -> None:
        """
        Each recipient has its copy, also of a header with UTF-8; a message that is
        larger than its SIZE is refused before the 250; a name that it does not take keeps
        up nobody else.
        """
        cyrus = Cyrus(self)
        mx = self.server(CONFIG.format(check="", socket=cyrus.socket))
        self.assertIn("250 2.6.0", self.send(mx, " SMTPUTF8", "one", "anna", "bert"))
        for local in ("anna", "bert"):
            pattern = rf"to=<{local}@\S+> delivered by .* 250 2\.1\.5"
            until(lambda pattern=pattern: re.search(pattern, mx.log), mx.log)
        self.assertEqual([b"Subject: \xc3\xbc\r\n" in one for one in cyrus.mail()], [True] * 2)
        lines = "x" * 70 + "\r\n"
        self.assertIn("552 5.3.4", self.send(mx, " BODY=8BITMIME", lines * 400, "anna"))
        self.send(mx, " BODY=8BITMIME", "two", "anna", "no*name")
        until(lambda: re.search(r"to=<no\*name@\S+> retry by .* 451 4\.3\.0 ", mx.log), "a retry")
        until(lambda: len(cyrus.mail()) == 3, "another copy")
        self.assertNotIn("to=<me@client", mx.log)
