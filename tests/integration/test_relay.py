"""
Other servers behind ours: Exim, Postfix, another one of our own, and a next hop
that drops connections.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter

from tests.integration.daemons import Exim, Postfix
from tests.integration.stores import Dovecot
from tests.integration.support import (
    CONFIG,
    ROOT,
    IntegrationCase,
    Process,
    Server,
    cli,
    message,
    path,
    program,
    run,
    spam,
    until,
)
from tests.requirements import requirement

RELAY = """
hostname = "relay.example.net"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[policies.open]
envelope = "accept"

[[recipients]]
match = "*"
policy = "open"
allow = ["127.0.0.0/8"]
deliver = {{ use = "smtp", endpoint = "tcp:127.0.0.1:{port}", retry = 1{more} }}
"""

#: Somebody who is judged before his mail goes on.
BOXER = """
[policies.spam]
content = [ {{ use = "match", rules = [ {{ test = "gtube" }} ] }} ]

[[recipients]]
match = "boxer@b.example.net"
policy = "spam"
deliver = {{ use = "smtp", endpoint = "tcp:127.0.0.1:{port}", retry = 1 }}
"""


class RelayCase(IntegrationCase):
    """
    Our server as a relay.
    """

    def relay(self, port: int, more: str = "") -> Server:
        return self.server(RELAY.format(port=port, more=f", {more}" if more else ""))

    def send(
        self, server: Server, *recipients: str, sender: str = "me@client.test", data: bytes = b""
    ) -> None:
        """
        Our own client takes each recipient's answer.
        """
        name = self.mktemp()
        with open(name, "wb") as file:
            file.write(data or message())
        words = [word for recipient in recipients for word in ("--rcpt", recipient)]
        done = cli("send", "--to", f"127.0.0.1:{server.port}", "--from", sender, *words, name)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def logged(self, server: Server, pattern: str) -> None:
        until(lambda: re.search(pattern, server.log), f"{pattern}\n{server.log}")


class EximTests(RelayCase):
    """
    A real Exim with C{acl_smtp_data_prdr}.
    """

    @requirement("P-11")
    def test_behind(self) -> None:
        """Exim accepts, defers and denies under PRDR: each recipient's own outcome."""
        exim = Exim(self, daemon=True)
        relay = self.relay(exim.port)
        people = [f"{local}@exim.example.net" for local in ("lover", "waiter", "fighter", "other")]
        self.send(relay, *people)
        self.logged(relay, r"to=<lover@\S+> delivered by .* 250 ")
        self.logged(relay, r"to=<other@\S+> delivered by .* 250 ")
        self.logged(relay, r"to=<fighter@\S+> failed by .* 550 .*content refused by fighter")
        self.logged(relay, r"to=<waiter@\S+> retry by .* 450 .*not now for waiter")
        # Alone it is no PRDR transaction, and Exim's ACL is not asked: the mail is taken.
        self.logged(relay, r"to=<waiter@\S+> delivered by")
        with open(os.path.join(exim.directory, "log", "mainlog"), encoding="utf-8") as file:
            self.assertEqual(len(re.findall(r"<= me@client\.test", file.read())), 2)

    @requirement("P-11")
    def test_allRefuse(self) -> None:
        """
        All refuse under PRDR, each with a reason of its own: the notice and the
        log have these, and the log Exim's last word, too (D17); of what it takes,
        the log has Exim's own id (D12).
        """
        exim = Exim(self, daemon=True)
        relay = self.relay(exim.port)
        refusers = [f"{local}@exim.example.net" for local in ("fighter", "fighter2")]
        self.send(relay, *refusers)
        for one in refusers:
            own = f"550 .*content refused by {one.partition('@')[0]}"
            self.logged(relay, rf"to=<{one}> failed by .* {own}.* \(final: 550 .*\[127\.0\.0\.1\]:")
        self.send(relay, "lover@exim.example.net", "other@exim.example.net")
        accepted = r"delivered by .* 250 .* \(final: 250 id=(\S+) .*; at \[127\.0\.0\.1\]:"
        self.logged(relay, rf"to=<lover@\S+> {accepted}")
        found = re.search(accepted, relay.log)
        assert found is not None
        self.assertRegex(exim.log(), rf"{re.escape(found[1])} <= me@client\.test")

    @requirement("P-6")
    @requirement("P-11")
    def test_chain(self) -> None:
        """
        Exim, our server, Exim, with PRDR on both legs: whom ours refuses, the first
        one bounces; whom the last one refuses, ours has to.
        """
        behind = Exim(self, daemon=True)
        relay = self.server(_withBoxer(behind.port))
        front = Exim(self, f"127.0.0.1::{relay.port}")
        people = [f"{local}@b.example.net" for local in ("lover", "boxer", "fighter")]
        front.send(spam(), "me@client.test", *people)
        self.assertRegex(front.log(), r"(=>|->) lover@b\.example\.net .* PRDR")
        self.assertRegex(front.log(), r"(=>|->) fighter@b\.example\.net .* PRDR")
        self.assertRegex(front.log(), r"\*\* boxer@b\.example\.net .*PRDR .*550 5\.7\.1")
        self.logged(relay, r"to=<lover@\S+> delivered by")
        self.logged(relay, r"to=<fighter@\S+> failed by .* 550 .*content refused by fighter")
        self.assertRegex(behind.log(), r"<= me@client\.test .* PRDR")


