"""
Logins: Dovecot's users, and our own; what they send, and how they are guessed.
"""

from __future__ import annotations

import base64
import json
import os
import smtplib
from typing import Any

from tests.integration.stores import Dovecot
from tests.integration.support import CONFIG, IntegrationCase, Server, cli, until

USER = "fine@example.net"

_LISTENERS = """
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
protocol = "submission"
auth_without_tls = true

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1:backlog=20"
auth = "offered"
auth_without_tls = true

[limits]
auth_delay = 0
auth_failures = 100
"""
_CONFIG = CONFIG.replace('\n[[listen]]\nendpoint = "tcp:0:interface=127.0.0.1"\n', _LISTENERS)


class LoginCase(IntegrationCase):
    """
    Clients that log in.
    """

    def client(self, port: int) -> Any:
        client = smtplib.SMTP("127.0.0.1", port, "client.test", timeout=60)
        self.addCleanup(client.close)
        client.ehlo()
        return client

    def login(
        self, port: int, password: str = "secret", user: str = USER, mechanism: str = "PLAIN"
    ) -> int:
        """
        @return: the code of the answer.
        """
        client = self.client(port)
        client.user, client.password = user, password
        method = getattr(client, f"auth_{mechanism.lower()}")
        try:
            code: int = client.auth(mechanism, method)[0]
        except smtplib.SMTPAuthenticationError as error:
            return error.smtp_code
        return code


class DovecotTests(LoginCase):
    """
    A real Dovecot knows the users.
    """

    def setUp(self) -> None:
        self.dovecot = Dovecot(self)
        self.mx: Server = self.server(_CONFIG, "--auth", f"dovecot:{self.dovecot.auth}")

    def test_passwords(self) -> None:
        """PLAIN and LOGIN, right and wrong; the name is the one that Dovecot has."""
        for mechanism in ("PLAIN", "LOGIN"):
            self.assertEqual(self.login(self.mx.port, mechanism=mechanism), 235)
            self.assertEqual(self.login(self.mx.port, "wrong", mechanism=mechanism), 535)
        self.assertNotIn("SCRAM-SHA-256", self.client(self.mx.port).esmtp_features["auth"])
        client = self.client(self.mx.port)
        client.login("Fine@Example.net", "secret")
        self.assertEqual(client.mail("fine@example.net")[0], 250)
        client.rset()
        self.assertEqual(client.mail("ceo@example.net")[0], 553)

    def test_sideBySide(self) -> None:
        """Right passwords do not wait for wrong ones, whose answers Dovecot holds back."""
        slow = [self.client(self.mx.port) for _ in range(5)]
        for number, client in enumerate(slow):
            client.sock.sendall(b"AUTH LOGIN dXNlcg==\r\n")
            self.assertEqual(client.getreply()[0], 334)
            client.sock.sendall(b"d3Jvbmc%d=\r\n" % number)
        self.assertEqual(self.login(self.mx.port), 235)
        self.assertEqual([client.getreply()[0] for client in slow], [535] * 5)

    def test_restarted(self) -> None:
        """While Dovecot is away no password is called wrong; then it works again."""
        self.dovecot.stop()
        self.assertEqual(self.login(self.mx.port), 454)
        self.dovecot.start()
        self.assertEqual(self.login(self.mx.port), 235)
        # Its old process goes on answering on the connection that there is.
        self.dovecot.stop()
        self.assertIn(self.login(self.mx.port), (235, 454))
        self.dovecot.start()
        self.assertEqual(self.login(self.mx.port), 235)


