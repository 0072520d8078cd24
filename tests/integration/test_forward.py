"""
Forwarding: through a real Postfix whose rspamd checks SPF, back through SRS, and in
circles between two of our servers.
"""

from __future__ import annotations

import json
import os
import re
import smtplib
import urllib.request

from twisted.trial.unittest import SkipTest

from tests import signatures
from tests.integration.daemons import Postfix
from tests.integration.scanners import Rspamd
from tests.integration.support import (
    IntegrationCase,
    Server,
    message,
    takesAll,
    until,
)
from tests.ports import freePort
from tests.zone import Zone

SENDER = "me@client.test"

#: What the senders' domain, and ours, say of the machine that all of this is on.
RECORDS = {
    ("client.test", "TXT"): ["v=spf1 ip4:192.0.2.0/24 -all"],
    ("example.net", "TXT"): ["v=spf1 ip4:127.0.0.0/8 -all"],
}

FORWARDER = """
hostname = "mx.example.net"
bounces = "out"

[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"

[srs]
domain = "example.net"
secret_file = "{secret}"

[deliveries.out]
use = "smtp"
endpoint = "tcp:127.0.0.1:{next}"
retry = 1

[deliveries.onwards]
use = "forward"
through = "out"
retry = 1

[policies.open]
envelope = "accept"

[[recipients]]
match = "*@example.net"
policy = "open"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}

[[recipients]]
match = "*@far.test"
policy = "open"
deliver = "onwards"
{check}
"""


class SPFRspamd(Rspamd):
    """
    One that refuses what SPF forbids, from this machine, too, and checks seals; nothing
    else, so that it is there soon.

    @ivar milter: the port of its proxy, which is a milter.
    """

    filters = "dkim"
    modules = ("arc", "spf")
    further = ("force_actions",)
    inOptions = 'local_addrs = ["192.0.2.255/32"];'
    own = """
actions { reject = 15; add_header = null; greylist = null; }
dkim { check_local = true; check_authed = true; }
spf { check_local = true; check_authed = true; }
arc { check_local = true; check_authed = true; sign_inbound = false; sign_local = false; }
force_actions {
  rules { SPF { action = "reject"; expression = "R_SPF_FAIL"; message = "SPF says no"; } }
}
"""
    proxy = """
worker "rspamd_proxy" {
  bind_socket = "127.0.0.1:%d"; milter = yes; timeout = 60s; count = 1;
  upstream "local" { default = yes; hosts = "127.0.0.1:%d"; }
}
"""

    def prepare(self) -> None:
        self.milter = freePort()
        self.own += self.proxy % (self.milter, self.port)
        super().prepare()