def _withBoxer(port: int) -> str:
    head, rule, rest = RELAY.partition("[[recipients]]")
    return (head + BOXER + rule + rest).format(port=port, more="")


class ChainTests(RelayCase):
    """
    Our server behind our server.
    """

    @requirement("D-6")
    @requirement("D-11")
    def test_deferrals(self) -> None:
        """
        A sender asks for DEFERRALS, the first server asks the second: three
        recipients, three outcomes, and only the third comes again.
        """
        behind = self.server(CONFIG)
        front = self.relay(behind.port)
        self.send(
            front,
            *("lover@example.net", "fighter@example.net", "waiter@example.net"),
            data=spam(),
        )
        behind.arrived("lover")
        self.logged(front, r"to=<fighter@\S+> failed by .* 550 5\.7\.1 .*spam is not wanted")
        self.logged(front, r"to=<waiter@\S+> retry by .* 450 4\.7\.1 ")
        self.assertRegex(behind.log, r"deferrals, 1 of 3 accepted")
        until(lambda: behind.log.count("to=<waiter@") > 1, "another attempt")
        self.assertEqual(behind.log.count("to=<lover@example.net> content"), 1)
        self.assertEqual(len(behind.mail("lover")), 1)

    def test_allow(self) -> None:
        """A stranger gets 550 5.7.1, relaying denied."""
        config = RELAY.format(port=1, more="").replace("127.0.0.0/8", "192.0.2.0/24")
        dialogue = self.dialogue(self.server(config).port)
        dialogue.reply()
        *_, reply = dialogue.say("EHLO x", "MAIL FROM:<a@client.test>", "RCPT TO:<b@client.test>")
        self.assertRegex(reply, r"550 5\.7\.1 .*relaying denied")


#: A gateway in front of a server that trusts it.
GATEWAY = """
hostname = "gateway.example.net"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[policies.open]
envelope = "accept"

[[recipients]]
match = "*@customer.example"
policy = "open"
{more}
deliver = {{ use = "smtp", endpoint = "tcp:127.0.0.1:{port}" }}
"""


class RoutingTests(RelayCase):
    """
    In front of a stock Postfix that trusts this server.
    """

    ROUTED = (
        "victim%outside.example@customer.example",
        '"victim@outside.example"@customer.example',
        "outside.example!victim@customer.example",
    )

    def test_routing(self) -> None:
        """
        What Postfix would send on to where its sender likes is refused here; where
        the rule lets it pass, Postfix does so.
        """
        sink = self.server(CONFIG)
        postfix = Postfix(
            self,
            f"smtp:[127.0.0.1]:{sink.port}",
            "mydestination = customer.example\nlocal_transport = discard:\n",
        )
        for seen, (more, wanted) in enumerate((("", "550"), ("sender_routing = true", "250"))):
            server = self.server(GATEWAY.format(port=postfix.port, more=more))
            dialogue = self.dialogue(server.port)
            dialogue.reply()
            dialogue.say("EHLO x", "MAIL FROM:<stranger@client.test>")
            for address in self.ROUTED:
                (reply,) = dialogue.say(f"RCPT TO:<{address}>")
                self.assertIn(f"{wanted} {wanted[0]}.", reply, address)
            (reply,) = dialogue.say("RCPT TO:<user+tag@customer.example>")
            self.assertIn("250 2.1.5", reply)
            dialogue.say("DATA", "Subject: x\r\n\r\nhello\r\n.")
            until(lambda seen=seen: postfix.log().count(": removed") > seen, "the mail has gone")
            found = re.findall(r" to=<(\S*outside\.example)>", postfix.log())
            self.assertEqual(set(found), {"victim@outside.example"} if more else set())


