"""
What C{deferrals init} writes is started, and mail goes through it.
"""

from __future__ import annotations

import os
import smtplib
import ssl

from tests.integration.support import IntegrationCase, Server, cli, message
from tests.tls import makeCertificate

#: The server behind, and the smarthost: it takes everything.
BEHIND = """
hostname = "behind.example"
bounces = "none"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[[listen]]
endpoint = "unix:%s"
protocol = "lmtp"

[policies.open]
envelope = "accept"

[[recipients]]
match = "*"
policy = "open"
deliver = { use = "maildir", path = "mail/{local}" }
"""

RECIPIENT = "fighter@example.net"


class InitTests(IntegrationCase):
    """
    Each kind.
    """

    def setUp(self) -> None:
        self.store = os.path.join(self.directory(), "store")
        self.behind = self.server(BEHIND % self.store)

    def begin(self, kind: str, *arguments: str, options: tuple[str, ...] = ()) -> Server:
        """
        A server with a configuration of this kind.
        """
        directory = self.directory()
        path = os.path.join(directory, "init.toml")
        done = cli("init", kind, path, "--hostname", "mx.example.net", *arguments, cwd=directory)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        with open(path, encoding="utf-8") as file:
            return self.server(file.read(), *options)

    def send(self, port: int, *recipients: str) -> smtplib.SMTP:
        client = smtplib.SMTP("127.0.0.1", port, "client.test", timeout=60)
        self.addCleanup(client.close)
        client.sendmail("sender@client.test", recipients, message())
        return client

    def test_gateway(self) -> None:
        """From outside to the server behind; to no other domain; a test virus is refused."""
        for endpoint in (f"unix:{self.store}", f"tcp:127.0.0.1:{self.behind.port}"):
            mx = self.begin(
                *("gateway", "--domain", "example.net", "--behind", endpoint),
                *("--listen", "tcp:0:interface=127.0.0.1"),
            )
            self.send(mx.port, RECIPIENT)
            with self.assertRaises(smtplib.SMTPRecipientsRefused):
                self.send(mx.port, "other@elsewhere.example")
            sent = cli(
                *("send", "--to", f"127.0.0.1:{mx.port}", "--from", "sender@client.test"),
                *("--rcpt", "postmaster@example.net", "--rcpt", RECIPIENT, "--sample", "eicar"),
            )
            self.assertEqual(sent.returncode, 1, sent.stdout + sent.stderr)
        self.assertEqual(len(self.behind.arrived("fighter", 2)), 2)
        self.assertEqual(len(self.behind.arrived("postmaster", 2)), 2)

    def test_laptop(self) -> None:
        """What is handed in goes to the smarthost, now or when there is one."""
        mx = self.begin(
            *("laptop", "--smarthost", f"127.0.0.1:{self.behind.port}"),
            *("--listen", "tcp:0:interface=127.0.0.1"),
        )
        self.send(mx.port, RECIPIENT, "me@localhost")
        self.behind.arrived("fighter")
        mx.arrived("me")

    def test_submission(self) -> None:
        """A user logs in and sends to everywhere; no other client sends."""
        directory = self.directory()
        pem = os.path.join(directory, "mail.pem")
        with open(pem, "w", encoding="ascii") as both:
            for name in makeCertificate(directory):
                with open(name, encoding="ascii") as file:
                    both.write(file.read())
        users = os.path.join(directory, "users")
        done = cli("passwd", users, RECIPIENT, data=b"secret\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        mx = self.begin(
            *("submission", "--domain", "example.net", "--behind", f"unix:{self.store}"),
            *("--smarthost", f"127.0.0.1:{self.behind.port}", "--certificate", pem),
            *("--listen", "tcp:0:interface=127.0.0.1"),
            options=("--auth", f"passwd:{users}"),
        )
        with self.assertRaises(smtplib.SMTPSenderRefused):
            self.send(mx.port, "other@elsewhere.example")
        client = smtplib.SMTP("127.0.0.1", mx.port, "client.test", timeout=60)
        self.addCleanup(client.close)
        client.starttls(context=ssl._create_unverified_context())
        client.login(RECIPIENT, "secret")
        client.sendmail(RECIPIENT, ["other@elsewhere.example", "boxer@example.net"], message())
        self.behind.arrived("other")
        self.behind.arrived("boxer")

    def test_lmtp(self) -> None:
        """An MTA in front is told what became of each recipient."""
        mx = self.begin(
            *("lmtp", "--domain", "example.net", "--behind", f"unix:{self.store}"),
            *("--listen", "tcp:0:interface=127.0.0.1"),
        )
        sent = cli(
            *("send", "--lmtp", "--to", f"127.0.0.1:{mx.port}", "--from", "sender@client.test"),
            *("--rcpt", RECIPIENT, "--sample", "plain"),
        )
        self.assertEqual(sent.returncode, 0, sent.stdout + sent.stderr)
        self.behind.arrived("fighter")
