"""
The wire with programs that others wrote: TLS, AUTH, PROXY, XCLIENT, chunks, and
Postfix in front of us.
"""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import ssl
import struct
from typing import Any

from tests.integration.daemons import Postfix
from tests.integration.support import (
    CONFIG,
    IntegrationCase,
    Server,
    cli,
    crlf,
    message,
    program,
    run,
    spam,
    until,
)
from tests.tls import makeCertificate

_LISTENERS = """
[tls]
certificate = "cert.pem"
key = "key.pem"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
xclient = ["127.0.0.1"]

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1:backlog=10"
protocol = "submission"
tls = "required"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1:backlog=20"
protocol = "submission"
tls = "implicit"

[[listen]]
endpoint = "haproxy:tcp:0:interface=127.0.0.1"

[submission]
senders = "any"
"""
_TLS = CONFIG.replace('\n[[listen]]\nendpoint = "tcp:0:interface=127.0.0.1"\n', _LISTENERS)
MX, SUBMISSION, SUBMISSIONS, PROXIED = range(4)


class TLSCase(IntegrationCase):
    """
    A server with a certificate for C{localhost}, and a user.
    """

    def server(self, config: str = _TLS, *options: str) -> Server:
        directory = self.directory()
        self.certificate, self.key = makeCertificate(directory)
        passwords = os.path.join(directory, "passwords")
        done = cli("passwd", passwords, "user", data=b"secret\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        server = Server(directory, config, *(options or ("--auth", f"passwd:{passwords}")))
        self.addCleanup(server.kill)
        return server

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate)

    def file(self, text: bytes) -> str:
        path = os.path.join(self.directory(), "mail")
        with open(path, "wb") as file:
            file.write(text)
        return path


class SwaksTests(TLSCase):
    """
    swaks.
    """

    def swaks(self, server: Server, listener: int, *more: str) -> Any:
        return run(
            [
                *(program("swaks"), "--server", "127.0.0.1", "--ehlo", "client.test"),
                *("--port", str(server.ports[listener])),
                *("--from", "a@client.test", "--to", "lover@example.net", *more),
            ]
        )

    def test_startTLS(self) -> None:
        """STARTTLS: the message says ESMTPS, with protocol and cipher."""
        server = self.server()
        done = self.swaks(server, MX, "--tls")
        self.assertEqual(done.returncode, 0, done.stdout)
        head = server.arrived("lover")[0].partition(b"\r\n\r\n")[0]
        self.assertIn(b"with ESMTPS", head)

    def test_auth(self) -> None:
        """PLAIN and LOGIN, over STARTTLS and over TLS from the first octet."""
        server = self.server()
        user = ("--auth-user", "user", "--auth-password", "secret")
        for listener, tls in ((SUBMISSION, "--tls"), (SUBMISSIONS, "--tls-on-connect")):
            for mechanism in ("PLAIN", "LOGIN"):
                done = self.swaks(server, listener, tls, "--auth", mechanism, *user)
                self.assertEqual(done.returncode, 0, done.stdout)
        mails = server.arrived("lover", 4)
        self.assertTrue(all(b"with ESMTPSA" in mail for mail in mails))

    def test_refused(self) -> None:
        """No password, a wrong one, no TLS: no mail."""
        server = self.server(_TLS + "\n[limits]\nauth_delay = 0\n")
        done = self.swaks(server, SUBMISSION, "--tls")
        self.assertIn("<~* 530 5.7.0", done.stdout)
        wrong = ("--auth-user", "user", "--auth-password", "wrong")
        done = self.swaks(server, SUBMISSION, "--tls", "--auth", "PLAIN", *wrong)
        self.assertEqual(done.returncode, 28, done.stdout)
        self.assertIn("535 5.7.8", done.stdout)
        done = self.swaks(server, SUBMISSION)
        self.assertIn("<** 530 5.7.0", done.stdout)
        done = self.swaks(server, SUBMISSION, "--auth", "PLAIN", *wrong)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        self.assertEqual(server.mail("lover"), [])

    def test_xclient(self) -> None:
        """XCLIENT from a trusted network: the message says another client."""
        server = self.server()
        addr = ("--xclient-addr", "192.0.2.77", "--xclient-helo", "far.example")
        done = self.swaks(server, MX, *addr)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(b"192.0.2.77", server.arrived("lover")[0].partition(b"\r\n\r\n")[0])


