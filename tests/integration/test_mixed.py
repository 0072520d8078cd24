"""
Mixed mail from senders that speak neither PRDR nor DEFERRALS: real ones, with
one message for three cohorts, under each choice that a listener has.
"""

from __future__ import annotations

import re
import smtplib
from typing import Any

from deferrals.stages.content.match.stage import GTUBE
from tests.integration.daemons import Exim, OpenSMTPD, Postfix
from tests.integration.support import IntegrationCase, Server, crlf, spam, until
from tests.ports import freePort
from tests.zone import Zone

CONFIG = """
hostname = "mx.example.net"
dns = ["{dns}"]

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
mixed = "{mixed}"

[policies.open]
envelope = "accept"

[policies.spam]
content = [ {{ use = "match", rules = [
  {{ test = "gtube", reply = "550 5.7.1 spam is not wanted" }},
] }} ]
quarantine = {{ use = "maildir", path = "mail/quarantine" }}

[policies.virus]
content = [ {{ use = "match", rules = [ {{ test = "eicar" }} ] }} ]
quarantine = "viruses"

[deliveries.viruses]
use = "maildir"
path = "mail/viruses"

[[recipients]]
match = "postmaster@example.net"
policy = "open"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}

[[recipients]]
match = "fighter@example.net"
policy = "spam"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}

[[recipients]]
match = "boxer@example.net"
policy = "spam"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}

[[recipients]]
match = "lover@example.net"
policy = "virus"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}

[[recipients]]
match = "*@client.test"
policy = "open"
deliver = {{ use = "maildir", path = "mail/sender" }}
"""

_SECOND = """
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
mixed = "split"
"""

#: What these say of a recipient that got a 5xx.
REFUSED = {
    "exim": r"\*\* {}@example\.net .*550.5\.7\.1",
    "postfix": r"to=<{}@example\.net>.* status=bounced .*550 5\.7\.1",
    "opensmtpd": r"to=<{}@example\.net>.* result=\"PermFail\" stat=\"550",
}

ALL = ("lover", "fighter", "boxer", "postmaster")


class Senders(IntegrationCase):
    """
    What all senders have to come to in the end.
    """

    sender = ""

    def start(self, port: int) -> Any:
        """
        The sender, whose next hop is ours.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """
        Try what waits, as it would do after a while.
        """
        self.program.flush()

    def mixed(self, choice: str, records: Any = None) -> Server:
        """
        One message for all, under this choice.
        """
        zone = Zone(records or {})
        self.addCleanup(zone.close)
        server = self.server(CONFIG.format(mixed=choice, dns="{}:{}".format(*zone.address)))
        self.program = self.start(server.port)
        recipients = [f"{local}@example.net" for local in ALL]
        self.program.send(spam(), "me@client.test", *recipients)
        return server

    def eventually(self, condition: Any, server: Server, what: str) -> None:
        """
        Retries, until it is so.
        """

        def tried() -> bool:
            if condition():
                return True
            self.flush()
            return False

        until(tried, f"{what}\n{self.program.log()}\n{server.log}", 120)

    def refused(self, local: str) -> bool:
        """
        Whether the sender's log says that it was, for good.
        """
        pattern = REFUSED[self.sender].format(local)
        return re.search(pattern, self.program.log()) is not None

    def notices(self, server: Server) -> list[bytes]:
        """
        The DSNs that our server has written.
        """
        ours = re.compile(rb"^Reporting-MTA: *dns; *mx\.example\.net", re.M | re.I)
        return [mail for mail in server.mail("sender") if ours.search(mail)]

    def exact(self, choice: str) -> None:
        """
        Everybody has what they want, and the sender knows who refused.
        """
        server = self.mixed(choice)
        self.eventually(
            lambda: (
                self.refused("fighter")
                and self.refused("boxer")
                and server.mail("lover")
                and server.mail("postmaster")
            ),
            server,
            "answers for all",
        )
        for local in ("lover", "postmaster"):
            self.assertEqual(len(server.mail(local)), 1)
            self.assertIn(GTUBE.encode(), server.mail(local)[0])
            self.assertFalse(self.refused(local))
        for local in ("fighter", "boxer", "quarantine"):
            self.assertEqual(server.mail(local), [])
        self.assertEqual(self.notices(server), [])


class Choices:
    """
    The tests, for each sender.
    """

    def test_split(self: Any) -> None:
        """One transaction for each cohort; no DSN of ours."""
        self.exact("split")

    def test_retry(self: Any) -> None:
        """One refusal for now, then each group by itself; no DSN of ours."""
        self.exact("retry")

    def test_file(self: Any) -> None:
        """Accepted; the refused copies are filed, and say why, each to its own."""
        server = self.mixed("file")
        filed = server.arrived("quarantine", 2)
        for local in ("lover", "postmaster"):
            self.assertEqual(len(server.arrived(local)), 1)
            self.assertNotIn(b"X-Deferrals-Refused", server.mail(local)[0])
        for mail in filed:
            self.assertEqual(mail.count(b"X-Deferrals-Refused: 550 5.7.1 spam is not"), 1)
        said = [{local for local in ALL if local.encode() in mail} for mail in filed]
        self.assertEqual(sorted(map(sorted, said)), [["boxer"], ["fighter"]])
        for local in ALL:
            self.assertFalse(self.refused(local))
        self.assertEqual(self.notices(server), [])
        self.assertEqual(server.mail("fighter") + server.mail("boxer"), [])

    def test_notify(self: Any) -> None:
        """Accepted; one DSN names each refuser with its own reply, to an aligned sender."""
        server = self.mixed("notify", {("client.test", "TXT"): ["v=spf1 ip4:127.0.0.1 -all"]})
        until(lambda: self.notices(server), f"a DSN\n{server.log}")
        (notice,) = self.notices(server)
        for local in ("fighter", "boxer"):
            self.assertIn(f"Final-Recipient: rfc822; {local}@example.net".encode(), notice)
            self.assertEqual(server.mail(local), [])
        ours = b"Diagnostic-Code: x-deferrals; 550 5.7.1 spam is not wanted"
        self.assertEqual(notice.count(ours), 2)
        self.assertEqual(notice.count(b"Final-Recipient:"), 2)
        for local in ("lover", "postmaster"):
            self.assertEqual(len(server.arrived(local)), 1)
        self.assertEqual(server.mail("quarantine"), [])

    def test_notifyStrangers(self: Any) -> None:
        """A sender who may have been forged gets no DSN: filed instead."""
        server = self.mixed("notify", {("client.test", "TXT"): ["v=spf1 -all"]})
        self.assertEqual(len(server.arrived("quarantine", 2)), 2)
        server.arrived("lover")
        self.assertEqual(self.notices(server), [])

    def test_strictest(self: Any) -> None:
        """One refusal is everybody's."""
        server = self.mixed("strictest")
        self.eventually(lambda: all(map(self.refused, ALL)), server, "refusals")
        for local in ALL:
            self.assertEqual(server.mail(local), [])
        self.assertEqual(self.notices(server), [])


