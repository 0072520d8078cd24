"""
Refused, let in, sent again and delivered: with stock Exim and Postfix as senders, with
strangers who use an admitted name, with two workers, and with kills.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import json
import os
import re
import smtplib
import sqlite3
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from deferrals.spool.sqlite.offline import immediately
from deferrals.spool.sqlite.refusals import SqliteRefusals
from tests import signatures
from tests.integration.daemons import Exim, Postfix
from tests.integration.support import (
    Dialogue,
    IntegrationCase,
    Server,
    cli,
    message,
    spam,
    until,
)
from tests.integration.test_authenticate import Introducer
from tests.integration.test_workers import Workers
from tests.model.test_refusal import makeRefusal
from tests.ports import freePort
from tests.server.test_verifying import SignedMail
from tests.zone import Zone

CONFIG = """
{workers}
hostname = "mx.example.net"
bounces = "none"
dns = ["{dns}"]
[[listen]]
endpoint = "tcp:{smtp}:interface=127.0.0.1"
[web]
endpoint = "tcp:{web}:interface=127.0.0.1"
url = "http://127.0.0.1:{web}"
[refusals]
keep = "14d"
subject = true
digest = "daily"
[policies.strict]
content = [ {{ use = "match", rules = [ {{ test = "gtube", reply = "550 5.7.1 is spam" }} ] }} ]
admits = ["match"]
[policies.viruses]
content = [ {{ use = "match", rules = [ {{ test = "gtube", reply = "550 5.7.1 is a virus" }} ] }} ]
[[recipients]]
match = "careful@example.net"
policy = "viruses"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}
[[recipients]]
match = "*@example.net"
policy = "strict"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}
"""

FRIEND, SIGNER = "friend@client.test", "friend@client.example"


class RefusalCase(IntegrationCase):
    """
    Tests with a server that keeps refusals.
    """

    def setUp(self) -> None:
        self.keys = SignedMail()
        zone = signatures.zone([self.keys.client])
        records: dict[tuple[str, str], Any] = {
            (name.rstrip("."), "TXT"): [text.decode()] for name, text in zone.items()
        }
        self.zone = Zone(records)
        self.addCleanup(self.zone.close)
        self.web, self.smtp = freePort(), freePort()

    def started(self, workers: int = 1) -> Server:
        text = CONFIG.format(
            workers=f"workers = {workers}" if workers > 1 else "",
            dns="{}:{}".format(*self.zone.address),
            smtp=self.smtp,
            web=self.web,
        )
        kind = Server if workers == 1 else Workers
        options = () if workers == 1 else ("--log-format", "json")
        self.mx = kind(self.directory(), text, *options)
        self.addCleanup(self.mx.kill)
        return self.mx

    def cli(self, *words: str, status: int = 0) -> str:
        done = cli(*words, "--config", self.mx.path)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def kept(self, recipient: str, count: int = 1) -> list[dict[str, Any]]:
        """
        Wait for what is kept for one.
        """

        def look() -> Any:
            found = json.loads(self.cli("refusals", recipient, "--json"))
            return found if len(found) >= count else None

        found: list[dict[str, Any]] = until(look, f"refusals\n{self.mx.log}")
        self.assertEqual(len(found), count)
        return found

    def send(self, data: bytes, recipient: str, sender: str = FRIEND, source: str = "") -> str:
        """
        @param source: the client's address.
        @return: what was answered behind the data.
        """
        origin = (source, 0) if source else None
        with smtplib.SMTP("127.0.0.1", self.smtp, source_address=origin) as client:
            try:
                client.sendmail(sender, [recipient], data)
            except smtplib.SMTPRecipientsRefused as error:
                ((code, text),) = error.recipients.values()
                return f"{code} {text.decode()}"
            except smtplib.SMTPDataError as error:
                said = error.smtp_error
                return f"{error.smtp_code} {said.decode() if isinstance(said, bytes) else said}"
        return "250"

    def page(self, url: str, form: dict[str, str] | None = None) -> tuple[int, str]:
        data = None if form is None else urllib.parse.urlencode(form).encode()
        try:
            with urllib.request.urlopen(url, data, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


class SenderTests(RefusalCase):
    """
    From the bounce to the mailbox.
    """

    def test_exim(self) -> None:
        """
        The reference in Exim's bounce lets its sender in; a stranger with its name, and a
        policy that says nothing of this stage, refuse all the same.
        """
        mx = self.started()
        exim = Exim(self, f"127.0.0.1::{self.smtp}", prdr=False)
        exim.send(spam(), FRIEND, "anna@example.net")
        found = re.search(r"550 .*is spam \(id (\w{13})\)", exim.bounce())
        assert found is not None, exim.bounce()
        (one,) = self.kept("anna@example.net")
        self.assertEqual((one["id"], one["sender"]), (found[1], FRIEND))
        self.assertEqual(one["admits"], ["network 127.0.0.0/24"])
        self.assertIn("by network", self.cli("admit", found[1], "anna@example.net", "--once"))
        for sender, source in ((FRIEND, "127.0.7.7"), ("x@client.test", "127.0.0.1")):
            said = self.send(spam(), "anna@example.net", sender, source)
            self.assertTrue(said.startswith("550"), said)
        self.assertEqual(mx.mail("anna"), [])
        exim.send(spam(), FRIEND, "anna@example.net")
        self.assertEqual(len(mx.arrived("anna")), 1)
        self.assertTrue(self.send(spam(), "anna@example.net").startswith("550"))  # once
        self.assertTrue(self.send(spam(), "careful@example.net").startswith("550"))
        (one,) = self.kept("careful@example.net")
        self.cli("admit", one["id"], "careful@example.net")
        self.assertTrue(self.send(spam(), "careful@example.net").startswith("550"))

    def test_postfix(self) -> None:
        """
        The recipient's digest has a link to a page with which it lets the sender in; to
        open it changes nothing; Postfix sends again, and is let in.
        """
        mx = self.started()
        postfix = Postfix(self, f"smtp:[127.0.0.1]:{self.smtp}")
        postfix.send(spam(), FRIEND, "bob@example.net")
        postfix.logged(r"is spam \(id \w{13}\)")
        self.kept("bob@example.net")
        self.assertIn("<bob@example.net> 1 refusals", self.cli("digest"))
        (digest,) = mx.arrived("bob")
        told: Any = email.message_from_bytes(digest, policy=email.policy.default)
        self.assertEqual(told["Return-Path"], "<>")
        self.assertEqual(told["Auto-Submitted"], "auto-generated")
        text = told.get_body(("plain",)).get_content()
        (url,) = re.findall(r"http://\S+/mine/\S+", text)
        code, page = self.page(url)
        self.assertEqual(code, 200, page)
        self.assertIn(FRIEND, page)
        (csrf,) = re.findall('name="csrf" value="([^"]+)"', page)
        (number,) = re.findall('name="n" value="([^"]+)"', page)
        self.assertEqual(self.cli("admissions", "list"), "0 admissions\n")
        changed = url[:-1] + ("A" if url[-1] != "A" else "B")
        self.assertEqual(self.page(changed)[0], 404)
        form = {"csrf": csrf, "n": number, "for": "always"}
        self.assertEqual(self.page(f"{url}/admit", {**form, "csrf": "x"})[0], 400)
        code, page = self.page(f"{url}/admit", form)
        self.assertEqual(code, 200, page)
        self.assertIn("1 admissions", self.cli("admissions", "list", "bob@example.net"))
        postfix.send(spam(), FRIEND, "bob@example.net")
        self.assertEqual(len(mx.arrived("bob", 2)), 2)
        self.assertIn("0 recipients", self.cli("digest", status=1))
        metrics = self.page(f"http://127.0.0.1:{self.web}/metrics")[1]
        self.assertIn('deferrals_admissions_total{how="link"} 1.0', metrics)

    def test_signed(self) -> None:
        """What a signature proves is the sender's wherever it sends from, and no one else's."""
        self.started()
        signed = self.keys.signed(_SIGNED)
        self.assertTrue(self.send(signed, "carol@example.net", SIGNER).startswith("550"))
        (one,) = self.kept("carol@example.net")
        self.assertIn("dkim client.example", one["admits"])
        self.assertIn("by dkim client.example", self.cli("admit", one["id"], "carol@example.net"))
        self.assertTrue(self.send(_SIGNED, "carol@example.net", SIGNER).startswith("550"))
        broken = signed.replace(b"money", b"moneys")
        self.assertTrue(self.send(broken, "carol@example.net", SIGNER).startswith("550"))
        self.assertEqual(self.send(signed, "carol@example.net", SIGNER, source="127.0.9.9"), "250")
        self.assertEqual(self.send(message(), "carol@example.net"), "250")


_SIGNED = (
    b"From: Friend <friend@client.example>\r\nTo: carol@example.net\r\nSubject: money\r\n"
    b"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@client.example>\r\n\r\n"
    b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\r\n"
)


LISTED = """
hostname = "mx.example.net"
bounces = "none"
dns = ["{dns}"]
[[listen]]
endpoint = "haproxy:tcp:{port}:interface=127.0.0.1"
[refusals]
keep = "14d"
[policies.strict]
envelope = "accept"
[[recipients]]
match = "*@example.net"
policy = "strict"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}
check = [
  {{ use = "dnsbl", lists = [ {{ zone = "bl.test" }} ] }},
  {{ use = "users", sqlite = "people.db", missing = "refuse" }},
]
"""


class ListedTests(RefusalCase):
    """
    Refused before the data.
    """

    def test_listed(self) -> None:
        """
        What a DNS list refuses is kept for those who are there, and is lifted for the
        network that is let in; for no other, and for no one who is not there.
        """
        names = ("7.113.0.203", "9.100.51.198")
        zone = Zone({(f"{name}.bl.test", "A"): ["127.0.0.2"] for name in names})
        self.addCleanup(zone.close)
        directory, port = self.directory(), freePort()
        with contextlib.closing(sqlite3.connect(os.path.join(directory, "people.db"))) as db:
            db.execute("CREATE TABLE users (address TEXT PRIMARY KEY, digest TEXT)")
            db.execute("INSERT INTO users VALUES ('anna@example.net', 'daily')")
            db.commit()
        text = LISTED.format(dns="{}:{}".format(*zone.address), port=port)
        self.mx = Server(directory, text)
        self.addCleanup(self.mx.kill)
        front = Introducer(self, port)
        self.smtp = front.port
        for local in ("anna", "nobody"):
            said = self.send(message(), f"{local}@example.net")
            self.assertIn("203.0.113.7 is listed by bl.test", said)
        (one,) = self.kept("anna@example.net")
        self.assertEqual((one["stage"], one["admits"]), ("envelope", ["network 203.0.113.0/24"]))
        self.cli("admit", one["id"], "anna@example.net")
        self.assertEqual(self.send(message(), "anna@example.net"), "250")
        self.assertTrue(self.send(message(), "anna@example.net", "x@client.test").startswith("550"))
        front.source = "198.51.100.9"
        self.assertTrue(self.send(message(), "anna@example.net").startswith("550"))
        self.assertEqual(self.kept("anna@example.net", 3)[0]["client"], "198.51.100.9")
        self.assertEqual(json.loads(self.cli("refusals", "nobody@example.net", "--json")), [])
        self.assertIn("<anna@example.net> 3 refusals", self.cli("digest", "--dry-run"))


class ProcessTests(RefusalCase):
    """
    Several processes, and ends of them.
    """

    def test_workers(self) -> None:
        """What any worker has refused all know, and whom a recipient lets in."""
        mx = self.started(2)
        for _ in range(8):
            self.assertTrue(self.send(spam(), "anna@example.net").startswith("550"))
        found = self.kept("anna@example.net", 8)
        self.cli("admit", found[0]["id"], "anna@example.net")
        for _ in range(6):
            self.assertEqual(self.send(spam(), "anna@example.net"), "250")
        self.assertEqual(len(mx.arrived("anna", 6)), 6)
        self.assertIn("<anna@example.net> 8 refusals", self.cli("digest"))
        self.assertEqual(len(mx.arrived("anna", 7)), 7)
        removed = self.cli("admissions", "remove", "anna@example.net")
        self.assertEqual(removed, "1 admissions removed\n")
        self.assertTrue(self.send(spam(), "anna@example.net").startswith("550"))

    def test_kills(self) -> None:
        """
        Killed between a refusal and its reply: the sender has no answer, and comes again;
        what is kept can be read, and an admission is there after the kill.
        """
        mx = self.started()
        for _ in range(3):
            one = Dialogue(self.smtp)
            one.reply()
            one.say("EHLO client.example", f"MAIL FROM:<{FRIEND}>", "RCPT TO:<anna@example.net>")
            one.say("DATA")
            one.socket.sendall(spam() + b"\r\n.\r\n")
            mx.kill()
            one.close()
            mx.start()
        self.assertTrue(self.send(spam(), "anna@example.net").startswith("550"))
        last = until(
            lambda: json.loads(self.cli("refusals", "anna@example.net", "--json")), "a refusal"
        )[0]
        self.cli("admit", last["id"], "anna@example.net")
        self.assertEqual(self.send(spam(), "anna@example.net"), "250")
        mx.kill()
        self.assertIn("1 admissions", self.cli("admissions", "list"))  # at rest
        mx.start()
        self.assertEqual(self.send(spam(), "anna@example.net"), "250")
        names = os.listdir(os.path.join(mx.directory, "state"))
        self.assertIn("refusals.sqlite", names)

    def test_digestOnce(self) -> None:
        """
        A digest that is due is sent once, however often the server is killed meanwhile: the
        copies that a kill may cost are of one message.
        """
        mx, now = self.started(), time.time()
        mx.kill()
        minute = time.strftime("%H:%M", time.localtime(now - 60))
        with open(mx.path, encoding="utf-8") as file:
            text = file.read().replace('keep = "14d"', f'keep = "14d"\ndigest_at = "{minute}"')
        with open(mx.path, "w", encoding="utf-8") as file:
            file.write(text)
        store = SqliteRefusals(os.path.join(mx.directory, "state", "refusals.sqlite"), immediately)
        kept = [
            (owner, makeRefusal(1, owner, time=now - 7200))
            for owner in (f"{name}@example.net" for name in NAMES)
        ]
        self.successResultOf(store.add(kept))
        self.successResultOf(store.close())
        for pause in (0.0, 0.05, 0.1, 0.2, 0.4):
            mx.start()
            time.sleep(pause)
            mx.kill()
        mx.start()
        for name in NAMES:
            ids = {email.message_from_bytes(one)["Message-ID"] for one in mx.arrived(name)}
            self.assertEqual(len(ids), 1, name)


#: Those who are told.
NAMES = [f"n{number}" for number in range(20)]
