"""
The scanners that operators run, as real daemons: rspamd, clamd, spamd.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import os
import re
import signal
import sqlite3
import threading
from collections.abc import Mapping

from deferrals.stages.content.match.findings import EICAR, GTUBE
from tests.integration.daemons import Exim
from tests.integration.scanners import OWN_VIRUS, Clamd, DebianSpamd, Rspamd, Spamd
from tests.integration.support import ROOT, IntegrationCase, Server, cli, message, until
from tests.mails import zipped

HEAD = """
hostname = "mx.example.net"
reply_deadline = 20

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[deliveries.box]
use = "maildir"
path = "mail/{local}"
"""


def config(policies: Mapping[str, str], check: str = "", head: str = HEAD) -> str:
    """
    A policy, of these content stages, for the recipient of each name.
    """
    text = head
    for name, content in policies.items():
        text += f"\n[policies.{name}]\ncontent = [ {content} ]\n"
        text += f'\n[[recipients]]\nmatch = "{name}@example.net"\npolicy = "{name}"\n'
        text += f'deliver = "box"\n{check}\n'
    return text


#: A zip whose one file is encrypted, as its header says: clamd looks no further.
ENCRYPTED = base64.b64decode(
    "UEsDBAoACQAAAAAAIQDMj0ZzEgAAAAYAAAABAAAAYTEyMzQ1Njc4OTAxMjM0NTY3OFBLBwjMj0ZzEgAAAAYA"
    "AABQSwECHgMKAAkAAAAAACEAzI9GcxIAAAAGAAAAAQAAAAAAAAABAAAApIEAAAAAYVBLBQYAAAAAAQABAC8A"
    "AABBAAAAAAA="
)


class ScannerCase(IntegrationCase):
    """
    Tests with one message to several recipients.
    """

    def ask(self, server: Server, data: bytes, *locals: str) -> dict[str, str]:
        """
        Send a message under PRDR.

        @return: each recipient's own reply, without its address.
        """
        dialogue = self.dialogue(server.port)
        dialogue.reply()
        dialogue.say("EHLO client.test", "MAIL FROM:<sender@client.test> PRDR")
        dialogue.say(*[f"RCPT TO:<{local}@example.net>" for local in locals], "DATA")
        dialogue.socket.sendall(data.replace(b"\n", b"\r\n") + b"\r\n.\r\n")
        first = dialogue.reply()
        if first.startswith("353"):
            replies = [dialogue.reply() for _ in locals]
            dialogue.reply()
        else:
            replies = [first] * len(locals)
        dialogue.close()
        found = [re.sub(r"<\S+@example\.net> | \(id \w+\)$", "", reply) for reply in replies]
        return dict(zip(locals, found, strict=True))

    def codes(self, server: Server, data: bytes, *locals: str) -> dict[str, str]:
        replies = self.ask(server, data, *locals)
        return {local: reply[:3] for local, reply in replies.items()}

    def copy(self, server: Server, local: str, folder: str = "new") -> str:
        """
        The header of somebody's only copy.
        """
        box = local if folder == "new" else f"{local}/.Junk"
        (mail,) = server.arrived(box)
        return mail.partition(b"\r\n\r\n")[0].decode()


class RspamdTests(ScannerCase):
    """
    rspamd.
    """

    def test_fiveThresholds(self) -> None:
        """
        One message to five recipients with five different thresholds: one
        scan, and Exim's log shows each recipient's own reply.
        """
        rspamd = Rspamd(self)
        stage = f'use = "rspamd", url = "{rspamd.url}"'
        server = self.server(
            config(
                {
                    "a": f"{{ {stage}, refuse_score = 3.0 }}",
                    "b": f'{{ {stage}, refuse_score = 5.0, reply = "550 5.7.1 not for b" }}',
                    "c": f"{{ {stage}, refuse_score = 5.1, mark_score = 5.0 }}",
                    "d": f"{{ {stage}, refuse_score = 100, mark_score = 50 }}",
                    "e": f"{{ {stage}, refuse_score = inf, mark_score = 1, junk = false }}",
                }
            )
        )
        exim = Exim(self, f"127.0.0.1::{server.port}")
        exim.send(
            message(subject="score-five"),
            "me@client.test",
            *[f"{local}@example.net" for local in "abcde"],
        )
        log = exim.log()
        self.assertRegex(log, r"\*\* a@example\.net .*PRDR.*: 550 5\.7\.1 .*refused as spam")
        self.assertRegex(log, r"\*\* b@example\.net .*PRDR.*: 550 5\.7\.1 .*not for b")
        for local in "cde":
            self.assertRegex(log, rf"(=>|->) {local}@example\.net .* PRDR .*C=\"250 2\.1\.5")
        self.assertIn("X-Spam: Yes\r\nX-Spam-Score: 5.0", self.copy(server, "c", "junk"))
        self.assertIn("X-Spam: Yes", self.copy(server, "e"))
        self.assertNotIn("X-Spam: Yes", self.copy(server, "d"))
        self.assertEqual(rspamd.scans(), 1)
        (result,) = rspamd.results()
        self.assertIn(
            "rcpts: <" + ",".join(f"{local}@example.net" for local in "abcde") + ">", result
        )
        self.assertIn("from: <me@client.test>", result)
        self.assertIn("ip: 127.0.0.1", result)

    def test_weights(self) -> None:
        """Weights and ignored symbols are applied here, on the one scan."""
        rspamd = Rspamd(self)
        stage = f'use = "rspamd", url = "{rspamd.url}", refuse_score = 6.0'
        server = self.server(
            config(
                {
                    "plain": f"{{ {stage} }}",
                    "heavy": f"{{ {stage}, weights = {{ TEST_FIVE = 7.5 }} }}",
                    "deaf": f'{{ {stage}, ignore = ["TEST_FIVE", "TEST_TWO"] }}',
                }
            )
        )
        data = message(subject="score-five and score-two")
        found = self.codes(server, data, "plain", "heavy", "deaf")
        self.assertEqual(found, {"plain": "550", "heavy": "550", "deaf": "250"})
        found = self.codes(server, message(subject="score-five"), "plain", "heavy", "deaf")
        self.assertEqual(found, {"plain": "250", "heavy": "550", "deaf": "250"})
        self.assertEqual(rspamd.scans(), 2)

    def test_ownScans(self) -> None:
        """A settings id, or per_user, is a scan that names one recipient and logs nothing."""
        rspamd = Rspamd(self)
        stage = f'use = "rspamd", url = "{rspamd.url}"'
        server = self.server(
            config(
                {
                    "one": f"{{ {stage}, refuse_score = 5 }}",
                    "two": f"{{ {stage}, refuse_score = 6 }}",
                    "three": f'{{ {stage}, refuse_score = 8, settings_id = "strict" }}',
                    "four": f'{{ {stage}, refuse_score = 10, settings_id = "strict" }}',
                    "personal": f"{{ {stage}, refuse_score = 2, per_user = true }}",
                }
            )
        )
        names = ("one", "two", "three", "four", "personal")
        found = self.codes(server, message(subject="score-five"), *names)
        self.assertEqual(list(found.values()), ["550", "250", "550", "250", "250"])
        self.assertIn("X-Spam-Score: 5.0", self.copy(server, "two"))
        self.assertIn("X-Spam-Score: 9.0", self.copy(server, "four", "junk"))
        self.assertIn("X-Spam-Score: 1.5", self.copy(server, "personal"))
        self.assertEqual(rspamd.scans(), 3)
        (logged,) = rspamd.results()
        self.assertIn("rcpts: <one@example.net,two@example.net>", logged)

    def test_actions(self) -> None:
        """Soft reject refuses for now, greylist where asked; a forced reject has rspamd's text."""
        rspamd = Rspamd(self)
        stage = f'use = "rspamd", url = "{rspamd.url}"'
        server = self.server(
            config(
                {
                    "plain": f'{{ {stage}, greylist = "refuse-temporarily" }}',
                    "strict": f"{{ {stage}, refuse_score = 1 }}",
                    "lax": f"{{ {stage}, refuse_score = 10 }}",
                    "never": f'{{ {stage}, refuse_score = inf, greylist = "refuse-temporarily" }}',
                    "far": f"{{ {stage}, refuse_score = 50 }}",
                }
            )
        )
        names = ("plain", "strict", "lax", "never")
        later = "451 4.7.1 come back later"
        found = self.ask(server, message(subject="score-soft"), *names)
        self.assertEqual(found["plain"], later)
        self.assertTrue(found["strict"].startswith("550 5.7.1 refused as spam"))
        self.assertEqual((found["lax"], found["never"]), (later, later))
        found = self.ask(server, message(subject="score-forced"), *names)
        self.assertEqual(found["plain"], "550 5.7.1 not from you")
        self.assertEqual(found["lax"], "550 5.7.1 not from you")
        self.assertTrue(found["never"].startswith("250 2.1.5"))
        found = self.codes(server, message(subject="score-grey"), *names)
        self.assertEqual(list(found.values()), ["451", "550", "250", "451"])
        found = self.ask(server, message(GTUBE), *names, "far")
        self.assertEqual(found["plain"], "550 5.7.1 Gtube pattern")
        self.assertEqual(found["far"], "550 5.7.1 Gtube pattern")
        self.assertTrue(found["never"].startswith("250"), found)

    def test_copies(self) -> None:
        """Different cohorts get different headers from one stored body; forged ones are gone."""
        rspamd = Rspamd(self)
        stage = f'use = "rspamd", url = "{rspamd.url}"'
        server = self.server(
            config(
                {
                    "clean": f"{{ {stage}, mark_score = 50 }}",
                    "tagged": f'{{ {stage}, mark_score = 4, subject_tag = "[spam] " }}',
                    "deaf": f'{{ {stage}, ignore = ["TEST_FIVE"], milter_headers = false }}',
                }
            )
        )
        data = b"X-Spam: No\nX-Spam-Score: -99\n" + message(subject="score-five")
        self.codes(server, data, "clean", "tagged", "deaf")
        clean = self.copy(server, "clean")
        tagged = self.copy(server, "tagged", "junk")
        deaf = self.copy(server, "deaf")
        self.assertIn("\r\nSubject: score-five", clean)
        self.assertIn("\r\nSubject: [spam] score-five", tagged)
        bar = "X-Spamd-Bar: +++++\r"  # from rspamd's milter_headers
        for copy, wanted in (
            (clean, [bar, "X-Spam-Score: 5.0\r"]),
            (tagged, [bar, "X-Spam: Yes\r", "X-Spam-Score: 5.0\r"]),
            (deaf, ["X-Spam-Score: 0.0\r"]),
        ):
            self.assertEqual(re.findall(r"X-Spam.*", copy), wanted)
        for mine, others in ((clean, ("tagged", "deaf")), (deaf, ("clean", "tagged"))):
            for other in others:
                self.assertNotIn(f"{other}@example.net", mine)


