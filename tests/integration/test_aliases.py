"""
Aliases, between programs that others have written: stock Exim sends to them, Postfix
reads the same files.
"""

from __future__ import annotations

import os
import random
import smtplib
import subprocess
from email.utils import getaddresses

from deferrals.model.aliasfile import Format, readBook
from tests.integration.daemons import Exim
from tests.integration.support import IntegrationCase, Server, cli, crlf, program, run, spam, until

CONFIG = """
hostname = "mx.example.net"
bounces = "back"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[deliveries.box]
use = "maildir"
path = "mail/{local}"

[deliveries.back]
use = "maildir"
path = "mail/sender"

[policies.open]
envelope = "accept"

[policies.spam]
content = [ { use = "match", rules = [
  { test = "gtube", reply = "550 5.7.1 spam is not wanted" },
] } ]
quarantine = { use = "maildir", path = "mail/quarantine" }

[policies.virus]
content = [ { use = "match", rules = [ { test = "eicar" } ] } ]
quarantine = { use = "maildir", path = "mail/quarantine" }

[policies.later]
content = [ { use = "match", rules = [
  { header = "Subject", pattern = ".", reply = "450 4.2.0 being moved" },
] } ]
quarantine = { use = "maildir", path = "mail/quarantine" }

[[recipients]]
match = "postmaster@example.net"
policy = "open"
deliver = "box"

[[recipients]]
match = "lover@example.net"
policy = "virus"
deliver = "box"

[[recipients]]
match = "fighter@example.net"
policy = "spam"
deliver = "box"

[[recipients]]
match = "moving@example.net"
policy = "later"
deliver = "box"

[[recipients]]
match = "*@example.net"
policy = "spam"
deliver = "box"
check = [ { use = "aliases", file = "aliases" } ]

[[recipients]]
match = "*"
policy = "spam"
deliver = "box"
allow = ["members"]
"""

TEXT = crlf(b"Subject: x\nMessage-ID: <1@client.test>\n\ntext\n")

ALIASES = """\
three: postmaster, lover, fighter
strict: fighter, boxer
moved: lover, moving
nested: three, strict, outside@elsewhere.test
broken: "|cat"
again: nested, again
"""


def begin(case: IntegrationCase, aliases: str) -> Server:
    """
    A server with these aliases.
    """
    server = case.server(CONFIG)
    with open(os.path.join(server.directory, "aliases"), "w", encoding="ascii") as file:
        file.write(aliases)
    return server


