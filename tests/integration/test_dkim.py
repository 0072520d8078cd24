"""
Signatures, as opendkim and rspamd find them, behind a real Postfix.
"""

from __future__ import annotations

import json
import os
import re
import smtplib
import urllib.request
from collections.abc import Iterable

from tests import signatures
from tests.integration.daemons import Postfix
from tests.integration.scanners import VerifyingRspamd
from tests.integration.support import (
    IntegrationCase,
    Server,
    cli,
    program,
    run,
    takesAll,
)
from tests.ports import freePort
from tests.zone import Zone

USER = "me@client.test"

#: Users' mail goes out through a smarthost; so do notices, and what comes in for a domain
#: whose server refuses it.
SENDER = """
hostname = "mx.client.test"
bounces = "out"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
protocol = "submission"
auth_without_tls = true

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1:backlog=20"

{keys}

[deliveries.out]
use = "smtp"
endpoint = "tcp:127.0.0.1:{smarthost}"
retry = 1

[policies.open]
envelope = "accept"

[[recipients]]
match = "*@refused.test"
policy = "open"
deliver = {{ use = "smtp", endpoint = "tcp:127.0.0.1:{far}", retry = 1 }}

[[recipients]]
match = "*"
policy = "open"
allow = ["authenticated"]
deliver = "out"
"""

#: Each with its own way of being hard to sign.
MAILS = {
    "plain": b"Subject: plain\r\n\r\nhello\r\n",
    "eight": "Subject: eight\r\n  folded\ttwice \r\n\r\nGr\u00fc\u00dfe  \r\n\r\n\r\n".encode(),
    "dots": b"Subject: dots\r\n\r\n.\r\n..x\r\n . \r\n\r\n.end",
    "long": b"Subject: long\r\n\r\n" + b"y" * 990 + b"\r\n" + b"x " * 450 + b"\r\n",
    "large": b"Subject: large\r\n\r\n" + (b"z" * 70 + b" \r\n") * 20_000,
}