class SmarthostTests(RelayCase):
    """
    Postfix as a smarthost.
    """

    def certificate(self) -> tuple[str, str]:
        """
        A certificate for C{localhost}, and its key.
        """
        directory = self.directory()
        paths = [os.path.join(directory, f"{name}.pem") for name in ("cert", "key")]
        done = run(
            [
                *(program("openssl"), "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"),
                *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"),
                *("-addext", "subjectAltName=DNS:localhost", "-out", paths[0], "-keyout", paths[1]),
            ]
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return paths[0], paths[1]

    def test_smarthost(self) -> None:
        """
        TLS with a verified certificate, AUTH with SCRAM-SHA-256, connections
        that are used again, 8BITMIME and DSN: through a real Postfix.
        """
        behind = self.server(CONFIG)
        dovecot = Dovecot(self)
        certificate, key = self.certificate()
        postfix = Postfix(
            self,
            f"smtp:[127.0.0.1]:{behind.port}",
            f"smtpd_tls_security_level = encrypt\nsmtpd_tls_cert_file = {certificate}\n"
            f"smtpd_tls_key_file = {key}\nsmtpd_tls_loglevel = 1\nsmtpd_sasl_auth_enable = yes\n"
            f"smtpd_sasl_type = dovecot\nsmtpd_sasl_path = {dovecot.auth}\n"
            "smtpd_relay_restrictions = permit_sasl_authenticated, reject\n",
        )
        login = f'user = "me@example.net", password = "secret", tls_ca = "{certificate}"'
        relay = self.relay(postfix.port, f'{login}, tls_name = "localhost"')
        for number in range(1, 4):
            self.send(relay, "lover@example.net", "other@example.net")
            self.logged(relay, rf"(?s)( delivered by .*){{{2 * number}}}")
        behind.arrived("lover", 3)
        behind.arrived("other", 3)
        self.assertIn("sasl_method=SCRAM-SHA-256, sasl_username=me@example.net", postfix.log())
        self.assertEqual(postfix.log().count("TLS connection established"), 1, postfix.log())
        # A certificate of another name, or of nobody that is trusted: nothing is sent.
        for more in (f'{login}, tls_name = "other.example"', login.partition(", tls_ca")[0]):
            more += "" if "tls_name" in more else ', tls_name = "localhost"'
            other = self.relay(postfix.port, more)
            self.send(other, "lover@example.net")
            self.logged(other, r"retry by .* 451 4\.7\.5 .*(certificate|TLS)")
        self.assertEqual(len(behind.mail("lover")), 3)

    def test_foreseen(self) -> None:
        """
        What a Postfix with a small SIZE, without 8BITMIME and SMTPUTF8 cannot take, and
        shows only in the data, is refused before the 250: no sender is written to.
        """
        postfix = Postfix(
            self,
            "discard:",
            "message_size_limit = 4000\nsmtputf8_enable = no\n"
            "smtpd_discard_ehlo_keywords = 8bitmime\n",
        )
        relay = self.relay(postfix.port)
        self.send(relay, "first@b.example.net")
        self.logged(relay, r"to=<first@\S+> delivered by")
        postfix.logged(r"to=<first@.* status=sent")
        signed = "Subject: x\r\nDKIM-Signature: v=1\r\n\r\n\u00fc\r\n."
        with open(f"{postfix.directory}/log/maillog", encoding="utf-8") as file:
            taken = file.read().count("status=sent")
        for parameters, data, people, wanted in (
            (
                "",
                "Subject: x\r\n\r\n" + "x" * 70 + ("\r\n" + "x" * 70) * 60 + "\r\n.",
                1,
                ["552 5.3.4"],
            ),
            (" PRDR BODY=8BITMIME", signed, 2, ["550 5.6.3"]),
            (" SMTPUTF8", "Subject: \u00fc\r\n\r\nx\r\n.", 1, ["553 5.6.7"]),
            (" BODY=8BITMIME", "Subject: x\r\n\r\n\u00fc\r\n.", 1, ["250 2.6.0"]),
        ):
            dialogue = self.dialogue(relay.port)
            dialogue.reply()
            dialogue.say("EHLO x", f"MAIL FROM:<me@client.test>{parameters}")
            dialogue.say(*(f"RCPT TO:<p{number}@b.example.net>" for number in range(people)))
            *_, reply = dialogue.say("DATA", data)
            self.assertEqual([reply[:9]], wanted, reply)
        self.logged(relay, r"to=<p0@\S+> delivered by")
        postfix.logged(r"to=<p0@")
        self.assertEqual(postfix.log().count("status=sent"), taken + 1)
        self.assertNotRegex(relay.log, r"failed by|to=<me@client")

    def test_wrongPassword(self) -> None:
        """A wrong password is a reason to wait, and is never in the log."""
        dovecot = Dovecot(self)
        certificate, key = self.certificate()
        postfix = Postfix(
            self,
            "discard:",
            f"smtpd_tls_security_level = may\nsmtpd_tls_cert_file = {certificate}\n"
            f"smtpd_tls_key_file = {key}\nsmtpd_sasl_auth_enable = yes\n"
            f"smtpd_sasl_type = dovecot\nsmtpd_sasl_path = {dovecot.auth}\n",
        )
        relay = self.relay(postfix.port, 'user = "me", password = "pa55word", tls = "required"')
        self.send(relay, "lover@example.net")
        self.logged(relay, r"retry by .* AUTH was answered 535")
        self.assertNotIn("pa55word", relay.log)


class PeerCase(RelayCase):
    """
    A next hop that does what it is told to.
    """

    def peer(self, **spec: object) -> tuple[int, str]:
        """
        @return: the port of L{tests.peer} as a program, and its account.
        """
        directory = self.directory()
        name = os.path.join(directory, "spec.json")
        account = os.path.join(directory, "account")
        with open(name, "w", encoding="utf-8") as file:
            json.dump({**spec, "account": account}, file)
        argv = [sys.executable, "-m", "tests.peer", name]
        process = Process(
            argv,
            os.path.join(directory, "log"),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path(ROOT)},
        )
        self.addCleanup(process.kill)
        found = process.ready(
            lambda: re.search(r"listening on (\d+)", process.output()), "the next hop"
        )
        return int(found[1]), account