class GuessingTests(LoginCase):
    """
    Guesses, over connections, listeners and restarts.
    """

    def test_guessing(self) -> None:
        """The right password is not looked at where too many were wrong, after a restart either."""
        directory = self.directory()
        passwords = os.path.join(directory, "passwords")
        for user in ("fine@example.net", "other@example.net"):
            done = cli("passwd", passwords, user, data=b"secret\n")
            self.assertEqual(done.returncode, 0, done.stderr)
        with open(passwords, encoding="utf-8") as file:
            self.assertIn(":$argon2id$", file.read())
        server = self.server(_CONFIG, "--auth", f"passwd:{passwords}")
        self.assertEqual(self.login(server.port, user="other@example.net"), 235)
        said = [self.login(server.ports[one % 2], f"guess {one}") for one in range(15)]
        self.assertEqual(said, [535] * 10 + [454] * 5)
        self.assertEqual(self.login(server.port), 454)
        self.assertEqual(self.login(server.port, user="other@example.net"), 235)
        self.assertEqual(self.login(server.port, user="nobody@example.net"), 535)
        salts = self.salts(server)
        server.stop()
        server.start()
        self.assertEqual(self.login(server.ports[1]), 454)
        self.assertEqual(self.login(server.port, user="other@example.net"), 235)
        self.assertEqual(self.salts(server), salts)

    def salts(self, server: Server) -> list[bytes]:
        """
        What SCRAM says to a user and to a stranger, nonces aside.
        """
        found = []
        for user in ("other@example.net", "stranger@example.net"):
            first = base64.b64encode(f"n,,n={user},r=abc".encode()).decode()
            code, said = self.client(server.port).docmd("AUTH", f"SCRAM-SHA-256 {first}")
            self.assertEqual(code, 334)
            found.append(base64.b64decode(said).partition(b",")[2])
        return found


class CompletedTests(LoginCase):
    """
    What a submission listener adds.
    """

    def test_completed(self) -> None:
        """
        On that listener alone; in the mailbox the message is one that a signer's
        fields are still as they were in.
        """
        directory = self.directory()
        passwords = os.path.join(directory, "passwords")
        cli("passwd", passwords, USER, data=b"secret\n")
        server = self.server(_CONFIG, "--auth", f"passwd:{passwords}")
        mail = "From: boss@example.net\r\nBcc: b@c.example\r\nSubject: x\r\n\r\ntext\r\n"
        for port in server.ports:
            client = self.client(port)
            client.login(USER, "secret")
            client.sendmail(USER, ["lover@example.net"], mail)
        completed, other = sorted(server.arrived("lover", 2), key=len, reverse=True)
        for name in (b"Date", b"Message-ID"):
            self.assertEqual(completed.count(b"\r\n%s: " % name), 1)
            self.assertNotIn(b"\r\n%s: " % name, other)
        self.assertIn(b"\r\nSender: fine@example.net\r\n", completed)
        self.assertNotIn(b"Bcc", completed)
        self.assertIn(b"Bcc", other)


class LimitTests(LoginCase):
    """
    A login that sends too much.
    """

    def test_held(self) -> None:
        """What is over the limit is held, can be seen, and is delivered when it is released."""
        directory = self.directory()
        passwords = os.path.join(directory, "passwords")
        cli("passwd", passwords, USER, data=b"secret\n")
        config = f'{_CONFIG}\n[submission]\nmessages = 1\nover = "hold"\n'
        server = self.server(config, "--auth", f"passwd:{passwords}")
        client = self.client(server.port)
        client.login(USER, "secret")
        for text in ("first", "second"):
            client.sendmail(USER, ["lover@example.net"], f"Subject: {text}\r\n\r\n{text}\r\n")
        with self.assertRaises(smtplib.SMTPSenderRefused) as refused:
            client.sendmail(USER, ["lover@example.net"], "Subject: x\r\n\r\nx\r\n")
        self.assertEqual(refused.exception.smtp_code, 450)
        self.assertIn(b"first", server.arrived("lover")[0])
        status = json.loads(cli("status", "-c", server.path, "--json").stdout)
        used = status["parts"]["submission"]["most_used"][USER]
        self.assertEqual(used["messages"], [1, 1])
        self.assertIn("1 of 1 messages", cli("status", "-c", server.path).stdout)
        until(lambda: "held" in cli("queue", "list", "-c", server.path).stdout, "it is held")
        self.assertEqual(len(server.mail("lover")), 1)
        cli("queue", "release", "-c", server.path, "--all")
        self.assertTrue(any(b"second" in mail for mail in server.arrived("lover", 2)))