class EximTests(Choices, Senders):
    """
    Exim without PRDR.
    """

    sender = "exim"

    def start(self, port: int) -> Exim:
        return Exim(self, f"127.0.0.1::{port}", prdr=False)


class RestartTests(IntegrationCase):
    """
    The memory survives a restart.
    """

    def test_retry(self) -> None:
        """What differed before a restart is brought apart after it."""
        port = freePort()
        config = CONFIG.format(mixed="retry", dns="127.0.0.1:9").replace("tcp:0:", f"tcp:{port}:")
        server = self.server(config)
        exim = Exim(self, f"127.0.0.1::{port}", prdr=False)
        exim.send(spam(), "me@client.test", "lover@example.net", "fighter@example.net")
        self.assertIn("451 4.7.1", exim.log())
        server.stop()
        server.start()
        exim.flush()
        self.assertEqual(len(server.arrived("lover")), 1)
        self.assertEqual(server.mail("fighter"), [])
        self.assertIn("452 4.5.3", exim.log())
        exim.flush()
        self.assertRegex(exim.log(), REFUSED["exim"].format("fighter"))


class AtOnceTests(IntegrationCase):
    """
    A sender that comes again within milliseconds.
    """

    def test_large(self) -> None:
        """
        A message that is kept in a file is known again, although it has been
        delivered and removed by then: its refuser has not to wait any longer.
        """
        server = self.server(CONFIG.format(mixed="retry", dns="127.0.0.1:9"))
        mail = (
            b"Message-ID: <1@client.test>\r\n"
            + crlf(spam())
            + b"filled up with this line\r\n" * 50000
        )
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            client.ehlo("client.test")
            self.assertEqual(self.bring(client, mail, "fighter", "lover"), [250, 250, 451])
            self.assertEqual(self.bring(client, mail, "fighter", "lover"), [452, 250, 250])
            self.assertEqual(self.bring(client, mail, "fighter"), [250, 550])
            self.assertEqual(self.bring(client, b"another\r\n", "fighter", "lover"), [250] * 3)
        self.assertEqual(len(server.arrived("lover", 2)), 2)
        self.assertEqual(len(server.arrived("fighter")), 1)

    def bring(self, client: smtplib.SMTP, mail: bytes, *locals_: str) -> list[int]:
        """
        @return: the codes of the replies to the recipients, and to the data.
        """
        client.mail("me@client.test")
        codes = [client.rcpt(f"{local}@example.net")[0] for local in locals_]
        return [*codes, client.data(mail)[0]]


class PostfixTests(Choices, Senders):
    """
    Postfix with one next hop.
    """

    sender = "postfix"

    def start(self, port: int) -> Postfix:
        return Postfix(self, f"smtp:[127.0.0.1]:{port}")

    def test_twoNames(self) -> None:
        """
        With two names for this server, Postfix brings two cohorts within one
        delivery attempt: what got 452 from the first goes to the second at once.
        """
        config = CONFIG.format(mixed="split", dns="127.0.0.1:9") + _SECOND
        server = self.server(config)
        first, second = server.ports
        sender = Postfix(self, f"smtp:[127.0.0.1]:{first}, [127.0.0.1]:{second}")
        sender.send(spam(), "me@client.test", "lover@example.net", "postmaster@example.net")
        server.arrived("lover")
        server.arrived("postmaster")
        sender.logged(r"qmgr.*: removed")
        self.assertNotIn("status=deferred", sender.log())
        relays = re.findall(rf"status=sent|:({first}|{second}), delay", sender.log())
        self.assertEqual({one for one in relays if one}, {str(first), str(second)})


class OpenSMTPDTests(Choices, Senders):
    """
    OpenSMTPD with one relay host.
    """

    sender = "opensmtpd"

    def start(self, port: int) -> OpenSMTPD:
        return OpenSMTPD(self, port)
