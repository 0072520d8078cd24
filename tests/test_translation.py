"""
What a sender says in one dialect is said to the next hop in another one: no
recipient's outcome is lost on the way, and none becomes another recipient's.

A message for several recipients comes from a sender of each kind, and goes on to
a next hop of each kind; some recipients are refused here, some there, for good
or for now.  Everything but sender and next hop is ours, and real.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from email import message_from_bytes
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import Work
from deferrals.model.envelope import Form
from deferrals.model.outgoing import PREFERENCE
from deferrals.model.reply import Reply
from deferrals.model.schedule import Schedule, parseSteps
from deferrals.model.settings import Seconds
from deferrals.model.verdict import ACCEPT, Delivered, Refuse, Route
from deferrals.relay.attempts import Deliveries
from deferrals.relay.notices import Author, Notifier
from deferrals.relay.scheduler import Scheduler
from deferrals.smtp.client.pool import NextHops
from deferrals.smtp.server.session import Session
from deferrals.stages.delivery.lmtp import LMTPDelivery, LMTPSettings
from deferrals.stages.delivery.smtp import SMTPDelivery, SMTPSettings
from deferrals.testing import FakeServices
from tests.harness import Bench, Transport
from tests.peer import Network, Peer

HOP = "tcp:hop.example:25"

#: What a next hop of each kind lists.
KEYWORDS = {
    Form.PLAIN: ("PIPELINING",),
    Form.DEFERRALS: ("PIPELINING", "DEFERRALS"),
    Form.PRDR: ("PIPELINING", "PRDR"),
    Form.EXDATA: ("PIPELINING", "XEXDATA"),
    Form.LMTP: ("PIPELINING",),
}

SENDER = "sender@client.example"

#: Accepted here and there.
LOVER, FRIEND = "lover@example.net", "friend@example.net"
#: Refused here: in the envelope, behind the data, behind the data for now.
UNKNOWN, FIGHTER, WAITER = "old-user@example.net", "fighter@example.net", "waiter@example.net"
#: Refused there: for good, for now.
GONE, FULL = "gone@example.net", "full@example.net"

EVERYBODY = (FIGHTER, LOVER, GONE, UNKNOWN, WAITER, FRIEND, FULL)

SCHEDULE = Schedule(parseSteps("60s"), Seconds(100_000.0), Seconds(0.0))


def words(recipient: str) -> str:
    """
    What is said of nobody else.
    """
    return f"the words for {recipient.partition('@')[0]}"


class Home:
    """
    Where notices to the sender go.
    """

    def __init__(self) -> None:
        self.notices: list[bytes] = []

    def destination(self, recipient: Any) -> str:
        return "home"

    def deliver(self, message: Any, envelope: Any, recipients: Sequence[Any]) -> Any:
        with message.open() as file:
            self.notices.append(file.read())
        return dict.fromkeys(recipients, Delivered())


class Relay(Bench):
    """
    Our server, with a queue and a next hop.

    @ivar peer: the next hop.
    @param isFirst: whether delivery comes before the answer (S-6).
    """

    def __init__(self, sender: Form, hop: Form, isFirst: bool) -> None:
        settings: dict[str, Any] = {}
        if sender is Form.EXDATA:
            settings["exdata"] = ("192.0.2.0/24",)
        if sender is Form.LMTP:
            settings["protocol"] = "lmtp"
        backend = {"attempt": self._attempt} if isFirst else {}
        super().__init__(backend=backend, **settings)
        self.network = Network(self.clock)
        self.peer = self.network.peers[HOP] = Peer(*KEYWORDS[hop], lmtp=hop is Form.LMTP)
        services = FakeServices("/etc", self.clock)
        services.connect = self.network.connect  # type: ignore[method-assign]
        services.nextHops = NextHops(
            self.clock, "mx.example.net", self.network.connect, maybeDeferred
        )
        box: Any = SMTPDelivery(SMTPSettings(endpoint=HOP), services)
        if hop is Form.LMTP:
            box = LMTPDelivery(LMTPSettings(endpoint=HOP), services)
        self.home = Home()
        self.scheduler = Scheduler(
            self.spool,
            self.clock,
            Deliveries(stage={"box": box, "home": self.home}.get, schedule=lambda name: SCHEDULE),
            Notifier(
                self.spool,
                Author("mx.example.net", self.backend.ids, self.clock.seconds),
                route=lambda sender: Route("open", "home"),
                inThread=maybeDeferred,
                returnOctets=1000,
            ),
        )
        self.scheduler.start()

    def _release(self, work: Work) -> None:
        self.scheduler.release(work)

    def _attempt(self, work: Work, handsBack: bool) -> Any:
        return self.scheduler.releaseAndWait(work, handsBack)

    def refusing(self, hop: Form, *refusals: tuple[str, str]) -> None:
        """
        The next hop refuses these: behind the data where it can say so for each.
        """
        said = {recipient: f"{code} {words(recipient)}" for recipient, code in refusals}
        self.peer.rcpt, self.peer.block = {}, {}
        if hop is Form.PLAIN:
            self.peer.rcpt = dict(said)
        else:
            self.peer.block = said
        if hop is Form.DEFERRALS:
            self.peer.rcpt = dict.fromkeys(EVERYBODY, "352 later")

    def wait(self, seconds: float) -> None:
        """
        Time passes.
        """
        for _ in range(int(seconds // 10)):
            self.clock.advance(10)
            self.turns()


def wholeReplies(lines: Sequence[str]) -> list[str]:
    """
    Lines into replies, each with its code.
    """
    found: list[str] = []
    isNew = True
    for line in lines:
        if isNew:
            found.append(line)
        else:
            found[-1] += " " + line[4:]
        isNew = line[3:4] != "-"
    return found


class Sender:
    """
    A sender of one kind, which does what the kind's document says.

    @ivar told: the last word on each recipient.
    """

    def __init__(self, relay: Relay, form: Form, recipients: Sequence[str]) -> None:
        self.relay = relay
        self.form = form
        self.pending = list(recipients)
        self.told: dict[str, str] = {}

    def _say(self, *lines: str) -> list[str]:
        self.session.dataReceived("".join(line + "\r\n" for line in lines).encode())
        self.relay.turns()
        said = self.transport.value().decode().split("\r\n")[:-1]
        self.transport.clear()
        return said

    def attempt(self) -> None:
        """
        One transaction for all who have no answer yet.
        """
        self.transport = Transport()
        self.session = Session(self.relay.settings, self.relay.backend, self.relay.clock)
        self.session.makeConnection(self.transport)
        self._say()
        self._say("LHLO c.example" if self.form is Form.LMTP else "EHLO c.example")
        asks = self.form in (Form.DEFERRALS, Form.PRDR, Form.EXDATA)
        parameter = f" {self.form.name}" if asks else ""
        rcpts = [f"RCPT TO:<{recipient}>" for recipient in self.pending]
        said = wholeReplies(self._say(f"MAIL FROM:<{SENDER}>{parameter}", *rcpts, "DATA"))
        named = dict(zip(self.pending, said[1:-1], strict=True))
        for recipient, reply in named.items():
            if reply[0] in "45":
                self._tell(recipient, reply)
        listed = [recipient for recipient, reply in named.items() if reply[0] in "23"]
        if listed:
            said = self._say("Message-ID: <1@client.example>", "", "text", ".")
            self._hear(named, listed, said)
        self.session.connectionLost(Failure(ConnectionDone()))

    def _hear(self, named: dict[str, str], listed: list[str], lines: list[str]) -> None:
        said = wholeReplies(lines)
        if self.form is Form.EXDATA and lines[0].startswith("558"):
            said = wholeReplies([line[4:] for line in lines])
        elif said[0].startswith("353"):
            own = [r for r in listed if self.form is Form.PRDR or named[r].startswith("352")]
            answers = dict.fromkeys(listed, said[-1])
            if said[-1][0] == "2":
                answers.update(zip(own, said[1:-1], strict=True))
            said = list(answers.values())
        elif self.form is not Form.LMTP:
            assert len(said) == 1, said
            said *= len(listed)
        for recipient, reply in zip(listed, said, strict=True):
            self._tell(recipient, reply)

    def _tell(self, recipient: str, reply: str) -> None:
        assert recipient not in self.told, "told twice"
        if reply[0] in "25":
            self.told[recipient] = reply
            self.pending.remove(recipient)


class TranslationTests(SynchronousTestCase):
    """
    Sender, next hop, and what comes first.
    """

    def translate(self, form: Form, hop: Form, isFirst: bool) -> tuple[Relay, Sender]:
        """
        One message from its first attempt to its last outcome.
        """
        relay = Relay(form, hop, isFirst)
        relay.content.verdicts.update(dict.fromkeys((LOVER, FRIEND, GONE, FULL), ACCEPT))
        company = dict.fromkeys((LOVER, FRIEND, GONE, FULL), "accepted here")
        relay.content.cohorts.update(company)
        relay.content.verdicts[FIGHTER] = Refuse(Reply(550, "5.7.1", words(FIGHTER)))
        relay.content.verdicts[WAITER] = Refuse(Reply(450, "4.7.1", words(WAITER)))
        relay.refusing(hop, (GONE, "550 5.7.1"), (FULL, "452 4.2.2"))
        sender = Sender(relay, form, EVERYBODY)
        for attempt in range(40):
            if not sender.pending:
                break
            sender.attempt()
            relay.wait(30)
            if attempt == 2:
                relay.content.verdicts[WAITER] = ACCEPT
                relay.refusing(hop, (GONE, "550 5.7.1"))
            relay.wait(300)
        relay.wait(300)
        return relay, sender

    def test_table(self) -> None:
        """
        Each recipient has the one outcome that is its own: delivered once; or its
        own refusal, which the sender has from us, in the dialogue or in a notice.
        """
        for form, hop, isFirst in itertools.product(Form, Form, (False, True)):
            case = f"{form.value} to {hop.value}{', delivered first' if isFirst else ''}"
            relay, sender = self.translate(form, hop, isFirst)
            self.assertEqual(sender.pending, [], case)
            self.assertEqual(
                Counter(relay.peer.delivered), Counter([LOVER, FRIEND, WAITER, FULL]), case
            )
            asked = {line.split()[-1] for line in relay.peer.commands if line.startswith("MAIL")}
            self.assertEqual(asked, {hop.name} if hop in PREFERENCE else {f"FROM:<{SENDER}>"}, case)
            noticed = self._noticed(relay)
            hears = isFirst and form.takesEach
            told = {UNKNOWN: "550 5.1.1", FIGHTER: "550 5.7.1"}
            if hears:
                told[GONE] = "550 5.7.1"
            self.assertEqual(set(noticed), set() if hears else {GONE}, case)
            for recipient, said in {**sender.told, **noticed}.items():
                wanted = told.get(recipient) or ("550 5.7.1" if recipient in noticed else "250")
                self.assertTrue(said.startswith(wanted), f"{case}: {recipient}: {said}")
                others = [words(one) for one in EVERYBODY if one != recipient]
                if said[0] == "5":
                    self.assertFalse([other for other in others if other in said], case)
            for recipient in (FIGHTER, GONE):
                self.assertIn(words(recipient), {**sender.told, **noticed}[recipient], case)

    def _noticed(self, relay: Relay) -> dict[str, str]:
        """
        The failures that notices tell of, with the replies that they give.
        """
        found: dict[str, str] = {}
        for notice in relay.home.notices:
            report = message_from_bytes(notice).get_payload()[1]  # type: ignore[index]
            for block in report.get_payload()[1:]:  # type: ignore[union-attr]
                recipient = block["Final-Recipient"].partition(";")[2].strip()
                self.assertNotIn(recipient, found, "told twice")
                self.assertEqual(block["Action"], "failed")
                found[recipient] = block["Diagnostic-Code"].partition(";")[2].strip()
        return found
