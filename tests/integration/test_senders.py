"""
Real senders: programs that others wrote send mail to our server.
"""

from __future__ import annotations

import smtplib

from deferrals.stages.content.match.findings import EICAR, GTUBE
from tests.integration.daemons import Exim
from tests.integration.support import (
    CONFIG,
    IntegrationCase,
    Server,
    cli,
    crlf,
    events,
    message,
    program,
    run,
    spam,
    until,
)
from tests.requirements import requirement

#: Cohorts come apart before it is known whether they differ.
SPLIT = CONFIG.replace("[[listen]]", '[[listen]]\nmixed = "split"')


class EximTests(IntegrationCase):
    """
    Exim 4 as a PRDR client.
    """

    @requirement("P-1")
    @requirement("P-3")
    @requirement("P-6")
    @requirement("P-11")
    def test_mixed(self) -> None:
        """
        One message, mixed verdicts: Exim's log and its bounce show each recipient's
        own answer.
        """
        server = self.server()
        exim = Exim(self, f"127.0.0.1::{server.port}")
        exim.send(
            spam(),
            "me@client.test",
            *("lover@example.net", "fighter@example.net", "waiter@example.net"),
            *("postmaster@example.net", "nobody@example.org"),
        )
        log = exim.log()
        self.assertRegex(log, r"=> lover@example\.net .* PRDR .*C=\"250 2\.1\.5")
        self.assertRegex(log, r"(=>|->) postmaster@example\.net .* PRDR")
        self.assertRegex(
            log, r"\*\* fighter@example\.net .*PRDR error after BDAT \d+ LAST: 550 5\.7\.1"
        )
        self.assertRegex(log, r"\*\* nobody@example\.org .*550 5\.7\.1 .*relaying denied")
        self.assertRegex(log, r"== waiter@example\.net .*450 4\.7\.1")
        bounce = exim.bounce()
        self.assertIn("550 5.7.1 <fighter@example.net> spam is not wanted", bounce)
        self.assertNotIn("lover@example.net\n    host", bounce)
        self.assertIn(GTUBE.encode(), server.arrived("lover")[0])
        server.arrived("postmaster")
        self.assertEqual(server.mail("fighter"), [])
        self.assertEqual(server.mail("waiter"), [])

    @requirement("P-4")
    def test_unanimous(self) -> None:
        """All accept, all refuse: one reply, and Exim takes it for all."""
        server = self.server()
        exim = Exim(self, f"127.0.0.1::{server.port}")
        exim.send(message(), "me@client.test", "lover@example.net", "fighter@example.net")
        self.assertEqual(exim.log().count("Completed"), 1)
        server.arrived("lover")
        server.arrived("fighter")
        exim.send(spam(), "me@client.test", "boxer@example.net", "fighter@example.net")
        for local in ("boxer", "fighter"):
            self.assertRegex(exim.log(), rf"\*\* {local}@example\.net .*550 5\.7\.1")

    def test_withoutPRDR(self) -> None:
        """
        Without PRDR and CHUNKING the other cohorts come in the next
        transactions of the connection.
        """
        server = self.server(SPLIT.replace("[[listen]]", '[[listen]]\nwithhold = ["CHUNKING"]'))
        exim = Exim(self, f"127.0.0.1::{server.port}", prdr=False)
        self._sendToThree(exim)
        self._eachTheirOwn(server, exim)

    def test_withoutPRDRInChunks(self) -> None:
        """
        Without PRDR but with CHUNKING the other cohorts come with the next runs
        of the queue: Exim looks at the 452 only when the first one's message is
        on its way.
        """
        server = self.server(SPLIT)
        exim = Exim(self, f"127.0.0.1::{server.port}", prdr=False)
        self._sendToThree(exim)
        self.assertEqual(exim.log().count("452 4.5.3"), 2)
        exim.flush()
        exim.flush()
        self._eachTheirOwn(server, exim)

    def _sendToThree(self, exim: Exim) -> None:
        exim.send(
            spam(),
            "me@client.test",
            *("lover@example.net", "postmaster@example.net", "fighter@example.net"),
        )

    def _eachTheirOwn(self, server: Server, exim: Exim) -> None:
        log = exim.log()
        self.assertRegex(log, r"(=>|->) lover@example\.net ")
        self.assertRegex(log, r"(=>|->) postmaster@example\.net ")
        self.assertRegex(log, r"\*\* fighter@example\.net .*550 5\.7\.1")
        server.arrived("lover")
        server.arrived("postmaster")
        self.assertEqual(server.mail("fighter"), [])

    def test_server(self) -> None:
        """Our client talks PRDR to a real Exim that accepts, defers and denies."""
        exim = Exim(self, daemon=True)
        with open(self.mktemp(), "wb+") as file:
            file.write(message())
            file.flush()
            done = cli(
                *(
                    "send",
                    "--to",
                    f"127.0.0.1:{exim.port}",
                    "--from",
                    "me@client.test",
                    "--verbose",
                ),
                *("--rcpt", "lover@exim.example.net", "--rcpt", "waiter@exim.example.net"),
                *("--rcpt", "fighter@exim.example.net", "--rcpt", "unknown@exim.example.net"),
                file.name,
            )
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("C: MAIL FROM:<me@client.test> SIZE=", done.stdout)
        self.assertRegex(done.stdout, r"C: MAIL FROM.* PRDR\n")
        self.assertIn("S: 353 ", done.stdout)
        table = done.stdout.split("\n\n")[-1]
        self.assertRegex(table, r"lover@\S+ +250")
        self.assertRegex(table, r"waiter@\S+ +450 .*not now for waiter")
        self.assertRegex(table, r"fighter@\S+ +550 .*content refused by fighter")
        self.assertRegex(table, r"unknown@\S+ +550 .*no such user")
        done = cli(
            *("send", "--to", f"127.0.0.1:{exim.port}", "--from", "me@client.test"),
            *("--rcpt", "fighter@exim.example.net", "--rcpt", "fighter2@exim.example.net"),
            *("--sample", "plain"),
        )
        self.assertEqual(done.returncode, 2, done.stdout)


