"""
Mail that goes where DNS says, with a zone on loopback.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from typing import Any

from twisted.internet import defer
from twisted.trial.unittest import TestCase

from deferrals.server.network import makeResolver
from deferrals.stages.delivery.route import NoRoute, Router
from deferrals.stages.lookups import Names
from tests.integration.support import (
    CONFIG,
    ROOT,
    Dialogue,
    IntegrationCase,
    Process,
    Server,
    cli,
    message,
    path,
    spam,
    until,
)
from tests.ports import freePort
from tests.requirements import requirement
from tests.resolver import RECORDS
from tests.zone import Zone

#: Servers at addresses of their own on loopback, all with one port.
ZONE: dict[tuple[str, str], list[Any]] = {
    ("example.net", "MX"): [
        (10, "dead.mx.example"),
        (20, "busy.mx.example"),
        (30, "mx.mx.example"),
    ],
    ("dead.mx.example", "A"): ["127.0.0.9"],
    ("busy.mx.example", "A"): ["127.0.0.3"],
    ("mx.mx.example", "A"): ["127.0.0.2"],
    ("xn--bcher-kva.example", "MX"): [(10, "mx.mx.example")],
    ("implicit.example", "A"): ["127.0.0.2"],
    ("null.example", "MX"): [(0, "")],
    ("ours.example", "MX"): [(10, "relay.example.org"), (20, "mx.mx.example")],
    ("relay.example.org", "A"): ["127.0.0.1"],
    ("mirror.example", "MX"): [(10, "mirror.mx.example"), (20, "mx.mx.example")],
    ("mirror.mx.example", "A"): ["127.0.0.4"],
    ("client.test", "MX"): [(10, "mx.mx.example")],
}

RELAY = """
hostname = "relay.example.org"
dns = ["127.0.0.1:{dns}"]
bounces = "out"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[policies.open]
envelope = "accept"

[deliveries.out]
use = "mx"
port = {port}
never = []
ipv6 = false
retry = 1

[[recipients]]
match = "*"
policy = "open"
allow = ["127.0.0.1"]
deliver = "out"
"""

#: The server that has the mailboxes.
TARGET = """
[[recipients]]
match = "me@client.test"
policy = "open"
deliver = { use = "maildir", path = "mail/me" }

[[recipients]]
match = "*@implicit.example"
policy = "open"
deliver = { use = "maildir", path = "mail/implicit" }