class EximTests(IntegrationCase):
    """
    Stock Exim, which asks for PRDR.
    """

    def start(self, aliases: str = ALIASES) -> None:
        self.mx = begin(self, aliases)
        self.exim = Exim(self, f"127.0.0.1::{self.mx.port}")

    def test_three(self) -> None:
        """
        Three members of three policies, and a recipient beside: Exim has one answer for each
        address that it named; the refuser's copy is filed; nothing shows the members.
        """
        self.start()
        named = ("three@example.net", "fighter2@example.net", "strict@example.net")
        self.exim.send(spam(), "me@client.test", *named)
        log = self.exim.log()
        self.assertRegex(log, r"[=-]> three@example\.net .*PRDR")
        for local in ("fighter2", "strict"):
            self.assertRegex(log, rf"\*\* {local}@example\.net .*PRDR.*: 550 5\.7\.1 ")
        for member in ("lover", "postmaster", "boxer"):
            self.assertNotIn(member, log)
        for local in ("postmaster", "lover"):
            (mail,) = self.mx.arrived(local)
            self.assertIn(f"for <{local}@example.net>".encode(), mail)
            self.assertNotIn(b"three@", mail.partition(b"\n\n")[0].replace(b"To: three", b""))
        (mail,) = self.mx.arrived("quarantine")
        self.assertIn(b"X-Deferrals-Refused: 550 5.7.1 spam is not wanted", mail)
        self.assertEqual((self.mx.mail("fighter"), self.mx.mail("sender")), ([], []))

    def test_days(self) -> None:
        """A member that refuses for now, for days: three delays, then the others have it."""
        self.start()
        self.exim.send(TEXT, "me@client.test", "moved@example.net")
        for number in range(3):
            self.assertEqual(self.exim.log().count(" defer ("), number + 1, self.exim.log())
            self.assertEqual(self.mx.mail("lover"), [])
            self.exim.flush()
        self.assertEqual(len(self.mx.arrived("lover")), 1)
        self.assertRegex(self.exim.log(), r"[=-]> moved@example\.net ")
        self.assertEqual(len(self.mx.arrived("quarantine")), 1)
        self.assertNotIn("moving@", self.exim.log())

    def test_nested(self) -> None:
        """Aliases in aliases, a loop, a member elsewhere; each mailbox has one copy."""
        self.start()
        self.exim.send(TEXT, "me@client.test", "again@example.net", "lover@example.net")
        for local in ("postmaster", "lover", "fighter", "boxer", "outside", "again"):
            self.assertEqual(len(self.mx.arrived(local)), 1, local)
        named = ("broken@example.net", "outside@elsewhere.test")
        self.exim.send(TEXT, "me@client.test", *named)
        self.assertIn("451 4.3.0 <broken@example.net>", self.exim.log())
        self.assertRegex(self.exim.log(), r"\*\* outside@elsewhere\.test .*550 5\.7\.1")


class SeenTests(IntegrationCase):
    """
    What senders and operators see.
    """

    def test_notices(self) -> None:
        """NOTIFY=SUCCESS: one notice, about the alias, that it was expanded."""
        mx = begin(self, ALIASES)
        with smtplib.SMTP("127.0.0.1", mx.port) as client:
            rcpt = ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;first@example.org"]
            client.sendmail(
                "me@client.test",
                ["three@example.net"],
                TEXT,
                mail_options=["ENVID=abc"],
                rcpt_options=rcpt,
            )
        (notice,) = mx.arrived("sender")
        for line in (
            b"Action: expanded",
            b"Original-Recipient: rfc822; first@example.org",
            b"Final-Recipient: rfc822; three@example.net",
            b"Original-Envelope-Id: abc",
        ):
            self.assertEqual(notice.count(line), 1, line)
        for member in (b"lover", b"fighter", b"postmaster"):
            self.assertNotIn(member, notice)

    def test_explain(self) -> None:
        """The log and C{deferrals explain} name the members with their alias."""
        mx = begin(self, ALIASES)
        with smtplib.SMTP("127.0.0.1", mx.port) as client:
            client.sendmail("me@client.test", ["three@example.net"], spam())
        until(lambda: mx.log.count("delivered by") == 3, mx.log)
        path = os.path.join(mx.directory, "server-1.log")
        explained = cli("explain", "--config", mx.path, "--log", path, "three@example.net").stdout
        for member, what in (
            ("postmaster", "envelope open/"),
            ("lover", "content virus/"),
            ("fighter", "content spam/"),
            ("fighter", "refuses what others accept: filed"),
            ("lover", "delivered by box"),
        ):
            wanted = rf"to=<{member}@example\.net> alias=<three@example\.net> {what}"
            self.assertRegex(explained, wanted)
        self.assertRegex(explained, r"to=<three@example\.net> content alias/\d: 250")

    def test_many(self) -> None:
        """100,000 aliases: the port answers while they are read; a change counts at once."""
        many = "".join(f"a{number}: b{number}, lover\n" for number in range(100_000))
        mx = begin(self, many)
        with smtplib.SMTP("127.0.0.1", mx.port) as client:
            client.ehlo("c")
            client.mail("me@client.test")
            for number in range(0, 100_000, 2500):
                self.assertEqual(client.rcpt(f"a{number}@example.net")[0], 250)
            path = os.path.join(mx.directory, "aliases")
            with open(path, "a", encoding="ascii") as file:
                file.write("newcomer:\n")
            until(lambda: client.rcpt("newcomer@example.net")[0] == 550, "a change counts")