class ClamdTests(ScannerCase):
    """
    clamd.
    """

    def test_policies(self) -> None:
        """EICAR and a hash of our own, to mixed recipients: one scan, each policy's own answer."""
        clamd = Clamd(self)
        server = self.server(
            config(
                {
                    "refuse": f'{{ use = "clamav", socket = "{clamd.endpoint}" }}',
                    "mark": f'{{ use = "clamav", socket = "{clamd.endpoint}", action = "mark" }}',
                    "open": "",
                }
            )
        )
        names = ("refuse", "mark", "open")
        mail = message()
        found = self.codes(server, mail, *names)
        self.assertEqual(list(found.values()), ["250", "250", "250"])
        self.assertEqual(clamd.scans(), 1)
        virus = attached(EICAR + b"\n")
        found = self.ask(server, virus, *names)
        self.assertEqual(
            found["refuse"], "550 5.7.1 refused: it carries a virus (Test.Eicar.UNOFFICIAL)"
        )
        self.assertTrue(found["mark"].startswith("250") and found["open"].startswith("250"))
        self.assertIn("X-Virus: Test.Eicar.UNOFFICIAL", self.copy(server, "mark", "junk"))
        self.assertNotIn("X-Virus", b"".join(server.arrived("open", 2)).decode())
        found = self.ask(server, attached(OWN_VIRUS), *names)
        self.assertIn("(Test.Own.UNOFFICIAL)", found["refuse"])
        until(lambda: clamd.scans() == 3, "three scans")

    def test_withoutTrace(self) -> None:
        """A mail that clamd would not take for one, but for what stands in front of it."""
        clamd = Clamd(self)
        server = self.server(
            config({"refuse": f'{{ use = "clamav", socket = "{clamd.endpoint}" }}'})
        )
        for first in (b"Content-Type: application/octet-stream", b"Content-ID: <a@b>"):
            data = first + b"\nContent-Transfer-Encoding: base64\n\n"
            data += base64.encodebytes(EICAR + b"\n")
            found = self.ask(server, data, "refuse")
            self.assertIn("(Test.Eicar.UNOFFICIAL)", found["refuse"], first)

    def test_classes(self) -> None:
        """What clamd names, and is no virus: its own limits, and classes of names."""
        clamd = Clamd(self, "AlertExceedsMax yes\nMaxFileSize 100K\nAlertEncrypted yes")
        stage = f'use = "clamav", socket = "{clamd.endpoint}"'
        marks = 'classes = [ { match = "Heuristics.Encrypted.*", action = "mark" } ]'
        server = self.server(
            config(
                {
                    "plain": f"{{ {stage} }}",
                    "strict": f'{{ {stage}, too_large = "refuse" }}',
                    "marks": f"{{ {stage}, {marks} }}",
                }
            )
        )
        found = self.ask(server, attached(os.urandom(300_000)), "plain", "strict")
        self.assertTrue(found["plain"].startswith("250"), found)
        self.assertTrue(found["strict"].startswith("552 5.3.4 too large"), found)
        self.assertIn("Deferrals-Unscanned: clamav (too large)", self.copy(server, "plain"))
        found = self.ask(server, attached(ENCRYPTED), "plain", "marks")
        self.assertIn("(Heuristics.Encrypted.Zip)", found["plain"])
        copy = self.copy(server, "marks", "junk")
        self.assertIn("X-Virus: Heuristics.Encrypted.Zip", copy)
        found = self.ask(server, attached(EICAR), "marks")
        self.assertIn("(Test.Eicar.UNOFFICIAL)", found["marks"])

    def test_tooLarge(self) -> None:
        """The size limit's reply is read, also when clamd has closed while we were sending."""
        clamd = Clamd(self)
        local = f'use = "clamav", socket = "{clamd.unix}"'
        server = self.server(
            config(
                {
                    "mark": f'{{ use = "clamav", socket = "{clamd.endpoint}" }}',
                    "strict": f'{{ {local}, too_large = "refuse" }}',
                    "open": f'{{ {local}, too_large = "accept" }}',
                }
            )
        )
        for size in (1_100_000, 8_000_000) * 5:
            data = b"Subject: large\n\n" + b"x" * 70 + b"\n" + (b"y" * 70 + b"\n") * (size // 71)
            found = self.ask(server, data, "mark", "strict", "open")
            self.assertEqual(found["strict"], "552 5.3.4 too large to be scanned for viruses")
            self.assertTrue(found["mark"].startswith("250"))
            self.assertTrue(found["open"].startswith("250"))
        self.assertIn(b"Deferrals-Unscanned: clamav (too large)", server.arrived("mark", 10)[0])
        self.assertNotIn(b"Unscanned", server.arrived("open", 10)[0])

    def test_largeOne(self) -> None:
        """A message of 50 MB reaches clamd in pieces, and its end is looked at."""

        class LargeClamd(Clamd):
            maxOctets = 100 << 20

        clamd = LargeClamd(self)
        server = self.server(
            config({"a": f'{{ use = "clamav", socket = "{clamd.unix}", timeout = 18 }}'})
        )
        data = b"Subject: large\n\n" + (b"y" * 75 + b"\n") * 400_000 + EICAR + b"\n"
        self.assertIn("Test.Eicar", self.ask(server, data, "a")["a"])


def attached(data: bytes) -> bytes:
    """
    A message with an attachment, LF line ends.
    """
    return (
        b"From: a@client.test\nSubject: a file\nMIME-Version: 1.0\n"
        b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\nhello\n--b\n"
        b"Content-Type: application/octet-stream; name=x.bin\n"
        b"Content-Transfer-Encoding: base64\n\n" + base64.encodebytes(data) + b"--b--\n"
    )


class SpamdTests(ScannerCase):
    """
    spamd.
    """

    def test_users(self) -> None:
        """One scan per distinct user; thresholds are applied here."""
        spamd = Spamd(self)
        stage = f'use = "spamassassin", socket = "{spamd.endpoint}"'
        server = self.server(
            config(
                {
                    "one": f"{{ {stage}, refuse_score = 4 }}",
                    "two": f"{{ {stage}, refuse_score = 6 }}",
                    "fighter": f'{{ {stage}, user = "{{address}}" }}',
                    "lover": f'{{ {stage}, user = "{{address}}", refuse_score = 4 }}',
                }
            )
        )
        names = ("one", "two", "fighter", "lover")
        found = self.codes(server, message(subject="score-five"), *names)
        self.assertEqual(list(found.values()), ["550", "250", "250", "250"])
        self.assertIn("X-Spam: Yes", self.copy(server, "two", "junk"))
        self.assertIn("X-Spam-Score: 5.0", self.copy(server, "fighter", "junk"))
        self.assertIn("X-Spam-Score: 0.5", self.copy(server, "lover"))
        until(lambda: spamd.scans() == 3, "a scan for nobody in particular and for each of two")
        found = self.codes(server, message(GTUBE), "one", "two")
        self.assertEqual(list(found.values()), ["550", "550"])
        until(lambda: spamd.scans() == 4, "one more scan")


#: What a provider writes about a customer who has dialled in.
DIALUP = (
    b"Received: from pool-173-66-12-34.washdc.fios.verizon.net"
    b" (pool-173-66-12-34.washdc.fios.verizon.net [173.66.12.34])\n"
    b"\tby smtp.provider.example with ESMTP id 4XyZ12; Sun, 29 Nov 2026 09:59:58 +0000\n"
)

#: What a server of the bank's would write, in front of a mail that has never seen one.
FORGED = (
    b"Received: from out.bank.example (out.bank.example [198.51.100.66])\n"
    b"\tby mx.example.net with ESMTP id 4XyZ13; Sun, 29 Nov 2026 09:59:58 +0000\n"
)
MAIL = (
    b"From: Ann <%s>\nTo: bob@example.net\nSubject: lunch\nMessage-ID: <lunch1@provider.example>\n"
    b"Date: Sun, 29 Nov 2026 09:59:57 +0000\nMIME-Version: 1.0\n"
    b"Content-Type: text/plain; charset=utf-8\n\nDear Bob,\n\nlunch at one, as always?\n%s\n"
)


class TraceTests(ScannerCase):
    """
    spamd with the rules that it comes with: the topmost Received field is ours.
    """

    HEAD = HEAD.replace(
        "[deliveries.box]",
        'xclient = ["127.0.0.1"]\n\n[deliveries.box]',
    )

    def scores(self, data: bytes) -> tuple[float, float]:
        """
        @return: what spamd says of a message that it is given as it is, and of the
            same one that comes in through the server.
        """
        spamd = DebianSpamd(self)
        stage = f'use = "spamassassin", socket = "{spamd.endpoint}", timeout = 18'
        stage += ", mark_score = 1e6"
        server = self.server(config({"one": f"{{ {stage} }}"}, head=self.HEAD))
        client = self.dialogue(server.port)
        client.reply()
        client.say("XCLIENT ADDR=203.0.113.25 NAME=smtp.provider.example")
        client.say("EHLO smtp.provider.example", "MAIL FROM:<ann@provider.example>")
        client.say("RCPT TO:<one@example.net>", "DATA")
        client.socket.sendall(data.replace(b"\n", b"\r\n") + b".\r\n")
        self.assertEqual(client.reply()[:3], "250")
        (copy,) = server.arrived("one")
        own = copy.partition(b"\r\n\t(")[0]
        self.assertIn(
            b"Received: from smtp.provider.example (smtp.provider.example [203.0.113.25])", own
        )
        said = re.search(rb"\nX-Spam-Score: (-?[0-9.]+)", copy)
        assert said is not None
        return spamd.score(data.replace(b"\n", b"\r\n")), float(said[1])

    def test_dialUp(self) -> None:
        """That a provider's customer has dialled in does not count for the provider."""
        alone, ours = self.scores(DIALUP + MAIL % (b"ann@provider.example", b"Ann"))
        self.assertGreater(alone, 5)
        self.assertLess(ours, alone - 3)
        self.assertLess(ours, 3)

    def test_forged(self) -> None:
        """A host that the sender writes about himself is not believed."""
        alone, ours = self.scores(FORGED + MAIL % (b"ceo@bank.example", GTUBE.encode()))
        self.assertLess(alone, 920)
        self.assertGreater(ours, 990)


class UsersTests(ScannerCase):
    """
    Settings of recipients' own, from a table.
    """

    def test_table(self) -> None:
        """Thresholds from a file count per recipient, and change without a restart."""
        rspamd = Rspamd(self)
        content = f'{{ use = "rspamd", url = "{rspamd.url}", refuse_score = 15 }}'
        text = HEAD + f"\n[policies.spam]\ncontent = [ {content} ]\n"
        text += '\n[policies.open]\nenvelope = "accept"\n[policies.gone]\nenvelope = "refuse"\n'
        text += '\n[[recipients]]\nmatch = "*@example.net"\npolicy = "spam"\ndeliver = "box"\n'
        text += (
            'check = [ { use = "users", sqlite = "users.db", cache = 0, missing = "refuse" } ]\n'
        )
        server = self.server(text)
        database = sqlite3.connect(f"{server.directory}/users.db")
        self.addCleanup(database.close)
        database.execute(
            "CREATE TABLE users (address TEXT PRIMARY KEY, policy TEXT, refuse_score REAL,"
            " spam_filter INTEGER, allow TEXT, deny TEXT)"
        )
        database.executemany(
            "INSERT INTO users VALUES (?, ?, ?, ?, ?, ?)",
            [
                ("strict@example.net", None, 3, None, None, None),
                ("lax@example.net", None, 9, None, None, None),
                ("off@example.net", None, 3, 0, None, None),
                ("friend@example.net", None, 3, None, "*@client.test", None),
                ("foe@example.net", None, None, None, None, "sender@client.test"),
                ("open@example.net", "open", None, None, None, None),
                ("gone@example.net", "gone", None, None, None, None),
            ],
        )
        database.commit()
        dialogue = self.dialogue(server.port)
        dialogue.reply()
        dialogue.say("EHLO client.test", "MAIL FROM:<sender@client.test> DEFERRALS")
        names = ("foe", "open", "gone", "nobody", "strict")
        replies = dialogue.say(*[f"RCPT TO:<{name}@example.net>" for name in names])
        self.assertEqual([reply[:9] for reply in replies[:4:2]], ["550 5.7.1", "550 5.1.1"])
        self.assertEqual([r[:3] for r in replies], ["550", "250", "550", "550", "352"])
        dialogue.close()
        data = message(subject="score-five")
        names = ("strict", "lax", "off", "friend")
        found = self.codes(server, data, *names)
        self.assertEqual(list(found.values()), ["550", "250", "250", "250"])
        database.execute("UPDATE users SET refuse_score = 4 WHERE address = 'lax@example.net'")
        database.commit()
        found = self.codes(server, data, *names)
        self.assertEqual(list(found.values()), ["550", "550", "250", "250"])
        self.assertEqual(rspamd.scans(), 2)
        self.assertEqual(found["strict"], found["lax"])
        self.assertRegex(server.log, r"off@example\.net> content (spam/1): 250")
        self.assertRegex(server.log, r"friend@example\.net> content (spam/1): 250")

    def test_cohorts(self) -> None:
        """A thousand recipients with three settings are three judgements and one scan."""
        rspamd = Rspamd(self)
        content = f'{{ use = "rspamd", url = "{rspamd.url}" }}'
        text = HEAD + f"\n[policies.spam]\ncontent = [ {content} ]\n"
        text += '\n[[recipients]]\nmatch = "*@example.net"\npolicy = "spam"\ndeliver = "hole"\n'
        text += 'check = [ { use = "users", sqlite = "users.db" } ]\n'
        text += '[deliveries.hole]\nuse = "discard"\n'
        server = self.server(text)
        database = sqlite3.connect(f"{server.directory}/users.db")
        self.addCleanup(database.close)
        database.execute("CREATE TABLE users (address TEXT PRIMARY KEY, refuse_score REAL)")
        rows = ((f"u{n}@example.net", 3.0 + n % 3 * 2) for n in range(100_000))
        database.executemany("INSERT INTO users VALUES (?, ?)", rows)
        database.commit()
        names = [f"u{n * 97}" for n in range(1000)]
        found = self.codes(server, message(subject="score-five"), *names)
        self.assertEqual(
            [found[name] for name in names],
            ["250" if n * 97 % 3 == 2 else "550" for n in range(1000)],
        )
        self.assertEqual(rspamd.scans(), 1)
        self.assertEqual(len(set(re.findall(r"content (spam/\d+)", server.log))), 3)


class FailureTests(ScannerCase):
    """
    Scanners that are down, slow, stopped, or crash in the middle.
    """

    seconds = 2

    def prepare(self) -> Server:
        rspamd, clamd, spamd = Rspamd(self), Clamd(self), Spamd(self)
        self.daemons = [rspamd, clamd, spamd]
        tables = {
            "rspamd": f'use = "rspamd", url = "{rspamd.url}"',
            "clamav": f'use = "clamav", socket = "{clamd.endpoint}"',
            "spamassassin": f'use = "spamassassin", socket = "{spamd.endpoint}"',
        }
        self.policies = {
            f"{name}-{onError}": f'{{ {table}, timeout = {self.seconds}, on_error = "{onError}" }}'
            for name, table in tables.items()
            for onError in ("refuse-temporarily", "accept", "skip")
        }
        return self.server(config(self.policies))

    def check(self, server: Server, subject: str) -> None:
        """
        Nobody scans, and each policy's C{on_error} counts.
        """
        found = self.codes(server, message(subject=subject), *self.policies)
        for name, code in found.items():
            self.assertEqual(code, "451" if name.endswith("refuse-temporarily") else "250", name)

    def test_down(self) -> None:
        """Daemons that are down: each policy's on_error counts, and copies may say so."""
        server = self.prepare()
        found = self.codes(server, message(), *self.policies)
        self.assertEqual(set(found.values()), {"250"})
        for daemon in self.daemons:
            daemon.kill()
        self.check(server, "down")
        for name in ("rspamd", "clamav", "spamassassin"):
            (copy,) = [mail for mail in server.arrived(f"{name}-accept", 2) if b"down" in mail]
            self.assertIn(b"Deferrals-Unscanned: " + name.encode(), copy)
            (copy,) = [mail for mail in server.arrived(f"{name}-skip", 2) if b"down" in mail]
            self.assertNotIn(b"Deferrals-Unscanned", copy)
            self.assertRegex(server.log, rf"not scanned by {name} .*ConnectionRefusedError")

    def test_stopped(self) -> None:
        """
        Daemons under SIGSTOP: on_error within the timeout; soon they are not
        waited for any more; and when they go on, they are asked again.
        """
        server = self.prepare()
        for daemon in self.daemons:
            daemon.freeze()
        threads = [
            threading.Thread(target=self.check, args=(server, f"stopped {n}")) for n in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: server.log.count("is left alone for") == 3, f"breakers\n{server.log}")
        before = server.log.count("TimeoutError")
        self.check(server, "open")
        status = cli("status", "--config", server.path).stdout
        for name in ("rspamd http://", "clamav tcp:", "spamassassin tcp:"):
            self.assertIn(name, status)
        self.assertEqual(status.count("resting") + status.count("probing"), 3, status)
        self.assertEqual(server.log.count("TimeoutError"), before)
        self.assertIn("CircuitOpen: left alone after", server.log)
        for daemon in self.daemons:
            daemon.thaw()

        def working() -> bool:
            self.codes(server, message(), *self.policies)
            return server.log.count("works again") == 3

        until(working, f"all of them work again\n{server.log}")
        found = self.codes(server, message(), *self.policies)
        self.assertEqual(set(found.values()), {"250"})
        self.assertNotIn("Traceback", server.log)

    def test_crash(self) -> None:
        """Daemons that die in the middle of a scan: on_error at once, and asked again later."""
        server = self.prepare()
        for daemon in self.daemons:
            daemon.freeze()
        killer = threading.Timer(1, lambda: [d.signal(signal.SIGKILL) for d in self.daemons])
        killer.start()
        self.check(server, "crash")
        killer.join()
        for daemon in self.daemons:
            daemon.process.process.wait()
            until(lambda daemon=daemon: not daemon.listens(), "its port is free")
            daemon.start()
        found = self.codes(server, message(), *self.policies)
        self.assertEqual(set(found.values()), {"250"})
        self.assertNotIn("Traceback", server.log)

    def test_flood(self) -> None:
        """
        More messages at once than the daemons do at once: they wait, each gets
        an answer, and nobody takes the queue for a failure.
        """
        self.seconds = 15
        server = self.prepare()
        names = [name for name in self.policies if name.endswith("refuse-temporarily")]
        codes: list[str] = []

        def send(number: int) -> None:
            for again in range(5):
                subject = f"flood {number} {again}"
                codes.extend(self.codes(server, message(subject=subject), *names).values())

        threads = [threading.Thread(target=send, args=(n,)) for n in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(codes), 450)
        self.assertEqual(set(codes), {"250"})
        self.assertNotIn("left alone", server.log)
        for name in names:
            server.arrived(name, 150)


class MixedTests(ScannerCase):
    """
    Several scanners, and recipients who think differently of what they find.
    """

    def prepare(self, page: str, **files: str) -> Server:
        """
        A recipe of the documentation, with our daemons in place of its own.
        """
        self.rspamd, self.clamd = Rspamd(self), Clamd(self)
        with open(os.path.join(ROOT, "docs", "recipes", page), encoding="utf-8") as file:
            text = file.read()
        config = text.partition("```toml\n")[2].partition("```")[0]
        for place, ours in (
            ("tcp:25", "tcp:0:interface=127.0.0.1"),
            ("http://127.0.0.1:11333", self.rspamd.url),
            ("unix:/run/clamav/clamd.ctl", self.clamd.unix),
        ):
            self.assertIn(place, config)
            config = config.replace(place, ours)
        server = self.server(config)
        script = text.partition("```sql\n")[2].partition("```")[0]
        for name in files.values():
            with contextlib.closing(sqlite3.connect(f"{server.directory}/{name}")) as database:
                database.executescript(script)
        return server

    def test_refuseOrJunk(self) -> None:
        """
        GTUBE, and then EICAR, from Exim to those who refuse and to those who
        want to see it: each recipient's own reply, and a copy of its own.
        """
        server = self.prepare("refuse-or-junk.md")
        exim = Exim(self, f"127.0.0.1::{server.port}")
        to = [f"{local}@example.net" for local in ("anna", "sales", "boris")]
        exim.send(message(GTUBE, subject="gtube"), "me@client.test", *to)
        exim.send(attached(EICAR), "me@client.test", *to)
        log = exim.log()
        for local in ("anna", "boris"):
            for text in ("Gtube pattern", "it carries a virus"):
                self.assertRegex(log, rf"\*\* {local}@example\.net .*PRDR.*: 550 5\.7\.1 .*{text}")
        self.assertEqual(len(re.findall(r"(=>|->) sales@example\.net .* PRDR .*C=\"250", log)), 2)
        copies = {
            subject: mail
            for mail in server.arrived("sales/.Junk", 2)
            for subject in re.findall(rb"\r\nSubject: ([^\r]*)", mail)
        }
        self.assertEqual(set(copies), {b"[spam] gtube", b"[virus] a file"})
        self.assertIn(b"\r\nX-Spam: Yes\r\n", copies[b"[spam] gtube"])
        self.assertIn(b"\r\nX-Virus: Test.Eicar.UNOFFICIAL\r\n", copies[b"[virus] a file"])
        for mail in copies.values():
            for other in (b"anna", b"boris"):
                self.assertNotIn(other + b"@", mail)
        self.assertEqual(server.mail("anna") + server.mail("boris") + server.mail("sales"), [])
        self.assertEqual((self.rspamd.scans(), self.clamd.scans()), (2, 2))

    def test_consent(self) -> None:
        """Recipients that have agreed refuse; the others have it all, marked."""
        server = self.prepare("consent.md", table="consent.db")
        names = ("anna", "boris", "carla")
        found = self.codes(server, message(subject="score-five"), *names)
        self.assertEqual(list(found.values()), ["550", "250", "250"])
        found = self.codes(server, message(subject="score-twenty"), *names)
        self.assertEqual(list(found.values()), ["550", "250", "250"])
        found = self.codes(server, attached(EICAR), *names)
        self.assertEqual(list(found.values()), ["550", "250", "250"])
        self.assertEqual(len(server.arrived("carla/.Junk", 2)), 2)
        with contextlib.closing(sqlite3.connect(f"{server.directory}/consent.db")) as database:
            database.execute("UPDATE consent SET withdrawn_at = datetime('now')")
            database.commit()
        data = message(subject="score-five")
        until(lambda: self.codes(server, data, "anna") == {"anna": "250"}, "anna has withdrawn")


class HostileTests(ScannerCase):
    """
    Messages that are made to cost, while other mail flows.
    """

    RULES = """{ use = "match", rules = [
  { file_type = ["exe"], reply = "550 5.7.1 a program" },
  { archive = ["*.exe"], reply = "550 5.7.1 a program in an archive" },
  { attachment = ["*.scr"] },
  { test = "unreadable-archive", reply = "550 5.7.1 unreadable" },
  { body = true, pattern = "(a+)+$b" },
  { test = "gtube" },
  { test = "eicar" },
] }"""

    def test_whileMailFlows(self) -> None:
        """
        Bombs, ten thousand parts, fields that cost: each has its answer within
        the deadline, and other senders have theirs meanwhile.
        """
        head = HEAD.replace("reply_deadline = 20", "reply_deadline = 50")
        server = self.server(config({"judged": self.RULES, "plain": ""}, head=head))
        zeros = gzip.compress(b"\0" * (300 << 20))
        part = b"--b\nContent-Type: text/plain; name=a.txt\n\nhello\n"
        costly = b'--b\nContent-Type: text/plain; name="' + b";" * 60_000 + b"\n\nhello\n"
        multipart = b"Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n"
        cases = {
            "a bomb": (attached(zeros), "unreadable"),
            "a bomb in a zip": (attached(zipped({"in.gz": zeros})), "unreadable"),
            "a zip in a zip": (
                attached(zipped({"in.zip": zipped({"evil.exe": b"MZ"})})),
                "a program in an archive",
            ),
            "a program": (attached(b"MZ\x90\0\3" + b"\0" * 100), "a program"),
            "ten thousand parts": (multipart + part * 10_000 + b"--b--\n", "250"),
            "too many parts": (multipart + part * 30_000 + b"--b--\n", "a MIME structure"),
            "fields that cost": (multipart + costly * 40 + b"--b--\n", "a MIME structure"),
            "a's": (message("a" * 900 + "\n" + "a" * 900), "250"),
        }
        replies: dict[str, str] = {}
        threads = [
            threading.Thread(
                target=lambda name=name, data=data: replies.update(
                    {name: self.ask(server, data, "judged")["judged"]}
                )
            )
            for name, (data, _) in cases.items()
        ]
        for thread in threads:
            thread.start()
        others = 0
        while any(thread.is_alive() for thread in threads) or not others:
            self.assertEqual(self.codes(server, message(), "plain"), {"plain": "250"})
            others += 1
        for name, (_, wanted) in cases.items():
            self.assertIn(wanted, replies[name], name)
        self.assertNotIn("Traceback", server.log)
