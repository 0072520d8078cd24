"""
Users' scripts, with Pigeonhole's own program: stock Exim's answers, a real Dovecot that
has the same scripts, and a program that fails in the middle.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import socket
from collections import Counter

from deferrals.stages.content.sieve import R550_NO_REASON
from tests.integration.daemons import Exim
from tests.integration.scripts import Author, messages
from tests.integration.stores import NOBODY, Dovecot
from tests.integration.support import IntegrationCase, crlf, message, program, until
from tests.rigs import rig

#: So many scripts are compared with what Dovecot makes of them, a part with each message.
SCRIPTS = int(os.environ.get("DEFERRALS_SCRIPTS", rig(20, 40)))
SEED = os.environ.get("DEFERRALS_SEED", "scripts")
AT_ONCE = 50

CONFIG = """
hostname = "mx.example.net"
bounces = "none"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[policies.own]
content = [ {{ use = "sieve", path = "{scripts}", timeout = 30{more} }} ]

[[recipients]]
match = "*@example.net"
policy = "own"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}
"""

STORE = """
sendmail_path = $DIR/sendmail
lda_mailbox_autocreate = no
protocol lmtp {
  mail_plugins = quota sieve
}
"""

#: Notes what the store sends.
SENDMAIL = '#!/bin/sh\nout=$(mktemp $(dirname $0)/sent/XXXXXXXX)\n{ echo "$*"; cat; } > $out\n'

SCRIPTS_OF = {
    "anna": 'require "reject"; if header :contains "Subject" "test" { reject "Not to me"; }',
    "ben": "discard;",
    "carl": 'require "fileinto"; fileinto "INBOX"; discard;',
}


class EximTests(IntegrationCase):
    """
    Stock Exim with PRDR.
    """

    def setUp(self) -> None:
        program("sieve-test")
        self.scripts = self.directory()
        for local, text in SCRIPTS_OF.items():
            self.write(local, text)

    def write(self, local: str, text: str) -> None:
        with open(f"{self.scripts}/{local}.sieve", "w", encoding="utf-8") as file:
            file.write(text)

    def begin(self, more: str = "") -> None:
        self.mx = self.server(CONFIG.format(scripts=f"{self.scripts}/{{local}}.sieve", more=more))
        self.exim = Exim(self, f"127.0.0.1::{self.mx.port}")

    def send(self) -> str:
        named = [f"{local}@example.net" for local in SCRIPTS_OF]
        self.exim.send(message(), "me@client.test", *named)
        return self.exim.log()

    def test_three(self) -> None:
        """
        Three recipients, three fates: one script refuses, with its user's text; one throws
        the message away, which the sender does not learn; one files it, which is the
        store's affair.
        """
        self.begin()
        log = self.send()
        self.assertRegex(log, r"\*\* anna@example\.net .*PRDR.*: 550 5\.7\.1 .*Not to me")
        for local in ("ben", "carl"):
            self.assertRegex(log, rf"[=-]> {local}@example\.net .*PRDR")
        self.mx.arrived("carl")
        until(lambda: "discarded" in self.mx.log, "a line of the log")
        self.assertRegex(self.mx.log, r"ben@example\.net.*discarded")
        self.assertEqual((self.mx.mail("anna"), self.mx.mail("ben")), ([], []))

    def test_changed(self) -> None:
        """A script that its user changes counts for the next message."""
        self.begin()
        self.send()
        self.write("anna", "keep;")
        self.write("carl", 'require "reject"; reject "Now not";')
        self.send()
        self.mx.arrived("anna")
        self.assertRegex(self.exim.log(), r"\*\* carl@example\.net .*: 550 5\.7\.1 .*Now not")

    def test_missing(self) -> None:
        """A program that is not there leaves all to the store, and the log says why."""
        self.begin(', program = "no-such-program"')
        self.assertNotIn("**", self.send())
        for local in SCRIPTS_OF:
            self.mx.arrived(local)
        said = r"anna@example\.net> .*left to the store: .*there is no program no-such-program"
        self.assertRegex(self.mx.log, said)


class DovecotTests(IntegrationCase):
    """
    What a real store makes of the same scripts and messages.
    """

    def setUp(self) -> None:
        program("sieve-test")
        locals_ = [f"user{number}" for number in range(SCRIPTS)]
        self.locals = locals_
        self.dovecot = Dovecot(self, STORE, [f"{local}@example.net" for local in locals_])
        directory = self.dovecot.directory
        self.sent = os.path.join(directory, "sent")
        os.mkdir(self.sent)
        os.chmod(self.sent, 0o777)
        with open(f"{directory}/sendmail", "w", encoding="ascii") as file:
            file.write(SENDMAIL)
        os.chmod(f"{directory}/sendmail", 0o755)
        self.texts = {}
        for local in locals_:
            home = self.home(local)
            os.mkdir(home)
            os.chown(home, NOBODY, NOBODY)
            self.texts[local] = text = Author(SEED, local).script()
            with open(f"{home}/.dovecot.sieve", "w", encoding="utf-8") as file:
                file.write(text)
        scripts = f"{self.dovecot.mailDirectory}/{{address}}/.dovecot.sieve"
        lmtp = CONFIG.replace("[[listen]]", '[[listen]]\nprotocol = "lmtp"')
        self.mx = self.server(lmtp.format(scripts=scripts, more=""))

    def home(self, local: str) -> str:
        return f"{self.dovecot.mailDirectory}/{local}@example.net"

    def lmtp(
        self, connection: socket.socket, sender: str, data: bytes, locals_: list[str]
    ) -> dict[str, str]:
        """
        @return: the last reply for each.
        """
        file = connection.makefile("rb")

        def said(count: int) -> list[str]:
            found = []
            while len(found) < count:
                line = file.readline().decode("utf-8", "replace").rstrip()
                if line[3:4] != "-":
                    found.append(line)
            return found

        rcpts = "".join(f"RCPT TO:<{local}@example.net>\r\n" for local in locals_)
        head = f"LHLO client.test\r\nMAIL FROM:<{sender}>\r\n{rcpts}DATA\r\n"
        said(1)
        connection.sendall(head.encode("ascii"))
        replies = said(3 + len(locals_))
        self.assertEqual({one[:1] for one in replies[:-1]} | {replies[-1][:3]}, {"2", "354"})
        connection.sendall(crlf(data) + b".\r\n")
        final = dict(zip(locals_, said(len(locals_)), strict=True))
        connection.close()
        return final

    def ours(self, sender: str, data: bytes, locals_: list[str]) -> dict[str, tuple[str, str]]:
        """
        What is decided for each, C{reject}, C{discard} or C{store}; and the user's text.
        """
        connection = socket.create_connection(("127.0.0.1", self.mx.port), timeout=60)
        replies = self.lmtp(connection, sender, data, locals_)
        refused = {local: one for local, one in replies.items() if one.startswith("550 5.7.1")}
        accepted = [local for local in locals_ if local not in refused]
        self.assertEqual({replies[local][:3] for local in accepted} - {"250"}, set())
        for local in accepted:
            until(lambda local=local: self.isDone(local), f"the mail of {local}\n{self.mx.log}")
        found = {}
        for local, reply in replies.items():
            text = reply.partition("> ")[2].rpartition(" (id ")[0]
            stored = "store" if self.mx.mail(local) else "discard"
            found[local] = ("reject", text) if local in refused else (stored, "")
        return found

    def isDone(self, local: str) -> bool:
        """
        Whether its mail has come, or has been thrown away.
        """
        gone = rf"to=<{local}@example\.net> discarded"
        return bool(self.mx.mail(local)) or re.search(gone, self.mx.log) is not None

    def theirs(self, sender: str, data: bytes, locals_: list[str]) -> dict[str, tuple[str, str]]:
        """
        The same of the store: it sends a report, it has the message or sends it on, or
        nothing of it is left.
        """
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(self.dovecot.socket)
        replies = self.lmtp(connection, sender, data, locals_)
        self.assertEqual({reply[:3] for reply in replies.values()}, {"250"}, replies)
        found: dict[str, tuple[str, str]] = {}
        for path in glob.glob(f"{self.sent}/*"):
            with open(path, encoding="utf-8", errors="replace", newline="") as file:
                words, _, text = file.read().partition("\n")
            report = re.search(r"rejected:\r?\n(.*?)\r?\n--", text, re.S)
            if "report-type=disposition-notification" in text and report is not None:
                who = re.findall(r"Final-Recipient: rfc822; (\w+)@", text)[0]
                reason = " ".join(report[1].split()).encode("ascii", "replace")
                said = reason.decode("ascii")  # as a client reads it
                found[who] = ("reject", said or R550_NO_REASON.text)
            else:
                (who,) = set(re.findall(r"(user\d+)@", words + text)) or {""}
                found.setdefault(who, ("store", ""))
        for local in locals_:
            stored = glob.glob(f"{self.home(local)}/Maildir/**/new/*", recursive=True)
            stored += glob.glob(f"{self.home(local)}/Maildir/**/cur/*", recursive=True)
            if stored:  # whatever it has sent besides
                found[local] = ("store", "")
            found.setdefault(local, ("discard", ""))
        return found

    def forget(self) -> None:
        """
        No message has come to the store, or to us.
        """
        for pattern in (f"{self.sent}/*", f"{self.dovecot.mailDirectory}/*/Maildir"):
            for path in glob.glob(pattern):
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        shutil.rmtree(os.path.join(self.mx.directory, "mail"), ignore_errors=True)

    def test_same(self) -> None:
        """
        What is refused or thrown away before the reply is what the store would have
        rejected or discarded, in the same words, and nothing else is.
        """
        counts: Counter[str] = Counter()
        groups = [self.locals[n : n + AT_ONCE] for n in range(0, SCRIPTS, AT_ONCE)]
        for locals_, (sender, data) in zip(groups, messages(SEED, len(groups)), strict=True):
            ours, theirs = (judge(sender, data, locals_) for judge in (self.ours, self.theirs))
            for local in locals_:
                mine, store = ours[local], theirs[local]
                counts[store[0]] += 1
                if mine[0] == "store" and store[0] == "discard" and "vacation" in self.texts[local]:
                    continue  # an answer that it does not send is the store's affair
                about = f"{local}, seed {SEED}:\n{self.texts[local]}\n{data.decode()[:1000]}"
                self.assertEqual(mine, store, about)
            self.forget()
        self.assertGreater(min(counts[kind] for kind in ("reject", "discard", "store")), 0, counts)