[[recipients]]
match = "*@b\u00fccher.example"
policy = "open"
deliver = { use = "maildir", path = "mail/books" }
"""


class ZoneTests(TestCase):
    """
    twisted.names, and a zone on loopback.
    """

    @defer.inlineCallbacks
    def test_zone(self) -> Any:
        """The look-ups of L{Names} work with the resolver that the server uses."""
        from twisted.internet import reactor

        zone = Zone({key: value for key, value in RECORDS.items() if key[1] != "CNAME"})
        self.addCleanup(zone.close)
        resolver = makeResolver(reactor, [zone.address])
        router = Router(
            Names(lambda: resolver, reactor), list.sort, lambda n: False, lambda a: True, 10, True
        )
        found = yield router.route("x.example")
        self.assertEqual(found[0].address, "2001:db8::1")
        self.assertEqual(len(found), 5)
        found = yield router.route("implicit.example")
        self.assertEqual(found[0].address, "192.0.2.4")
        for domain, code in (("null.example", 556), ("gone.example", 550)):
            try:
                yield router.route(domain)
            except NoRoute as error:
                self.assertEqual(error.outcome.reply.code, code)
            else:
                self.fail(domain)


class ServerTests(IntegrationCase):
    """
    A whole server that sends to MX hosts: a zone and servers on loopback.
    """

    def setUp(self) -> None:
        self.zone = Zone(ZONE)
        self.addCleanup(self.zone.close)
        self.port = freePort()
        target = CONFIG.replace(
            '"tcp:0:interface=127.0.0.1"', f'"tcp:{self.port}:interface=127.0.0.2"'
        )
        self.target = self.server(target + TARGET)
        self.relay = self.server(RELAY.format(dns=self.zone.address[1], port=self.port))

    def peer(self, interface: str, **spec: str) -> None:
        """
        L{tests.peer} at an address.
        """
        directory = self.directory()
        name = os.path.join(directory, "spec.json")
        with open(name, "w", encoding="utf-8") as file:
            account = os.path.join(directory, "account")
            whole = {**spec, "account": account, "interface": interface, "port": self.port}
            json.dump(whole, file)
        process = Process(
            [sys.executable, "-m", "tests.peer", name],
            os.path.join(directory, "log"),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path(ROOT)},
        )
        self.addCleanup(process.kill)
        process.ready(lambda: "listening on" in process.output(), "a server")

    def send(self, *recipients: str, data: bytes = b"", sender: str = "me@client.test") -> None:
        name = self.mktemp()
        with open(name, "wb") as file:
            file.write(data or message())
        words = [word for recipient in recipients for word in ("--rcpt", recipient)]
        done = cli("send", "--to", f"127.0.0.1:{self.relay.port}", "--from", sender, *words, name)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def logged(self, pattern: str, server: Server | None = None) -> None:
        log = server or self.relay
        until(lambda: re.search(pattern, log.log), f"{pattern}\n{log.log}")

    def test_hosts(self) -> None:
        """
        The next host, where the first does not answer and the second says 4xx;
        the domain's own address without MX; an international domain as A-labels
        (RFC 5321 \u00a75.1, RFC 5890).
        """
        self.peer("127.0.0.3", greeting="421 4.3.2 too busy")
        self.send("lover@example.net", "a@implicit.example", "b@xn--bcher-kva.example")
        self.target.arrived("lover")
        self.target.arrived("implicit")
        self.target.arrived("books")
        for local in ("lover", "a", "b"):
            self.logged(rf"to=<{local}@\S+> delivered by out 250")

    @requirement("D-11")
    def test_answers(self) -> None:
        """DEFERRALS on the way to the MX: who refuses the content is bounced, alone."""
        self.send("fighter@example.net", "lover@example.net", data=spam())
        self.target.arrived("lover")
        self.logged(r"to=<fighter@\S+> failed by out 550 5\.7\.1 .*spam is not wanted")
        (notice,) = self.target.arrived("me")
        self.assertIn(b"fighter@example.net", notice)
        self.assertNotIn(b"lover@example.net", notice)

    def test_nowhere(self) -> None:
        """
        Null MX (RFC 7505), no such domain, a domain whose best server is this
        one by name or by greeting: a notice to the sender, and nothing is sent.
        """
        self.peer("127.0.0.4", name="relay.example.org")
        ends = {
            "null.example": r"556 5\.1\.10",
            "gone.example": r"550 5\.1\.2",
            "ours.example": r"554 5\.4\.6",
            "mirror.example": r"554 5\.4\.6",
        }
        self.send(*(f"a@{domain}" for domain in ends))
        for domain, said in ends.items():
            self.logged(rf"to=<a@{domain}> failed by out {said}")
        told = b"".join(self.target.arrived("me"))
        until(
            lambda: all(d.encode() in b"".join(self.target.mail("me")) for d in ends),
            f"notices about all of them\n{told!r}\n{self.relay.log}",
        )

    def test_strangers(self) -> None:
        """A client that is not allowed sends nothing out."""
        relay = RELAY.replace('127.0.0.1"]\ndeliver', '192.0.2.0/24"]\ndeliver')
        server = self.server(relay.format(dns=self.zone.address[1], port=self.port))
        dialogue: Dialogue = self.dialogue(server.port)
        dialogue.reply()
        dialogue.say("EHLO client.test")
        _, rcpt = dialogue.say("MAIL FROM:<me@client.test>", "RCPT TO:<lover@example.net>")
        self.assertTrue(rcpt.startswith("550 5.7.1"), rcpt)


#: A DNS that says nothing, and a Maildir on this machine.
SILENT = """
hostname = "mx.example.org"
dns = ["127.0.0.1:{dns}"]
max_delivering = 40

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[policies.open]
envelope = "accept"

[[recipients]]
match = "*@here.example"
policy = "open"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}

[[recipients]]
match = "*"
policy = "open"
allow = ["127.0.0.1"]
deliver = {{ use = "mx", never = [], retry = 1}}
"""

#: Domains whose DNS is silent.
DOMAINS = 150


class SilentTests(IntegrationCase):
    """
    Others that say nothing.
    """

    def test_local(self) -> None:
        """Mail for this machine passes all that waits for others, also after a restart."""
        silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(silent.close)
        silent.bind(("127.0.0.1", 0))
        config = SILENT.format(dns=silent.getsockname()[1])
        server = self.server(config)
        names = [f"a@d{number}.example" for number in range(DOMAINS)]
        for name in names:
            self.post(server.port, name)
        self.post(server.port, "first@here.example")
        server.arrived("first")
        self.post(server.port, "killed@here.example")  # perhaps under way at the kill
        server.kill()
        server.start()
        server.arrived("killed")
        self.post(server.port, "second@here.example")
        server.arrived("second")
        # What has arrived may be in the queue for another moment.
        until(lambda: self.messages(server) == DOMAINS, "all but these three wait")

    def messages(self, server: Server) -> int:
        status = json.loads(cli("status", "--json", "--config", server.path).stdout)
        return int(status["queue"]["messages"])

    def post(self, port: int, recipient: str) -> None:
        dialogue = Dialogue(port)
        try:
            dialogue.reply()
            envelope = ("HELO x.test", "MAIL FROM:<s@x.test>", f"RCPT TO:<{recipient}>", "DATA")
            for line in envelope:
                (reply,) = dialogue.say(line)
            self.assertEqual(reply[:3], "354")
            (reply,) = dialogue.say("Subject: x\r\n\r\nx\r\n.")
            self.assertEqual(reply[:3], "250", reply)
        finally:
            dialogue.close()