class OpenDKIM:
    """
    The verifier that is asked with files, and knows keys without DNS.
    """

    def __init__(self, case: IntegrationCase, zone: dict[str, bytes]) -> None:
        self._program = program("opendkim", "/usr/sbin/opendkim")
        self._directory = case.directory()
        text = "".join(f"{name.rstrip('.')} {one.decode()}\n" for name, one in zone.items())
        self._conf = self._write("opendkim.conf", f"TestPublicKeys {self._write('keys', text)}\n")

    def _write(self, name: str, content: str | bytes) -> str:
        path = os.path.join(self._directory, name)
        with open(path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        return path

    def finds(self, octets: bytes) -> str:
        """
        @return: what it says of a message that has one signature.
        """
        path = self._write("message.eml", octets)
        done = run([self._program, "-x", self._conf, "-t", path])
        return done.stdout + done.stderr


def each(octets: bytes) -> Iterable[bytes]:
    """
    @return: the message with one of its signatures at a time.
    """
    pattern = rb"(?im)^dkim-signature:[^\n]*\n(?:[ \t][^\n]*\n)*"
    found = re.findall(pattern, octets)
    rest = re.sub(pattern, b"", octets)
    return [one + rest for one in found]


class SignedTests(IntegrationCase):
    """
    Our server in front of a Postfix, with another one of ours as the far side.
    """

    if signatures.MISSING:
        skip = signatures.MISSING

    def setUp(self) -> None:
        self.keys = [
            signatures.key(kind, domain)
            for domain in ("client.test", "mx.client.test")
            for kind in ("rsa", "ed25519")
        ]
        self.dns = signatures.zone(self.keys)
        self.opendkim = OpenDKIM(self, self.dns)
        self.records = {(name.rstrip("."), "TXT"): [one.decode()] for name, one in self.dns.items()}
        self.zone = Zone(self.records)
        self.addCleanup(self.zone.close)
        self.rspamd: VerifyingRspamd | None = None
        refusing = '[policies.no]\nenvelope = "refuse"\n[[recipients]]\nmatch = "*@refused.test"\n'
        tables = f'{refusing}policy = "no"\n'
        self.far: Server = self.server(takesAll(match="*", tables=tables))
        self.postfix = Postfix(self, f"smtp:[127.0.0.1]:{self.far.port}")

    def startRspamd(self) -> None:
        """
        From now on it is asked, too.
        """
        host, port = self.zone.address
        self.rspamd = VerifyingRspamd(self, f"{host}:{port}")

    def sender(self, *selectors: str) -> Server:
        """
        @param selectors: those of the keys that are used.
        """
        directory = self.directory()
        tables = ""
        for key in self.keys:
            if key.selector in selectors:
                path = os.path.join(directory, f"{key.domain}.{key.selector}.pem")
                with open(path, "wb") as file:
                    file.write(signatures.pem(key.kind))
                os.chmod(path, 0o600)
                tables += f'[[dkim]]\ndomain = "{key.domain}"\nselector = "{key.selector}"\n'
                tables += f'key = "{path}"\n'
        passwords = os.path.join(directory, "passwords")
        done = cli("passwd", passwords, USER, data=b"secret\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        config = SENDER.format(keys=tables, smarthost=self.postfix.port, far=self.far.port)
        return self.server(config, "--auth", f"passwd:{passwords}")

    def submit(self, server: Server, recipient: str, mail: bytes) -> None:
        with smtplib.SMTP("127.0.0.1", server.ports[0], timeout=60) as client:
            client.login(USER, "secret")
            head = f"From: Me <{USER}>\r\nTo: {recipient}@far.test\r\n".encode()
            client.sendmail(USER, [f"{recipient}@far.test"], head + mail, ["BODY=8BITMIME"])

    def arrived(self, local: str) -> bytes:
        """
        @return: what the far side has got, as it was on the wire.
        """
        (copy,) = self.far.arrived(local)
        return copy.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")

    def rspamdAgrees(self, octets: bytes) -> bool:
        """
        Whether rspamd finds a right signature in a message from outside.
        """
        assert self.rspamd is not None
        headers = {"IP": "192.0.2.1", "From": USER, "Rcpt": "x@far.test"}
        request = urllib.request.Request(f"{self.rspamd.url}/checkv2", octets, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return "R_DKIM_ALLOW" in json.load(answer)["symbols"]

    def isRight(self, octets: bytes, domain: str, count: int) -> None:
        found = list(each(octets))
        self.assertEqual(len(found), count)
        for one in found:
            said = self.opendkim.finds(one)
            self.assertRegex(said, rf"verification \(s=\w+, d={domain}, .*\) succeeded")
            self.assertTrue(self.rspamd is None or self.rspamdAgrees(one), one)

    def test_strangers(self) -> None:
        """
        All kinds of mail, through Postfix, which sees it as any, and a notice: each of
        two signatures is right for both; what is changed is found by both.
        """
        self.startRspamd()
        server = self.sender("rsa", "ed25519")
        for name, mail in MAILS.items():
            self.submit(server, name, mail)
        for name in MAILS:
            self.isRight(self.arrived(name), "client.test", 2)
        octets = self.arrived("plain")
        for old, new in (
            (b"hello", b"hallo"),
            (b"Subject: plain", b"Subject: other"),
            (b"From: Me", b"From: x@client.test\r\nFrom: Me"),
        ):
            self.assertIn(old, octets)
            for one in each(octets.replace(old, new)):
                self.assertIn("failed", self.opendkim.finds(one))
                self.assertFalse(self.rspamdAgrees(one))
        self.notice(server)

    def test_rotation(self) -> None:
        """A reload signs with another key; a restart with the same key changes nothing."""
        server = self.sender("rsa")
        self.submit(server, "before", MAILS["plain"])
        self.isRight(self.arrived("before"), "client.test", 1)
        path = os.path.join(server.directory, "deferrals.toml")
        with open(path, encoding="utf-8") as file:
            config = file.read()
        for key in self.keys:
            if key.kind == "ed25519":
                name = os.path.join(server.directory, f"{key.domain}.pem")
                with open(name, "wb") as pem:
                    pem.write(signatures.pem("ed25519"))
                config = config.replace(
                    "[deliveries.out]",
                    f'[[dkim]]\ndomain = "{key.domain}"\nselector = "ed25519"\nkey = "{name}"\n'
                    "[deliveries.out]",
                )
        with open(path, "w", encoding="utf-8") as file:
            file.write(config)
        done = cli("reload", "--config", path)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.submit(server, "both", MAILS["eight"])
        self.isRight(self.arrived("both"), "client.test", 2)

    def notice(self, server: Server) -> None:
        """
        A notice to a sender elsewhere is signed by this server's own name.
        """
        with smtplib.SMTP("127.0.0.1", server.ports[1], timeout=60) as client:
            client.sendmail("stranger@far.test", ["x@refused.test"], b"Subject: x\r\n\r\nx\r\n")
        octets = self.arrived("stranger")
        self.assertIn(b"multipart/report", octets)
        self.isRight(octets, "mx.client.test", 2)

    def test_check(self) -> None:
        """What C{dkim check} says of a name server that has all, and of one key less."""
        server = self.sender("rsa", "ed25519")
        path = os.path.join(server.directory, "deferrals.toml")
        with open(path, encoding="utf-8") as file:
            config = file.read()
        host, port = self.zone.address
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'dns = ["{host}:{port}"]\n{config}')
        done = cli("dkim", "check", "--config", path)
        self.assertEqual((done.returncode, done.stdout.count(": good\n")), (0, 4), done.stderr)
        del self.records["rsa._domainkey.client.test", "TXT"]
        done = cli("dkim", "check", "client.test", "--config", path)
        self.assertEqual(done.returncode, 1)
        self.assertIn("rsa._domainkey.client.test: there is no TXT record", done.stdout)
        text = config.replace("\n", f'\ndns = ["127.0.0.1:{freePort()}"]\n', 1)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        done = cli("dkim", "check", "client.test", "--config", path)
        self.assertEqual(done.returncode, 2)
        self.assertIn("deferrals: rsa._domainkey.client.test: ", done.stderr)