class PostfixTests(IntegrationCase):
    """
    Files as real Postfix reads them.
    """

    def compared(self, form: Format, text: str, keys: list[str]) -> int:
        """
        Compare what Postfix finds with what is found here.

        @return: how many of the keys are there.
        """
        tool = program("postalias" if form == "aliases" else "postmap")
        directory = self.directory()
        path = os.path.join(directory, "map")
        for name, said in (("main.cf", "compatibility_level = 3.6\n"), ("master.cf", "")):
            with open(os.path.join(directory, name), "w", encoding="ascii") as file:
                file.write(said)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        made = run([tool, "-c", directory, f"hash:{path}"])
        self.assertEqual(made.returncode, 0, made.stderr)
        query = "".join(f"{key}\n" for key in keys).encode()
        asked = subprocess.run(
            [tool, "-c", directory, "-q", "-", f"hash:{path}"],
            input=query,
            stdout=subprocess.PIPE,
            check=False,
            timeout=60,
        )
        lines = [line.split("\t", 1) for line in asked.stdout.decode().splitlines()]
        found = {name.removesuffix(":"): members for name, members in lines}
        book = readBook(text, form)
        for key in keys:
            there = book.members.get(key.lower())
            if key not in found:
                self.assertIsNone(there, f"{key!r} in\n{text}")
                continue
            theirs = [address for _, address in getaddresses([found[key]]) if address]
            self.assertIsNotNone(there, f"{key!r}: {found[key]!r} in\n{text}")
            self.assertEqual(list(there or ()), theirs, f"{key!r} in\n{text}")
        return len(found)

    def test_aliases(self) -> None:
        """Files of aliases: comments, blanks, lines that go on, capitals, quotes."""
        chance = random.Random(7)
        names = ["root", "Anna", "bert.b", "c-d", "list+x", "a b", "x_y"]
        names += [f"{name} {number}"[-9:] for name in names[:3] for number in range(10)]
        keys, there = [one.lower() for one in names], 0
        for _ in range(8):
            lines = []
            for name in chance.sample(names, chance.randrange(1, len(names))):
                shown = f'"{name}"' if " " in name or chance.random() < 0.2 else name
                lines.append(f"{shown}{chance.choice([':', ': ', ' : '])}{self.members(chance)}")
                if chance.random() < 0.3:
                    lines.append(chance.choice(["# comment: x", "", "   # within", "  "]))
            there += self.compared("aliases", "\n".join(lines) + "\n", keys)
        self.assertGreater(there, 80)

    def test_virtual(self) -> None:
        """Virtual alias maps: addresses, domains, names."""
        chance = random.Random(8)
        names = ["anna@example.net", "Bert@Example.NET", "@old.example", "carl", "d+e@example.net"]
        names += [f"{number}{name}" for name in names[:2] for number in range(10)]
        keys, there = [one.lower() for one in names], 0
        for _ in range(8):
            lines = []
            for name in chance.sample(names, chance.randrange(1, len(names) + 1)):
                lines.append(f"{name}{chance.choice([' ', chr(9), '   '])}{self.members(chance)}")
                if chance.random() < 0.3:
                    lines.append(chance.choice(["# comment", "", "   # within"]))
            there += self.compared("virtual", "\n".join(lines) + "\n", keys)
        self.assertGreater(there, 80)

    def members(self, chance: random.Random) -> str:
        one = ["anna", "bert@example.org", "carl.c", "d@new.example"]
        found = chance.sample(one, chance.randrange(1, len(one) + 1))
        if chance.random() < 0.2:
            found.append("Eve E. <eve@example.org>")
        return chance.choice([", ", ",", " , ", ",\n  ", ",\n# between\n\t"]).join(found)
