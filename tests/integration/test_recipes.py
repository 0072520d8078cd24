"""
The recipes of the documentation, word for word but for where things listen,
with the real programs.
"""

from __future__ import annotations

import contextlib
import email.message
import os
import re
import sqlite3

from tests.integration.daemons import Exim
from tests.integration.scanners import Clamd, Rspamd
from tests.integration.stores import Dovecot
from tests.integration.support import IntegrationCase, Server, message, program
from tests.mails import zipped
from tests.test_recipes import blocks, page

_SIEVE = """
plugin {
  sieve_before = $DIR/before.sieve
}
protocol lmtp {
  mail_plugins = quota sieve
}
lda_mailbox_autocreate = yes
"""


class TenantsTests(IntegrationCase):
    """
    The gateway for several tenants: Exim, PRDR, clamd, rspamd, LMTP, Dovecot,
    Sieve.
    """

    people = ("anna@law.example", "boss@law.example", "info@shop.example")

    def setUp(self) -> None:
        program("dovecot", "/usr/sbin/dovecot")
        self.rspamd, clamd = Rspamd(self), Clamd(self)
        recipe = page("recipes", "tenants.md")
        self.dovecot = Dovecot(self, _SIEVE, (*self.people, "postmaster@mx.example.net"))
        sieve = os.path.join(self.dovecot.directory, "before.sieve")
        (script,) = re.findall(r"```sieve\n(require.*?)```", recipe, re.S)
        with open(sieve, "w", encoding="utf-8") as file:
            file.write(script)
        os.chmod(self.dovecot.directory, 0o777)  # who delivers compiles the script
        config = blocks(recipe, "toml")[0]
        for there, here in (
            ("tcp:25", "tcp:0:interface=127.0.0.1"),
            ("unix:/run/clamav/clamd.ctl", clamd.unix),
            ("http://127.0.0.1:11333", self.rspamd.url),
            ("unix:/run/dovecot/lmtp", f"unix:{self.dovecot.socket}"),
        ):
            self.assertIn(there, config)
            config = config.replace(there, here)
        self.gateway: Server = self.server(config)
        path = os.path.join(self.gateway.directory, "mailboxes.db")
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.executescript(blocks(recipe, "sql")[0])
        self.exim = Exim(self, f"127.0.0.1::{self.gateway.port}")

    def junk(self, user: str) -> list[bytes]:
        return self.dovecot.mail(f"{user}/Maildir/.Junk")

    def test_everybodysOwn(self) -> None:
        """One message to all tenants: one scan, each one's own answer, marked mail in Junk."""
        everybody = (*self.people, "postmaster@mx.example.net")
        others = ("old@gone.example", "nobody@law.example", "anna@elsewhere.example")
        self.exim.send(
            message(subject="score-five and score-two"), "me@client.test", *everybody, *others
        )
        log = self.exim.log()
        for address in ("anna@law.example", "boss@law.example"):
            self.assertRegex(log, rf"\*\* {address} .*PRDR.*: 550 5\.7\.1 ")
        self.assertRegex(log, r"[=-]> info@shop\.example .*PRDR")
        self.assertRegex(log, r"[=-]> postmaster@mx\.example\.net ")
        for address, code in zip(others, ("5.1.6", "5.1.1", "5.1.1"), strict=True):
            self.assertRegex(log, rf"\*\* {address} .*: 550 {re.escape(code)} ")
        (clean,) = self.dovecot.arrived("postmaster@mx.example.net")
        (marked,) = self.dovecot.arrived("info@shop.example/Maildir/.Junk")
        self.assertIn(b"X-Spam: Yes\r\nX-Spam-Score: 7.0", marked.replace(b"\n", b"\r\n"))
        self.assertNotIn(b"X-Spam", clean)
        for copy, strangers in ((clean, self.people), (marked, (*self.people[:2], everybody[3]))):
            for address in strangers:
                self.assertNotIn(address.encode(), copy)
        self.assertEqual(self.rspamd.scans(), 1)

    def test_lists(self) -> None:
        """A mailbox's allowed and denied senders, by their own mailbox alone."""
        data = message(subject="score-twenty")
        self.exim.send(data, "me@supplier.example", "anna@law.example", "info@shop.example")
        self.assertRegex(self.exim.log(), r"\*\* anna@law\.example .*: 550 5\.7\.1 ")
        (copy,) = self.dovecot.arrived("info@shop.example")
        self.assertNotIn(b"X-Spam", copy)
        self.exim.send(message(), "me@ads.example", "anna@law.example", "boss@law.example")
        self.assertRegex(
            self.exim.log(), r"\*\* boss@law\.example .*: 550 5\.7\.1 .*no mail from you"
        )
        self.dovecot.arrived("anna@law.example")
        self.assertEqual(self.dovecot.mail("boss@law.example"), [])

    def test_programs(self) -> None:
        """A program in an archive is refused by the careful tenant, not by the other."""
        mail = email.message.EmailMessage()
        mail["From"], mail["Subject"] = "me@client.test", "an archive"
        mail.set_content("hello")
        archive = zipped({"in.zip": zipped({"invoice.exe": b"MZ"})})
        mail.add_attachment(archive, "application", "zip", filename="invoice.zip")
        self.exim.send(mail.as_bytes(), "me@client.test", "anna@law.example", "info@shop.example")
        self.assertRegex(self.exim.log(), r"\*\* anna@law\.example .*programs are not taken here")
        self.dovecot.arrived("info@shop.example")
        self.assertEqual(self.dovecot.mail("anna@law.example"), [])