class LibraryTests(TLSCase):
    """
    curl, openssl s_client and smtplib.
    """

    def test_curl(self) -> None:
        """curl: TLS that is checked, PLAIN, and a wrong password."""
        server = self.server(_TLS + "\n[limits]\nauth_delay = 0\n")
        text = crlf(message("a\n.\n..b\n" * 500))
        path = self.file(text)
        for scheme, listener in (("smtp", SUBMISSION), ("smtps", SUBMISSIONS)):
            url = f"{scheme}://localhost:{server.ports[listener]}/client.test"
            base = [program("curl"), "-4", "-sS", "--url", url, "--ssl-reqd"]
            base += ["--cacert", self.certificate, "--login-options", "AUTH=PLAIN"]
            base += ["--mail-from", "a@client.test", "--mail-rcpt", "lover@example.net"]
            done = run([*base, "-u", "user:secret", "-T", path])
            self.assertEqual(done.returncode, 0, done.stderr)
            done = run([*base, "-u", "user:wrong", "-T", path])
            self.assertEqual(done.returncode, 67, done.stderr)
        mails = server.arrived("lover", 2)
        fields, _, body = text.partition(b"\r\n\r\n")
        for mail in mails:
            head, _, rest = mail.partition(b"\r\n\r\n")
            self.assertEqual(rest, body)
            self.assertIn(b"\r\n" + fields, head)

    def test_sClient(self) -> None:
        """openssl s_client: the certificate is verified, and TLS 1.1 is refused."""
        openssl = program("openssl")
        server = self.server()
        base = [openssl, "s_client", "-connect", f"127.0.0.1:{server.port}"]
        base += ["-starttls", "smtp", "-CAfile", self.certificate, "-ign_eof"]
        done = run(base, b"EHLO c\r\nQUIT\r\n")
        self.assertIn("Verify return code: 0 (ok)", done.stdout)
        self.assertIn("221 2.0.0", done.stdout)
        self.assertNotIn("250-STARTTLS", done.stdout.partition("Verify return code")[2])
        done = run([*base, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], b"QUIT\r\n")
        self.assertIn("Cipher is (NONE)", done.stdout)

    def test_smtplib(self) -> None:
        """smtplib: STARTTLS, AUTH, and a second message in the session."""
        server = self.server()
        with smtplib.SMTP("localhost", server.ports[SUBMISSION]) as client:
            client.starttls(context=self.client())
            client.login("user", "secret")
            for _ in range(2):
                client.sendmail("a@client.test", ["lover@example.net"], crlf(message()))
        with smtplib.SMTP_SSL(
            "localhost", server.ports[SUBMISSIONS], context=self.client()
        ) as client:
            client.login("user", "secret")
            client.sendmail("a@client.test", ["lover@example.net"], crlf(message()))
        server.arrived("lover", 3)

    def test_file(self) -> None:
        """Twisted's own checkers work as well: C{--auth file:…}."""
        path = self.file(b"other:word\n")
        server = self.server(_TLS, "--auth", f"file:{path}")
        with smtplib.SMTP("localhost", server.ports[SUBMISSION]) as client:
            client.starttls(context=self.client())
            client.login("other", "word")
            client.sendmail("a@client.test", ["lover@example.net"], crlf(message()))
        server.arrived("lover")

    def test_renewed(self) -> None:
        """A new certificate is used from the next connection on, after SIGHUP at once."""
        server = self.server()
        makeCertificate(os.path.dirname(self.certificate))
        server.process.process.send_signal(signal.SIGHUP)
        until(lambda: "configuration reloaded" in server.log, server.log)
        with smtplib.SMTP("localhost", server.port) as client:
            client.starttls(context=self.client())
            self.assertEqual(client.noop()[0], 250)


class ProxyTests(TLSCase):
    """
    The PROXY protocol.
    """

    def test_both(self) -> None:
        """Version 1 and version 2: no greeting before the header, then the real client."""
        server = self.server()
        binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"
        binary += socket.inet_aton("198.51.100.7") + socket.inet_aton("127.0.0.1")
        binary += struct.pack("!HH", 5555, 25)
        for header in (b"PROXY TCP4 198.51.100.7 127.0.0.1 5555 25\r\n", binary):
            dialogue = self.dialogue(server.ports[PROXIED])
            dialogue.socket.sendall(header)
            self.assertTrue(dialogue.reply().startswith("220 "))
            said = dialogue.say(
                "EHLO client.test", "MAIL FROM:<a@client.test>", "RCPT TO:<lover@example.net>"
            )
            self.assertTrue(said[-1].startswith("250 "), said)
            dialogue.say("DATA")
            self.assertTrue(dialogue.say("Subject: x\r\n\r\n.")[0].startswith("250 2.6.0"))
        for mail in server.arrived("lover", 2):
            self.assertIn(b"198.51.100.7", mail.partition(b"\r\n\r\n")[0])

    def test_none(self) -> None:
        """Without a header the connection ends, without a word."""
        server = self.server()
        dialogue = self.dialogue(server.ports[PROXIED])
        dialogue.socket.sendall(b"EHLO client.test\r\n")
        try:
            said = dialogue.reply()
        except ConnectionResetError:
            said = ""
        self.assertEqual(said, "")


class PostfixTests(IntegrationCase):
    """
    Postfix in front, speaking LMTP to us.
    """

    def test_lmtp(self) -> None:
        """
        Each recipient's own answer is in Postfix's log, and in its bounce (RFC
        2033 §4.2).
        """
        program("/usr/lib/postfix/sbin/lmtp")
        config = CONFIG.replace("[[listen]]", '[[listen]]\nprotocol = "lmtp"')
        server = self.server(config)
        postfix = Postfix(self, f"lmtp:[127.0.0.1]:{server.port}")
        people = ("lover", "fighter", "waiter", "postmaster")
        postfix.send(spam(), "me@client.test", *(f"{one}@example.net" for one in people))
        for local, status in (
            ("lover", r"status=sent \(250 2\.1\.5"),
            ("postmaster", r"status=sent \(250 2\.1\.5"),
            ("fighter", r"status=bounced \(.* said: 550 5\.7\.1"),
            ("waiter", r"status=deferred \(.* said: 450 4\.7\.1"),
        ):
            postfix.logged(rf"to=<{local}@example\.net>, .*{status}")
        server.arrived("lover")
        server.arrived("postmaster")
        self.assertEqual(server.mail("fighter"), [])
        self.assertEqual(server.mail("waiter"), [])

    def test_smtp(self) -> None:
        """Postfix over SMTP: long lines and dots, byte for byte."""
        server = self.server()
        postfix = Postfix(self, f"smtp:[127.0.0.1]:{server.port}")
        text = crlf(message()) + b"x" * 900 + b"\r\n.\r\n..\r\n"
        postfix.send(text, "me@client.test", "lover@example.net")
        postfix.logged(r"to=<lover@example\.net>, .*status=sent")
        mail = server.arrived("lover")[0]
        self.assertIn(b"x" * 900 + b"\r\n.\r\n..\r\n", mail)
