"""
Courier, the mail server that EXDATA comes from: as a sender to us, and as our
next hop.
"""

from __future__ import annotations

import re

from tests.integration.courier import DOMAIN, Courier
from tests.integration.support import (
    CONFIG,
    IntegrationCase,
    Server,
    cli,
    message,
    spam,
    until,
)
from tests.requirements import requirement

EXDATA = CONFIG.replace("[[listen]]", '[[listen]]\nexdata = ["127.0.0.0/8"]')

SENDER = f"sender@{DOMAIN}"

#: What accounts do that look into the content; C{waiter} once says not now.
FILTERS = {
    "lover": "exit 0\n",
    "friend": "exit 0\n",
    "fighter": 'echo "550 5.7.1 spam is not wanted"; exit 1\n',
    "boxer": 'printf "550-5.7.1 a reply\\n550 5.7.1 in two lines\\n"; exit 1\n',
    "waiter": '[ -f "$HOME/seen" ] && exit 0\ntouch "$HOME/seen"\n'
    'echo "451 4.7.1 not now"; exit 1\n',
}

RELAY = """
hostname = "relay.example.net"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
exdata = ["127.0.0.0/8"]

[policies.open]
envelope = "accept"

[policies.spam]
content = [ {{ use = "match", rules = [
  {{ test = "gtube", reply = "550 5.7.1 refused on the way" }},
] }} ]

[[recipients]]
match = "strict@{domain}"
policy = "spam"
deliver = {{ use = "smtp", endpoint = "tcp:127.0.0.1:{port}", retry = 1 }}

[[recipients]]
match = "*@{domain}"
policy = "open"
deliver = {{ use = "smtp", endpoint = "tcp:127.0.0.1:{port}", retry = 1 }}
"""


def people(*locals_: str, domain: str = DOMAIN) -> list[str]:
    return [f"{local}@{domain}" for local in locals_]


class SenderTests(IntegrationCase):
    """
    Courier sends.
    """

    @requirement("X-3")
    @requirement("X-5")
    @requirement("X-6")
    @requirement("X-7")
    def test_mixed(self) -> None:
        """
        One accepts, one refuses, one refuses for now: Courier takes the first for
        delivered, the second for failed, and comes again for the third only; all
        of it in one transaction.
        """
        server = self.server(EXDATA)
        courier = Courier(self, server.port, accounts=["sender"])
        courier.send(spam(), SENDER, *people("lover", "fighter", "waiter", domain="example.net"))
        server.arrived("lover")
        fates = {"lover@example.net": "S", "fighter@example.net": "F", "waiter@example.net": "D"}
        until(lambda: courier.fates() == fates, f"{fates}, not {courier.fates()}")
        until(lambda: server.log.count("to=<waiter@example.net> content") > 1, "another attempt")
        self.assertIn("exdata, 1 of 3 accepted", server.log)
        self.assertEqual(server.log.count("to=<lover@example.net> content"), 1)
        self.assertEqual(server.log.count("to=<fighter@example.net> content"), 1)
        self.assertEqual(len(server.mail("lover")), 1)

    @requirement("X-7")
    def test_bounce(self) -> None:
        """
        The bounce names whom it concerns, with its own reply.
        """
        server = self.server(EXDATA)
        courier = Courier(self, server.port, accounts=["sender"])
        courier.send(spam(), SENDER, *people("lover", "fighter", domain="example.net"))
        (bounce,) = courier.arrived("sender")
        text = bounce.decode()
        self.assertEqual(
            re.findall(r"^Final-Recipient: rfc822; (\S+)", text, re.M), ["fighter@example.net"]
        )
        self.assertIn("550 5.7.1 <fighter@example.net> spam is not wanted", text)
        self.assertIn("exdata, 1 of 2 accepted", server.log)
        server.arrived("lover")

    @requirement("X-9")
    def test_unanimous(self) -> None:
        """
        All accept, all refuse: an ordinary reply, which Courier takes for all.
        """
        server = self.server(EXDATA)
        courier = Courier(self, server.port, accounts=["sender"])
        courier.send(message(), SENDER, *people("lover", "fighter", domain="example.net"))
        server.arrived("lover")
        server.arrived("fighter")
        courier.send(spam(), SENDER, *people("boxer", "fighter", domain="example.net"))
        text = courier.arrived("sender")[0].decode()
        self.assertEqual(text.count("Final-Recipient:"), 2)
        diagnoses = re.findall(r"^Diagnostic-Code: smtp; (.*) \(id \w+\)", text, re.M)
        self.assertEqual(diagnoses, ["550 5.7.1 spam is not wanted"] * 2)
        self.assertEqual(server.log.count("unanimous, "), 2)

    @requirement("X-3")
    def test_elsewhere(self) -> None:
        """
        Outside of the networks XEXDATA is not offered: Courier is a plain
        sender, and comes again for the others.
        """
        server = self.server(CONFIG)
        courier = Courier(self, server.port, accounts=["sender"])
        courier.send(spam(), SENDER, *people("lover", "fighter", domain="example.net"))
        server.arrived("lover")
        text = courier.arrived("sender")[0].decode()
        self.assertEqual(text.count("Final-Recipient:"), 1)
        self.assertIn("spam is not wanted", text)
        self.assertNotIn("exdata", server.log)


