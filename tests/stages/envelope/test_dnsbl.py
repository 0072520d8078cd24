"""
Asking DNS lists at RCPT TO, with a resolver without sockets.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from deferrals.deferreds import asDeferred
from deferrals.model.dnslists import DNSList
from deferrals.model.envelope import Client
from deferrals.model.settings import BadSetting
from deferrals.model.verdict import Defer, Refuse, Route
from deferrals.stages.envelope.dnsbl import DNSBLSettings, DNSBLStage
from deferrals.testing import (
    EnvelopeStageContract,
    FakeServices,
    makeEnvelope,
    makeRecipient,
)
from tests.requirements import requirement
from tests.resolver import Resolver

BLACK, GREY, WHITE, NAMES = "black.test", "grey.test", "white.test", "names.test"
LISTED = "7.100.51.198"
CLIENT = Client("198.51.100.7", 1025, "client.example.com", "ESMTP")


class DNSBLTests(EnvelopeStageContract, SynchronousTestCase):
    """
    L{DNSBLStage}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.resolver = Resolver(
            {
                (f"{LISTED}.{BLACK}", "A"): ["127.0.0.2"],
                (f"{LISTED}.{BLACK}", "TXT"): [[b"see https://black.test/?", b"198.51.100.7"]],
                (f"{LISTED}.{GREY}", "A"): ["127.0.0.4"],
                (f"{LISTED}.{WHITE}", "A"): ["127.0.0.2"],
                (f"bad.example.{NAMES}", "A"): ["127.0.1.2"],
            }
        )
        self.services = FakeServices(reactor=self.clock, resolver=self.resolver)  # type: ignore[arg-type]

    def makeStage(self, *lists: DNSList, **settings: Any) -> DNSBLStage:
        return DNSBLStage(DNSBLSettings(lists or (DNSList(BLACK),), **settings), self.services)

    def start(self, stage: DNSBLStage, client: Client = CLIENT, sender: str = "a@b.example") -> Any:
        envelope = makeEnvelope(sender, client=client)
        d: Deferred[Any] = asDeferred(stage.judgeRecipient, envelope, makeRecipient("u@x.example"))
        return d

    def said(self, stage: DNSBLStage, client: Client = CLIENT, sender: str = "a@b.example") -> str:
        verdict = self.successResultOf(self.start(stage, client, sender))
        if isinstance(verdict, Refuse):
            return str(verdict.reply)
        return type(verdict).__name__ if verdict is not None else "nothing"

    @requirement("S-1")
    def test_weights(self) -> None:
        """
        Enough refuses, less leaves it to the content, a list that speaks for the client
        takes from it; no listing says nothing.
        """
        grey, white = DNSList(GREY, weight=0.5), DNSList(WHITE, weight=-1)
        refused = "550 5.7.1 198.51.100.7 is listed by black.test: see https://black.test/?"
        for lists, wanted in (
            ([DNSList(BLACK)], f"{refused}198.51.100.7"),
            ([grey], "Defer"),
            ([grey, DNSList(BLACK)], f"{refused}198.51.100.7"),
            ([grey, DNSList(GREY, weight=0.5)], "550 5.7.1 198.51.100.7 is listed by grey.test"),
            ([white, DNSList(BLACK)], "nothing"),
            ([white, DNSList(BLACK), grey], "Defer"),
            ([DNSList("other.test")], "nothing"),
            ([DNSList(BLACK, answers=("127.0.0.3",))], "nothing"),
        ):
            self.assertEqual(self.said(self.makeStage(*lists)), wanted, lists)
        self.assertEqual(self.said(self.makeStage(refuse_weight=1.5)), "Defer")

    def test_why(self) -> None:
        """The log is told which lists it was."""
        stage = self.makeStage(DNSList(BLACK), DNSList(GREY, weight=0.25))
        self.assertEqual(
            self.successResultOf(self.start(stage)).why, "dnsbl: black.test 1, grey.test 0.25"
        )
        verdict = self.successResultOf(self.start(self.makeStage(DNSList(GREY, weight=0.25))))
        self.assertEqual((type(verdict), verdict.why), (Defer, "dnsbl: grey.test 0.25"))

    def test_names(self) -> None:
        """Lists of domains are asked about the client's name and the sender's domain."""
        names = DNSList(NAMES, "domain", answers=("127.0.1.2-99",))
        stage = self.makeStage(names)
        bad = "550 5.7.1 bad.example is listed by names.test"
        helo = Client("198.51.100.7", 1, "BAD.example.", "ESMTP")
        self.assertEqual(self.said(stage, sender="x@Bad.Example"), bad)
        self.assertEqual(self.said(stage, helo, sender=""), bad)
        self.assertEqual(self.said(stage, sender="x@fine.example"), "nothing")
        before = len(self.resolver.asked)
        for name in ("[198.51.100.7]", "198.51.100.7", "localhost", "", "a" * 250 + ".example"):
            client = Client("198.51.100.7", 1, name, "ESMTP")
            self.assertEqual(self.said(stage, client, sender=""), "nothing")
        self.assertEqual(len(self.resolver.asked), before)

    def test_sixth(self) -> None:
        """IPv6 clients, by their nibbles."""
        client = Client("2001:db8::1", 1, "c.example", "ESMTP")
        name = ".".join("20010db8000000000000000000000001"[::-1])
        self.resolver.records[(f"{name}.{BLACK}", "A")] = ["127.0.0.2"]
        wanted = "550 5.7.1 2001:db8::1 is listed by black.test"
        self.assertEqual(self.said(self.makeStage(), client), wanted)

    def test_notAsked(self) -> None:
        """Private clients, and those who have logged in, are not asked about."""
        stage = self.makeStage(DNSList(BLACK), DNSList(NAMES, "domain"))
        for client in (
            *(Client(one, 1, "bad.example") for one in ("127.0.0.1", "::1", "10.0.0.1", "local")),
            Client("unknown", 0, "bad.example"),
            Client("198.51.100.7", 1, "bad.example", "ESMTPA", "anna"),
        ):
            self.assertEqual(self.said(stage, client), "nothing")
        self.assertEqual(self.resolver.asked, [])

    def test_askedOnce(self) -> None:
        """
        One look-up for all recipients and policies of a session, listed or not; the text
        only where it is needed.
        """
        lists = (DNSList(BLACK), DNSList("other.test"))
        stages = [self.makeStage(*lists, refuse_weight=n) for n in (1.0, 2.0, 3.0)]
        for _ in range(3):
            for stage in stages:
                self.said(stage)
            self.clock.advance(9)
        name = f"{LISTED}.{BLACK}"
        wanted = [(name, "A"), (f"{LISTED}.other.test", "A"), (name, "TXT")]
        self.assertEqual(self.resolver.asked, wanted)
        self.clock.advance(400)
        self.said(stages[1])
        self.assertEqual(self.resolver.asked[3:], wanted[:2])

    def test_ofTransaction(self) -> None:
        """
        What lists say is found out once for a transaction, and each recipient goes by its
        own limit, where a check before has said one.
        """
        stage, envelope = self.makeStage(on_error="refuse-temporarily"), makeEnvelope(client=CLIENT)
        found = []
        for own in ((), (("refuse_weight", 2.0),), (("refuse_weight", -1.0),)):
            recipient = makeRecipient("u@x.example").routed(Route("p", "box", own))
            d: Deferred[Any] = asDeferred(stage.judgeRecipient, envelope, recipient)
            found.append(type(self.successResultOf(d)).__name__)
            self.resolver.broken.add(f"{LISTED}.{BLACK}")
            self.clock.advance(400)
        self.assertEqual(found, ["Refuse", "Defer", "Refuse"])
        self.assertEqual([kind for _, kind in self.resolver.asked].count("A"), 1)

    def test_askedOnceTogether(self) -> None:
        """So is what comes pipelined, while there is no answer."""
        self.resolver.silent.add(f"{LISTED}.{BLACK}")
        stage = self.makeStage()
        waiting = [self.start(stage) for _ in range(5)]
        self.assertEqual(len(self.resolver.asked), 1)
        waiting[0].cancel()
        self.failureResultOf(waiting.pop(0))
        with capturedLogs() as events:
            self.clock.advance(5)
        self.assertEqual([self.successResultOf(d) for d in waiting], [None] * 4)
        self.assertEqual(len(self.resolver.asked), 1)
        self.assertIn("so skip", "".join(str(formatEvent(one)) for one in events))

    def test_noTTL(self) -> None:
        """An answer that DNS would have forgotten at once is everybody's in a message."""
        self.resolver.ttl = 0
        stage = self.makeStage(refuse_weight=2.0)
        self.said(stage)
        self.clock.advance(10)
        self.said(stage)
        self.assertEqual(len(self.resolver.asked), 1)

    def test_silent(self) -> None:
        """
        No answer: as if the list were not there, or 451; and the next recipient does not
        wait again.
        """
        for on_error, wanted in (
            ("skip", "nothing"),
            ("refuse-temporarily", "451 4.4.3 whether the client is listed cannot be found"),
        ):
            self.setUp()
            self.resolver.silent.add(f"{LISTED}.{BLACK}")
            stage = self.makeStage(on_error=on_error)
            d = self.start(stage)
            self.clock.advance(4.9)
            self.assertNoResult(d)
            self.clock.advance(0.2)
            verdict = self.successResultOf(d)
            self.assertEqual(verdict is None, on_error == "skip")
            self.assertTrue(self.said(stage).startswith(wanted))
            self.assertEqual(len(self.resolver.asked), 1)

    def test_others(self) -> None:
        """A list that does not answer takes nothing from what the others say."""
        self.resolver.broken.add(f"{LISTED}.{GREY}")
        for on_error in ("skip", "refuse-temporarily"):
            stage = self.makeStage(DNSList(GREY), DNSList(BLACK), on_error=on_error)
            self.assertTrue(self.said(stage).startswith("550 5.7.1 198.51.100.7 is listed by"))

    def test_silentAllowList(self) -> None:
        """What a silent list could have prevented is no refusal for good."""
        self.resolver.broken.add(f"{LISTED}.{WHITE}")
        stage = self.makeStage(DNSList(BLACK), DNSList(WHITE, weight=-0.5))
        self.assertTrue(self.said(stage).startswith("451 4.4.3"))
        enough = DNSList(BLACK, weight=2)
        stage = self.makeStage(enough, DNSList(WHITE, weight=-0.5))
        self.assertTrue(self.said(stage).startswith("550 5.7.1"))

    def test_dead(self) -> None:
        """A dead list is left alone: sessions do not wait for it."""
        stage = self.makeStage()
        for number in range(5):
            client = Client(f"198.51.100.{number}", 1, "c.example")
            self.resolver.silent.add(f"{number}.100.51.198.{BLACK}")
            d = self.start(stage, client)
            self.clock.advance(5.1)
            self.successResultOf(d)
        asked = len(self.resolver.asked)
        for number in range(50, 60):
            self.said(stage, Client(f"198.51.100.{number}", 1, "c.example"))
        self.assertEqual(len(self.resolver.asked), asked)
        self.clock.advance(11)
        self.assertTrue(self.said(stage).startswith("550"))

    def test_toldOnce(self) -> None:
        """That a list is silent is told once a minute, and not for each message."""
        stage = self.makeStage(DNSList(BLACK), DNSList(GREY))
        told = []
        for _ in range(2):
            with capturedLogs() as events:
                for number in range(20):
                    client = Client(f"198.51.100.{number}", 1, "c.example")
                    self.resolver.broken.add(f"{number}.100.51.198.{BLACK}")
                    self.said(stage, client)
                    self.clock.advance(1)
            told.append([one["list"] for one in events if one.get("event") == "no-list"])
            self.clock.advance(60)
        self.assertEqual(told, [[BLACK], [BLACK]])

    def test_notAList(self) -> None:
        """
        What a parked zone answers, and what a list answers a resolver that it does not
        serve, lists nobody, and is told once.
        """
        for answer in ("192.0.2.80", "127.255.255.254"):
            self.setUp()
            stage = self.makeStage(on_error="refuse-temporarily")
            with capturedLogs() as events:
                for number in range(4):
                    name = f"{number}.100.51.198.{BLACK}"
                    self.resolver.records[(name, "A")] = [answer, "127.0.0.2"]
                    client = Client(f"198.51.100.{number}", 1, "c.example")
                    self.assertTrue(self.said(stage, client).startswith("451 4.4.3"))
            said = [str(formatEvent(one)) for one in events]
            wanted = f"the list black.test answers {answer}"
            self.assertEqual(sum(one.startswith(wanted) for one in said), 1, said)

    def test_hostileText(self) -> None:
        """What a list says of a client is one line, cleaned and cut."""
        name = f"{LISTED}.{BLACK}"
        for text, wanted in (
            ([b"no\r\n250 ok"], "550 5.7.1 198.51.100.7 is listed by black.test: no  250 ok"),
            ([b"{zone.__class__}"], ": {zone.__class__}"),
            ([b"x" * 255] * 200, f": {'x' * 200}"),
            ([b""], "550 5.7.1 198.51.100.7 is listed by black.test"),
        ):
            self.setUp()
            self.resolver.records[(name, "TXT")] = [text]
            said = self.said(self.makeStage())
            self.assertTrue(said.endswith(wanted), said)
            self.assertEqual(len(said.splitlines()), 1)

    def test_noText(self) -> None:
        """A refusal does without the text, where that does not come."""
        self.resolver.query, query = self.noTexts, self.resolver.query  # type: ignore[method-assign]
        self.query = query
        d = self.start(self.makeStage())
        self.assertNoResult(d)
        self.clock.advance(5.1)
        reply = self.successResultOf(d).reply
        self.assertEqual(str(reply), "550 5.7.1 198.51.100.7 is listed by black.test")

    def noTexts(self, query: Any, timeout: Any = None) -> Any:
        return Deferred() if query.type == 16 else self.query(query, timeout)

    def test_hiddenZone(self) -> None:
        """A customer's key is neither in the reply nor in the log."""
        zone = f"secret.{BLACK}"
        self.resolver.records[(f"{LISTED}.{zone}", "A")] = ["127.0.0.2"]
        stage = self.makeStage(DNSList(zone, name="black"))
        self.assertEqual(self.said(stage), "550 5.7.1 198.51.100.7 is listed by black")
        self.resolver.broken.add(f"8.100.51.198.{zone}")
        with capturedLogs() as events:
            self.said(stage, Client("198.51.100.8", 1, "c.example"))
        said = "".join(str(formatEvent(one)) for one in events)
        self.assertNotIn("secret", said + repr(self.services.status.snapshot()))
        self.assertIn("black", said)

    def test_wrong(self) -> None:
        """What no settings can be."""
        lists = (DNSList(BLACK),)
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("lists", {"lists": ()}),
            ("lists", {"lists": (DNSList(WHITE, weight=-1),)}),
            ("refuse_weight", {"refuse_weight": 0.0}),
            ("refuse_weight", {"refuse_weight": float("nan")}),
            ("timeout", {"timeout": 0}),
            ("cache", {"cache": 0}),
            ("dns", {"dns": ("dns.example",)}),
            ("reply", {"reply": "250 ok"}),
            ("reply", {"reply": "550 5.7.1 {other}"}),
            ("reply", {"reply": "550 5.7.1 {client.address}"}),
        ]
        for key, settings in wrong:
            error = self.assertRaises(BadSetting, DNSBLSettings, **{"lists": lists, **settings})
            self.assertEqual(error.key, key, settings)