class StopTests(PeerCase):
    """
    A next hop that has answered nineteen of twenty recipients.
    """

    def test_stopped(self) -> None:
        """
        The server is stopped, in whatever way and at whatever moment: the nineteen do
        not have it twice.
        """
        people = [f"u{index}@x.example" for index in range(20)]
        for signals in ((signal.SIGKILL,), (signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM,)):
            block = {people[-1]: ["silence"]}
            port, account = self.peer(keywords=["PIPELINING"], lmtp=True, block=block)
            config = RELAY.replace('use = "smtp"', 'use = "lmtp"')
            relay = self.server(config.format(port=port, more=""))
            dialogue = self.dialogue(relay.port)
            dialogue.reply()
            dialogue.say("EHLO client.test")
            dialogue.say("MAIL FROM:<a@client.test>", *(f"RCPT TO:<{x}>" for x in people), "DATA")
            dialogue.say("Subject: x\r\n\r\nhello\r\n.")
            self.logged(relay, "to=<u18@x.example> delivered by")
            time.sleep(random.random())
            for one in signals:
                relay.process.process.send_signal(one)
            relay.process.process.wait(60)
            relay.start()
            self.logged(relay, "to=<u19@x.example> delivered by")
            with open(account, encoding="utf-8") as file:
                taken = Counter(json.loads(line)[1] for line in file)
            self.assertEqual(taken, Counter(people), signals)


class DropTests(PeerCase):
    """
    A next hop that drops the connection after each possible octet of what it
    says to the data.
    """

    @requirement("D-11")
    @requirement("D-21")
    @requirement("P-10")
    @requirement("P-11")
    def test_everyOctet(self) -> None:
        """No recipient is lost, none gets a second copy, none gets another's outcome."""
        block = {"bad@x.example": "550 5.6.0 bad"}
        answer = "353 wait\r\n250 2.1.5 ok\r\n550 5.6.0 bad\r\n250 2.1.5 ok\r\n250 2.6.0 taken\r\n"
        people = ["good@x.example", "bad@x.example", "best@x.example"]
        port, account = self.peer(keywords=["PIPELINING", "PRDR"], block=block, drops=True)
        relay = self.relay(port, 'ask = ["prdr"]')
        dialogue = self.dialogue(relay.port)
        dialogue.reply()
        dialogue.say("EHLO client.test")
        senders = [f"drop-{end}@client.test" for end in range(len(answer) + 1)]
        for number, sender in enumerate(senders):
            # One that goes well in between: else the hop is taken to be down.
            for one in (sender, f"fine-{number}@client.test"):
                dialogue.say(f"MAIL FROM:<{one}>", *(f"RCPT TO:<{x}>" for x in people), "DATA")
                said = dialogue.say("Subject: x\r\n\r\nhello\r\n.")[0]
                ours = re.findall(r"id (\w+)", said)[0]
                self.logged(relay, rf"{ours} to=<best@x\.example> (delivered|retry) by")
        everyone = [*senders, *(f"fine-{number}@client.test" for number in range(len(senders)))]

        def settled() -> bool:
            ends = re.findall(r"to=<\w+@x\.example> (?:delivered|failed) by", relay.log)
            return len(ends) >= 3 * len(everyone)

        until(settled, f"all outcomes\n{relay.log[-2000:]}")
        with open(account, encoding="utf-8") as file:
            taken = Counter(tuple(json.loads(line)) for line in file)
        wanted = [(sender, f"{x}@x.example") for sender in everyone for x in ("good", "best")]
        self.assertEqual(taken, Counter(wanted))
        failed = re.findall(r"to=<(\w+)@x\.example> failed by .* 550 5\.6\.0 bad", relay.log)
        self.assertEqual(failed, ["bad"] * len(everyone))