class HopTests(IntegrationCase):
    """
    Courier is next.
    """

    def relay(self, courier: Courier) -> Server:
        return self.server(RELAY.format(port=courier.port, domain=DOMAIN))

    def logged(self, server: Server, pattern: str) -> None:
        until(lambda: re.search(pattern, server.log), f"{pattern}\n{server.log}")

    def send(self, port: int, *recipients: str, data: bytes, status: int) -> str:
        name = self.mktemp()
        with open(name, "wb") as file:
            file.write(data)
        words = [word for recipient in recipients for word in ("--rcpt", recipient)]
        to = ("send", "--to", f"127.0.0.1:{port}", "--from", "me@client.test", "--verbose")
        done = cli(*to, *words, name)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout

    @requirement("X-1")
    @requirement("X-2")
    @requirement("X-4")
    @requirement("X-5")
    @requirement("X-6")
    @requirement("X-7")
    def test_send(self) -> None:
        """
        Our client asks with EXDATA and reads the 558: the recipients that
        Courier's filters refuse are refused with their own replies, in one line
        or two, and the others are delivered.
        """
        courier = Courier(self, filters=FILTERS)
        said = self.send(
            courier.port,
            *people("lover", "fighter", "nobody", "waiter", "boxer", "friend"),
            data=message(),
            status=1,
        )
        self.assertRegex(said, r"C: MAIL FROM:\S+ SIZE=\d+ EXDATA\n")
        self.assertIn("S: 558-250 Ok. ", said)
        self.assertIn("S: 558-550-fighter:\n", said)
        table = said.split("\n\n")[-1]
        for local, reply in (
            ("lover", r"250 .*Ok\. "),
            ("fighter", r"550 .*spam is not wanted"),
            ("nobody", r"550 .*unknown"),
            ("waiter", r"451 .*not now"),
            ("boxer", r"550 .*in two lines"),
            ("friend", r"250 .*Ok\. "),
        ):
            self.assertRegex(table, rf"{local}@\S+ +{reply}")
        courier.arrived("lover")
        courier.arrived("friend")
        self.assertEqual(courier.mail("fighter"), [])

    @requirement("X-7")
    def test_one(self) -> None:
        """
        Courier says 558 to a single recipient, too: what is only for now is not
        taken for the end.
        """
        courier = Courier(self, filters=FILTERS)
        said = self.send(courier.port, *people("waiter"), data=message(), status=2)
        self.assertIn("S: 558 451 4.7.1 not now", said)
        self.assertRegex(said.split("\n\n")[-1], r"waiter@\S+ +451 ")

    @requirement("X-7")
    @requirement("X-5")
    def test_relay(self) -> None:
        """
        Behind our relay: delivered once, failed with its own reply, tried again.
        Courier does not mix recipients with and without a filter: who was told 412
        for that comes again.
        """
        courier = Courier(self, filters=FILTERS, accounts=["unfiltered"])
        relay = self.relay(courier)
        self.send(
            relay.port,
            *people("lover", "fighter", "waiter", "unfiltered"),
            data=message(),
            status=0,
        )
        self.logged(relay, r"to=<lover@\S+> delivered by .* 250 ")
        self.logged(relay, r"to=<fighter@\S+> failed by .* 550 .*spam is not wanted")
        self.logged(relay, r"to=<waiter@\S+> retry by .* 451 .*not now")
        self.logged(relay, r"to=<unfiltered@\S+> retry by .* 412 ")
        self.logged(relay, r"to=<waiter@\S+> delivered by")
        self.logged(relay, r"to=<unfiltered@\S+> delivered by")
        for local in ("lover", "waiter", "unfiltered"):
            self.assertEqual(len(courier.arrived(local)), 1, local)

    def test_chain(self) -> None:
        """
        Courier, our server, Courier: whom ours refuses, the first one bounces;
        whom the last one refuses, ours has to.
        """
        behind = Courier(self, filters={**FILTERS, "strict": "exit 0\n"})
        relay = self.relay(behind)
        front = Courier(self, relay.port, accounts=["sender"], domain="front.example.net")
        front.send(spam(), "sender@front.example.net", *people("lover", "strict", "fighter"))
        text = front.arrived("sender")[0].decode()
        self.assertEqual(text.count("Final-Recipient:"), 1)
        self.assertIn("refused on the way", text)
        self.logged(relay, r"exdata, 2 of 3 accepted")
        self.logged(relay, r"to=<fighter@\S+> failed by .* 550 .*spam is not wanted")
        behind.arrived("lover")
        self.assertEqual(behind.mail("strict"), [])
