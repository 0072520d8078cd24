"""
DNS lists on loopback, whose zone counts the questions: whatever they answer; a listed
client of stock Exim's, and one message to recipients who think differently of that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as theReactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.names import dns
from twisted.trial.unittest import TestCase

from deferrals.errors import StageError
from deferrals.server.network import makeResolver
from deferrals.stages import lookups
from deferrals.stages.envelope.listzone import ListZone
from deferrals.testing import FakeServices
from tests.integration.daemons import Exim
from tests.integration.front import Front
from tests.integration.support import IntegrationCase, cli, spam
from tests.ports import freePort
from tests.zone import Zone

LISTED = "7.100.51.198"
RECORDS: dict[tuple[str, str], list[Any]] = {
    (f"{LISTED}.black.test", "A"): ["127.0.0.2"],
    (f"{LISTED}.black.test", "TXT"): ["see https://black.test/198.51.100.7"],
    (f"{LISTED}.blocked.test", "A"): ["127.255.255.254"],
}

CONFIG = """
hostname = "mx.example.net"
reverse_dns = false
dns = ["{dns}"]

[[listen]]
endpoint = "haproxy:tcp:0:interface=127.0.0.1"

[policies.all]
envelope = "accept"

[policies.judged]
envelope = "accept"
content = [ {{ use = "match", rules = [
  {{ test = "gtube", reply = "550 5.7.1 spam is not wanted" }},
] }} ]

[[recipients]]
match = "postmaster@example.net"
policy = "all"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}

[[recipients]]
match = "careful@example.net"
policy = "judged"
check = [ {{ use = "dnsbl", timeout = 1, refuse_weight = 2, lists = [ {lists} ] }} ]
deliver = {{ use = "maildir", path = "mail/{{local}}" }}