class ForwardCase(IntegrationCase):
    """
    Servers of ours that forward.
    """

    def secret(self) -> str:
        path = os.path.join(self.directory(), "srs.secret")
        with open(path, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write("a secret of this test\n")
        return path

    def send(self, port: int, *recipients: str, data: bytes = b"") -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
            client.sendmail(SENDER, recipients, data or message())

    def logged(self, server: Server, pattern: str) -> str:
        try:
            found = until(lambda: re.search(pattern, server.log), pattern)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{server.log}") from None
        return str(found[0])


class PostfixCase(ForwardCase):
    """
    A Postfix, and another one of ours behind it.
    """

    milters = ""

    def setUp(self) -> None:
        refused = '[policies.no]\nenvelope = "refuse"\n[[recipients]]\nmatch = "late@far.test"\n'
        self.far = self.server(takesAll(match="*", tables=f'{refused}policy = "no"\n'))
        self.port = freePort()
        self.postfix = Postfix(
            self,
            f"smtp:[127.0.0.1]:{self.far.port}",
            f"smtpd_milters = {self.milters}\nmilter_default_action = tempfail\n"
            f"transport_maps = inline:{{ {{ example.net = smtp:[127.0.0.1]:{self.port} }} }}\n"
            "smtpd_recipient_restrictions = "
            "check_recipient_access inline:{ { gone@far.test = REJECT } }\n",
        )

    def forwarder(self, check: str = "", *, top: str = "", tables: str = "") -> Server:
        config = FORWARDER.format(
            port=self.port, secret=self.secret(), next=self.postfix.port, check=check
        )
        return self.server(top + config.replace("[srs]", f"{tables}[srs]"))


class PostfixTests(PostfixCase):
    """
    Behind a real Postfix.
    """

    def test_bounce(self) -> None:
        """
        Postfix takes it, cannot deliver it, and writes to the path that it knows: the
        report reaches the sender.
        """
        server = self.forwarder()
        self.send(self.port, "late@far.test")
        (report,) = self.far.arrived("me")
        self.assertTrue(report.startswith(b"Return-Path: <>"), report)
        self.assertIn(b"MAILER-DAEMON@sender.client.test", report)
        self.assertIn(b"Final-Recipient: rfc822; late@far.test", report)
        self.logged(server, r"to=<SRS0=\S+@example\.net> goes back to <me@client\.test>")
        self.logged(server, r"to=<SRS0=\S+@example\.net> delivered by \[srs\]")

    def test_refused(self) -> None:
        """
        What Postfix refuses at once is told to the sender itself, from here; with
        C{callout}, it is refused while the sender is there, and the others get it.
        """
        server = self.forwarder()
        self.send(self.port, "gone@far.test")
        (report,) = self.far.arrived("me")
        self.assertIn(b"From: Mail Delivery System <MAILER-DAEMON@mx.example.net>", report)
        self.logged(server, r"to=<gone@far\.test> failed: <me@client\.test> is told")
        server.stop()
        self.forwarder('check = [ { use = "callout", through = "onwards" } ]')
        with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
            refused = client.sendmail(SENDER, ["gone@far.test", "you@far.test"], message())
        code, said = refused["gone@far.test"]
        self.assertEqual(code, 554 if said.startswith(b"5.7.1 Access") else 550)
        self.far.arrived("you")
        self.assertEqual(len(self.far.mail("me")), 1)

    def test_forged(self) -> None:
        """A path that this server has not signed is no recipient; a good one is for reports."""
        server = self.forwarder()
        self.send(self.port, "you@far.test")
        path = self.logged(server, r"goes on from <(SRS0=\S+@example\.net)>")[14:-1]
        with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
            client.ehlo("x.test")
            for sender, recipient, code in (
                ("", path, 250),
                ("", path.lower(), 250),
                ("", path.replace("=me@", "=you@"), 550),
                (SENDER, path, 550),
            ):
                client.mail(sender)
                self.assertEqual(client.rcpt(recipient)[0], code, recipient)
                client.rset()


class SPFTests(PostfixCase):
    """
    Behind one that asks rspamd.
    """

    def setUp(self) -> None:
        self.records = dict(RECORDS)
        zone = Zone(self.records)
        self.addCleanup(zone.close)
        self.nameserver = "{}:{}".format(*zone.address)
        self.rspamd = SPFRspamd(self, self.nameserver)
        self.milters = f"inet:127.0.0.1:{self.rspamd.milter}"
        super().setUp()

    def test_sealed(self) -> None:
        """rspamd finds that the seal holds, and that another text breaks it."""
        if signatures.MISSING:
            raise SkipTest(signatures.MISSING)
        key = signatures.key("rsa")
        for name, record in signatures.zone([key]).items():
            self.records[name.rstrip("."), "TXT"] = [record.decode()]
        path = os.path.join(self.directory(), "key.pem")
        with open(path, "wb") as file:
            file.write(signatures.pem("rsa"))
        table = f'[[dkim]]\ndomain = "example.net"\nselector = "rsa"\nkey = "{path}"\n'
        server = self.forwarder(top=f'dns = ["{self.nameserver}"]\n', tables=table)
        self.send(self.port, "you@far.test")
        (copy,) = self.far.arrived("you")
        self.assertIn(b"ARC-Authentication-Results: i=1; mx.example.net;", copy)
        octets = copy.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        for text, symbol in ((octets, "ARC_ALLOW"), (octets.replace(b"hello", b"x"), "ARC_REJECT")):
            headers = {"IP": "192.0.2.9", "From": SENDER, "Rcpt": "you@far.test"}
            request = urllib.request.Request(f"{self.rspamd.url}/checkv2", text, headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                self.assertIn(symbol, json.load(answer)["symbols"])
        self.assertNotIn("is not sealed", server.log)

    def test_spf(self) -> None:
        """What Postfix refuses under the sender's own path, it takes from the forwarder."""
        with self.assertRaises(smtplib.SMTPDataError) as caught:
            self.send(self.postfix.port, "you@far.test")
        self.assertIn(b"SPF says no", caught.exception.smtp_error)
        server = self.forwarder()
        self.send(self.port, "you@far.test")
        (copy,) = self.far.arrived("you")
        path = re.match(rb"Return-Path: <(SRS0=\S{4}=\S\S=client\.test=me@example\.net)>", copy)
        assert path is not None, copy
        self.assertTrue(copy.rstrip().endswith(b"\r\n\r\nhello"), copy)
        self.logged(server, re.escape(f"to=<you@far.test> goes on from <{path[1].decode()}>"))


class MarkedTests(ForwardCase):
    """
    Mail that rspamd marks.
    """

    def test_marked(self) -> None:
        """It is refused while the sender is there; or it goes on, marked; or it is filed."""
        rspamd, far = Rspamd(self), self.server(takesAll(match="*"))
        for marked, port in (("fail", freePort()), ("forward", freePort()), ("file", freePort())):
            config = FORWARDER.format(port=port, secret=self.secret(), next=far.port, check="")
            config = config.replace('through = "out"', f'through = "out"\nmarked = "{marked}"')
            config = config.replace(
                'policy = "open"\ndeliver = "onw', 'policy = "spam"\ndeliver = "onw'
            )
            server = self.server(
                config.replace(
                    "[policies.open]",
                    '[deliveries.aside]\nuse = "maildir"\npath = "mail/aside"\n'
                    '[policies.spam]\nquarantine = "aside"\n'
                    f'content = [ {{ use = "rspamd", url = "{rspamd.url}", mark_score = 4 }} ]\n'
                    "[policies.open]",
                )
            )
            self.send(port, f"good-{marked}@far.test")
            far.arrived(f"good-{marked}")
            data = message(subject="score-five")
            if marked == "fail":
                with self.assertRaises(smtplib.SMTPDataError) as caught:
                    self.send(port, "junk-fail@far.test", data=data)
                self.assertEqual(caught.exception.smtp_code, 550)
                self.assertIn(b"not forwarded", caught.exception.smtp_error)
                continue
            self.send(port, f"junk-{marked}@far.test", data=data)
            if marked == "forward":
                self.assertIn(b"X-Spam-Flag: YES", far.arrived("junk-forward")[0])
            else:
                self.logged(server, r"to=<junk-file@far\.test> delivered by aside")
        self.assertEqual(far.mail("junk-fail") + far.mail("junk-file"), [])


class LoopTests(ForwardCase):
    """
    Two servers that forward one domain to each other.
    """

    def test_circle(self) -> None:
        """It ends, with one report, which finds its way back through both."""
        ports = {"a.test": freePort(), "b.test": freePort()}
        servers = {}
        for here, there in (("a.test", "b.test"), ("b.test", "a.test")):
            config = FORWARDER.format(
                port=ports[here], secret=self.secret(), next=ports[there], check=""
            )
            config = config.replace("example.net", here)
            config = config.replace('use = "smtp"', 'use = "smtp"\nmax_hops = 7')
            if here == "b.test":
                config += (
                    '[[recipients]]\nmatch = "*@client.test"\npolicy = "open"\n'
                    'deliver = { use = "maildir", path = "mail/{local}" }\n'
                )
            servers[here] = self.server(config)
        self.send(ports["a.test"], "you@far.test")
        (report,) = servers["b.test"].arrived("me")
        self.assertIn(b"5.4.6", report)
        self.assertIn(b"too many Received headers", report)
        self.logged(servers["b.test"], r"to=<SRS1=\S+@\S+> goes back to <SRS0=\S+@a\.test>")

    def test_aliases(self) -> None:
        """
        Two aliases that lead to each other: the second server sends nothing back to where
        it was, and the sender is told once.  A sender that reads one reply for all is
        refused behind the data.
        """
        ports = {"a.test": freePort(), "b.test": freePort()}
        names = {"a.test": "team", "b.test": "other"}
        servers = {}
        for here, there in (("a.test", "b.test"), ("b.test", "a.test")):
            config = FORWARDER.format(
                port=ports[here], secret=self.secret(), next=ports[there], check=""
            )
            path = os.path.join(self.directory(), "aliases")
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"{names[here]}: {names[there]}@{there}\n")
            rules = config.index("[[recipients]]")
            config = config[:rules].replace("example.net", here) + (
                f'[[recipients]]\nmatch = "*@{here}"\npolicy = "open"\ndeliver = "onwards"\n'
                f'check = [ {{ use = "aliases", file = "{path}", refusers = "drop" }} ]\n'
                '[[recipients]]\nmatch = "*@client.test"\npolicy = "open"\n'
                'deliver = { use = "maildir", path = "mail/{local}" }\n'
                '[[recipients]]\nmatch = "*"\npolicy = "open"\ndeliver = "onwards"\n'
                'allow = ["members"]\n'
            )
            servers[here] = self.server(config)
        self.send(ports["a.test"], "team@a.test")
        failed = r"to=<team@a\.test> alias=<other@b\.test> failed by onwards 554 5\.4\.6"
        self.logged(servers["b.test"], failed)
        report = until(
            lambda: servers["a.test"].mail("me") or servers["b.test"].mail("me"), "a report"
        )
        self.assertEqual(len(report), 1)
        self.assertIn(b"5.4.6", report[0])
        with self.assertRaises(smtplib.SMTPDataError) as caught:
            looping = b"Delivered-To: team@a.test\n" + message()
            self.send(ports["b.test"], "other@b.test", data=looping)
        self.assertEqual(caught.exception.smtp_code, 550)
        self.assertIn(b"5.4.6", caught.exception.smtp_error)