class ClientTests(IntegrationCase):
    """
    Clients on the command line, and libraries.
    """

    def test_swaks(self) -> None:
        """swaks asks for PRDR and shows each recipient's reply."""
        swaks = program("swaks")
        server = self.server()
        done = run(
            [
                *(swaks, "--server", "127.0.0.1", "--port", str(server.port), "--prdr"),
                *("--from", "a@client.test", "--to", "lover@example.net,fighter@example.net"),
                *("--body", GTUBE),
            ]
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertRegex(done.stdout, r"<-  353 ")
        self.assertRegex(done.stdout, r"<-  250 2\.1\.5 <lover@example\.net>")
        self.assertRegex(done.stdout, r"<\*\* 550 5\.7\.1 <fighter@example\.net>")
        self.assertIn(GTUBE.encode(), server.arrived("lover")[0])

    def test_swaksPipelined(self) -> None:
        """swaks with PIPELINING."""
        swaks = program("swaks")
        server = self.server()
        done = run(
            [
                *(swaks, "--server", "127.0.0.1", "--port", str(server.port), "--pipeline"),
                *("--from", "a@client.test", "--to", "lover@example.net,other@example.net"),
            ]
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        server.arrived("lover")
        server.arrived("other")

    def test_curl(self) -> None:
        """curl sends a file, byte for byte."""
        curl = program("curl")
        server = self.server()
        text = message("a line\n.\n..two dots\n" * 1000)
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(text.replace(b"\n", b"\r\n"))
        done = run(
            [
                *(curl, "-sS", "--url", f"smtp://127.0.0.1:{server.port}/client.test"),
                *("--mail-from", "a@client.test", "--mail-rcpt", "lover@example.net", "-T", path),
            ]
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(server.arrived("lover")[0].endswith(text.replace(b"\n", b"\r\n")))

    def test_smtpSource(self) -> None:
        """Postfix's load generator: every message that was accepted is delivered."""
        source = program("smtp-source", "/usr/sbin/smtp-source")
        server = self.server()
        done = run(
            [
                *(source, "-s", "10", "-m", "200", "-l", "4096", "-f", "a@client.test"),
                *("-t", "lover@example.net", f"inet:127.0.0.1:{server.port}"),
            ]
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(server.arrived("lover", 200)), 200)

    def test_smtplib(self) -> None:
        """Python's smtplib, which knows our extensions by name only."""
        server = self.server()
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            client.ehlo()
            self.assertTrue(client.has_extn("deferrals"))
            self.assertTrue(client.has_extn("prdr"))
            refused = client.sendmail(
                "a@client.test", ["lover@example.net", "fighter@example.net"], crlf(message())
            )
            self.assertEqual(refused, {})
            with self.assertRaises(smtplib.SMTPDataError) as caught:
                client.sendmail("a@client.test", ["fighter@example.net"], crlf(spam()))
            self.assertEqual(caught.exception.smtp_code, 550)
            with self.assertRaises(smtplib.SMTPDataError) as caught:
                client.sendmail(
                    "a@client.test", ["lover@example.net"], crlf(message(EICAR.decode()))
                )
        server.arrived("lover")

    def test_ourSend(self) -> None:
        """C{deferrals send}: the table and the exit status."""
        server = self.server()
        to = ("send", "--to", f"127.0.0.1:{server.port}", "--from", "a@client.test")
        for recipients, sample, status in (
            (["lover", "fighter"], "plain", 0),
            (["lover", "fighter"], "gtube", 1),
            (["boxer", "fighter"], "gtube", 2),
            (["lover", "waiter"], "plain", 1),
        ):
            words = [word for r in recipients for word in ("--rcpt", f"{r}@example.net")]
            done = cli(*to, *words, "--sample", sample)
            self.assertEqual(done.returncode, status, done.stdout + done.stderr)
            self.assertEqual(len(done.stdout.splitlines()), len(recipients) + 1)
        done = cli(
            "send", "--to", "127.0.0.1:1", "--from", "a@b.c", "--rcpt", "d@e.f", "--sample", "plain"
        )
        self.assertEqual(done.returncode, 2)
        self.assertIn("refused", done.stderr)


class LogTests(IntegrationCase):
    """
    The log of a transaction.
    """

    def test_json(self) -> None:
        """One event per verdict and one per transaction, for machines; no content."""
        server = self.server(CONFIG, "--log-format", "json")
        cli(
            *(
                "send",
                "--to",
                f"127.0.0.1:{server.port}",
                "--from",
                "a@client.test",
                "--sample",
                "gtube",
            ),
            *("--rcpt", "lover@example.net", "--rcpt", "fighter@example.net"),
        )
        server.arrived("lover")
        until(
            lambda: '"event": "delivery"' in server.log or '"event":"delivery"' in server.log, "log"
        )
        found = [event for event in events(server.log) if "event" in event]
        kinds = [event["event"] for event in found]
        self.assertEqual(sorted(kinds), ["delivery", "recipient", "recipient", "transaction"])
        (end,) = [event for event in found if event["event"] == "transaction"]
        self.assertEqual((end["rung"], end["accepted"], end["recipients"]), ("deferrals", 1, 2))
        refused = next(e for e in found if e.get("recipient") == "fighter@example.net")
        self.assertEqual(
            (refused["stage"], refused["reply"]), ("content", "550 5.7.1 spam is not wanted")
        )
        self.assertEqual({event["transaction"] for event in found}, {end["transaction"]})
        self.assertNotIn("GTUBE", server.log)