[[recipients]]
match = "*@example.net"
policy = "judged"
check = [ {{ use = "dnsbl", timeout = 1, lists = [ {lists} ] }} ]
deliver = {{ use = "maildir", path = "mail/{{local}}" }}
"""

#: With a list that does not serve us, and one that has no answer.
LISTS = '{ zone = "black.test" }, { zone = "blocked.test", weight = 9 }, { zone = "other.test" }'

NAMED = ("strict@example.net", "careful@example.net", "postmaster@example.net")


class ListsTests(IntegrationCase):
    """
    Stock Exim with PRDR, from a listed address, and from one that is not.
    """

    def setUp(self) -> None:
        self.zone = Zone(RECORDS)
        self.addCleanup(self.zone.close)

    def exim(self, address: str, port: int = 0) -> Exim:
        """
        @param port: where lists are asked for, in place of the zone's.
        """
        port = port or self.zone.address[1]
        self.mx = self.server(CONFIG.format(dns=f"127.0.0.1:{port}", lists=LISTS))
        front = Front(self.mx.port, address)
        self.addCleanup(front.close)
        return Exim(self, f"127.0.0.1::{front.port}")

    def test_three(self) -> None:
        """
        Three recipients, three fates: refused at RCPT in the list's words, refused by the
        content, and accepted; each list is asked once, and its text once.
        """
        exim = self.exim("198.51.100.7")
        exim.send(spam(), "me@client.test", *NAMED)
        log = exim.log()
        words = r"198\.51\.100\.7 is listed by black\.test: see https://black\.test/198\.51\.100\.7"
        self.assertRegex(log, rf"\*\* strict@example\.net .*550 5\.7\.1 .*{words}")
        self.assertRegex(log, r"\*\* careful@example\.net .*PRDR.*550 5\.7\.1 .*spam is not wanted")
        self.assertRegex(log, r"[=-]> postmaster@example\.net .*PRDR")
        self.mx.arrived("postmaster")
        zones = [(name.removeprefix(f"{LISTED}."), kind) for name, kind in self.zone.asked]
        wanted = [(f"{name}.test", "A") for name in ("black", "blocked", "other")]
        self.assertEqual(sorted(zones), sorted([*wanted, ("black.test", "TXT")]))
        said = "the list blocked.test answers 127.255.255.254: it does not serve"
        self.assertEqual(self.mx.log.count(said), 1)
        self.assertRegex(self.mx.log, r"strict@example.net.*dnsbl: black.test 1")
        status = json.loads(cli("status", "--config", self.mx.path, "--json").stdout)
        self.assertIn("dnsbl black.test", status["parts"])

    def test_notListed(self) -> None:
        """One that no list has is accepted by all in the envelope; nothing is judged."""
        exim = self.exim("198.51.100.8")
        exim.send(spam(), "me@client.test", *NAMED)
        for local in ("strict", "careful", "postmaster"):
            self.mx.arrived(local)
        self.assertNotIn("**", exim.log())

    def test_silent(self) -> None:
        """Where no list answers, mail goes on, and soon without waiting for them."""
        exim = self.exim("198.51.100.7", freePort())
        exim.send(spam(), "me@client.test", *NAMED)
        for local in ("strict", "careful", "postmaster"):
            self.mx.arrived(local)
        self.assertRegex(self.mx.log, r"not asked black.test, so skip")


#: The zone whose answers are looked at one by one.
LIST = "black.test"


class HostileZone(Zone):
    """
    A zone whose answers are made worse.

    @ivar worse: makes an answer worse; its octets.
    """

    worse: Callable[[dns.Message], bytes] | None = None

    def _answer(self, data: bytes, isDatagram: bool) -> bytes:
        octets = super()._answer(data, isDatagram)
        if self.worse is None:
            return octets
        message = dns.Message()
        message.fromStr(octets)
        return self.worse(message)


def wrongId(message: dns.Message) -> bytes:
    """The answer to a question that was not put."""
    message.id = (message.id + 1) % 65536
    return bytes(message.toStr())


def loop(message: dns.Message) -> bytes:
    """Each name is another one for itself."""
    name = str(message.queries[0].name)
    message.rCode = dns.OK
    message.answers = [dns.RRHeader(name, dns.CNAME, dns.IN, 60, dns.Record_CNAME(name))]
    return bytes(message.toStr())


def failing(message: dns.Message) -> bytes:
    """SERVFAIL."""
    message.rCode, message.answers = dns.ESERVER, []
    return bytes(message.toStr())


def cut(message: dns.Message) -> bytes:
    """Half of one that says that there is no such name."""
    octets = bytes(message.toStr())
    return octets[: len(octets) // 2]


def otherKind(message: dns.Message) -> bytes:
    """Records of a kind that was not asked for."""
    name = str(message.queries[0].name)
    message.rCode = dns.OK
    message.answers = [dns.RRHeader(name, dns.TXT, dns.IN, 60, dns.Record_TXT(b"127.0.0.2"))]
    return bytes(message.toStr())


class ListZoneTests(TestCase):
    """
    L{ListZone}, whatever is answered.
    """

    def setUp(self) -> None:
        self.zone = HostileZone(
            {
                (f"1.{LIST}", "A"): ["127.0.0.2", "127.0.0.4"],
                (f"1.{LIST}", "TXT"): ["why\r\nnot", "and more"],
                (f"2.{LIST}", "TXT"): ["no address"],
                (f"3.{LIST}", "A"): [f"127.0.{n // 250}.{n % 250}" for n in range(1000)],
                (f"3.{LIST}", "TXT"): ["x" * 20_000],
            }
        )
        self.addCleanup(self.zone.close)
        clock: Any = theReactor
        resolver = makeResolver(clock, [self.zone.address])
        self.services = FakeServices(reactor=clock, resolver=resolver)
        self.list = ListZone(LIST, self.services, (), 1.0, 300.0)

    async def failureOf(self, name: str) -> str:
        try:
            found = await self.list.addresses(name)
        except StageError as error:
            return str(error)
        return f"none: {found}"

    async def test_answers(self) -> None:
        """Listed, with a text alone, and not there; each is asked for once."""
        for _ in range(3):
            self.assertEqual(await self.list.addresses(f"1.{LIST}"), ["127.0.0.2", "127.0.0.4"])
            self.assertEqual(await self.list.addresses(f"2.{LIST}"), [])
            self.assertEqual(await self.list.addresses(f"9.{LIST}"), ())
            self.assertEqual(await self.list.text(f"1.{LIST}"), b"why\r\nnot")
            self.assertEqual(await self.list.text(f"9.{LIST}"), b"")
        asked = [name.partition(".")[0] + kind for name, kind in self.zone.asked]
        self.assertEqual(asked, ["1A", "2A", "9A", "1TXT", "9TXT"])

    async def test_together(self) -> None:
        """Whoever asks while there is no answer shares it; one who leaves ends nothing."""
        waiting: list[Deferred[Any]] = [self.list.addresses(f"1.{LIST}") for _ in range(10)]
        waiting.pop().addErrback(lambda _: None).cancel()
        found = await gatherResults(waiting)
        self.assertEqual(found, [["127.0.0.2", "127.0.0.4"]] * 9)
        self.assertEqual(len(self.zone.asked), 1)

    async def test_large(self) -> None:
        """More than a datagram holds comes by TCP."""
        self.assertEqual(len(await self.list.addresses(f"3.{LIST}")), 1000)
        self.assertEqual(len(await self.list.text(f"3.{LIST}")), 20_000)

    async def test_hostile(self) -> None:
        """
        Answers that are none of a list are no listing, each within its time; the name is
        not asked for again at once.
        """
        self.patch(lookups, "TRY_SECONDS", (0.1,))
        for number, (worse, isListless) in enumerate(
            ((loop, False), (failing, False), (otherKind, True), (wrongId, False), (cut, True))
        ):
            self.zone.worse = worse
            name = f"{number}.hostile.{LIST}"
            said = await self.failureOf(name)
            self.assertEqual(said.startswith("none: "), isListless, (worse.__name__, said))
            self.assertNotIn(name, said)
            asked = len(self.zone.asked)
            self.assertEqual(await self.failureOf(name), said)
            self.assertEqual(len(self.zone.asked), asked, worse.__name__)

    async def test_dead(self) -> None:
        """After some failures it is not asked, and works again when it answers."""
        self.zone.worse = failing
        for number in range(5):
            await self.failureOf(f"{number}.dead.{LIST}")
        asked = len(self.zone.asked)
        self.assertIn("left alone after 5 failures", await self.failureOf(f"99.{LIST}"))
        self.assertEqual(len(self.zone.asked), asked)
        (part,) = [one for name, one in self.services.status.parts().items() if LIST in name]
        self.assertEqual(part["state"], "resting")  # type: ignore[index]
