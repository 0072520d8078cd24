"""
Where mail for a domain goes, with a resolver without sockets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet import defer
from twisted.internet.task import Clock
from twisted.names import dns
from twisted.names.error import DNSNameError, DNSServerError
from twisted.trial.unittest import SynchronousTestCase

from deferrals.app.network import isLocal, reachable
from deferrals.model.networks import dnsServers
from deferrals.model.verdict import Delivered, Failed, Retry
from deferrals.stages.delivery.mx import MXDelivery, MXSettings
from deferrals.stages.delivery.route import Names, NoRoute, Router
from deferrals.testing import (
    DeliveryStageContract,
    makeAddressees,
    makeEnvelope,
)
from tests.peer import Peer
from tests.test_handover import HandoverCase

RECORDS: dict[tuple[str, str], list[Any]] = {
    ("x.example", "MX"): [(20, "c.x.example"), (10, "a.x.example"), (10, "b.x.example")],
    ("a.x.example", "A"): ["192.0.2.1"],
    ("a.x.example", "AAAA"): ["2001:db8::1"],
    ("b.x.example", "A"): ["192.0.2.2", "192.0.2.22"],
    ("c.x.example", "A"): ["192.0.2.3"],
    ("implicit.example", "A"): ["192.0.2.4"],
    ("null.example", "MX"): [(0, "")],
    ("nowhere.example", "MX"): [(10, "nothing.example")],
    ("nothing.example", "TXT"): ["x"],
    ("text.example", "TXT"): ["x"],
    ("ours.example", "MX"): [(10, "mx.example.net")],
    ("mx.example.net", "A"): ["192.0.2.99"],
    ("backup.example", "MX"): [(10, "a.x.example"), (20, "mx.example.net"), (30, "c.x.example")],
    ("first.example", "MX"): [(10, "a.x.example"), (20, "c.x.example")],
    ("half.example", "MX"): [(10, "a.x.example"), (20, "inside.example")],
    ("alias.example", "CNAME"): ["x.example"],
    ("round.example", "CNAME"): ["round.example"],
    ("inside.example", "A"): ["127.0.0.1"],
    ("literal.example", "MX"): [(10, "192.0.2.7")],
    ("xn--bcher-kva.example", "MX"): [(10, "a.x.example")],
}


class Resolver:
    """
    Answers from a table; C{broken} names fail, C{silent} ones say nothing.
    """

    def __init__(self, records: dict[tuple[str, str], list[Any]]) -> None:
        self.records = records
        self.broken: set[str] = set()
        self.silent: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.ttl = 60

    def query(self, query: Any, timeout: Any = None) -> Any:
        name, kind = query.name.name.decode(), dns.QUERY_TYPES[query.type]
        self.asked.append((name, kind))
        if name in self.silent:
            return defer.Deferred()
        if name in self.broken:
            return defer.fail(DNSServerError(None))
        known = [records for (one, _), records in self.records.items() if one == name]
        if not known:
            return defer.fail(DNSNameError(None))
        alias = self.records.get((name, "CNAME"))
        if alias:
            record = dns.Record_CNAME(alias[0])
            return defer.succeed(([self.header(name, record)], [], []))
        make = {"MX": lambda v: dns.Record_MX(*v), "A": dns.Record_A, "AAAA": dns.Record_AAAA}
        found = [self.header(name, make[kind](v)) for v in self.records.get((name, kind), [])]
        return defer.succeed((found, [], []))

    def header(self, name: str, record: Any) -> Any:
        return dns.RRHeader(name, record.TYPE, dns.IN, self.ttl, record)


class RouteTests(SynchronousTestCase):
    """
    L{Router}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.resolver = Resolver(RECORDS)

    def router(self, **more: Any) -> Router:
        settings: dict[str, Any] = {
            "shuffle": list.sort,
            "isOurs": lambda name: name in ("mx.example.net", "192.0.2.99"),
            "mayReach": lambda address: not address.startswith("127."),
            "limit": 10,
            "ipv6": True,
            **more,
        }
        return Router(Names(lambda: self.resolver, self.clock), **settings)

    def targets(self, domain: str, **more: Any) -> list[str]:
        found = self.successResultOf(self.router(**more).route(domain))
        return [f"{target.name} {target.address}" for target in found]

    def refusal(self, domain: str) -> str:
        error = self.failureResultOf(self.router().route(domain), NoRoute).value
        return f"{type(error.outcome).__name__} {error.outcome.reply.enhanced}"

    def test_order(self) -> None:
        """By preference, all addresses of each, IPv6 first (RFC 5321 §5.1)."""
        self.assertEqual(
            self.targets("x.example"),
            [
                *("a.x.example 2001:db8::1", "a.x.example 192.0.2.1"),
                *("b.x.example 192.0.2.2", "b.x.example 192.0.2.22", "c.x.example 192.0.2.3"),
            ],
        )

    def test_shuffled(self) -> None:
        """Servers of one preference are shuffled, and only those."""
        found = self.targets("x.example", shuffle=lambda names: names.sort(reverse=True))
        self.assertEqual([one[0] for one in found], ["b", "b", "a", "a", "c"])

    def test_limits(self) -> None:
        """Not more addresses than wanted; no IPv6 where there is none."""
        self.assertEqual(len(self.targets("x.example", limit=2)), 2)
        self.assertNotIn("a.x.example 2001:db8::1", self.targets("x.example", ipv6=False))

    def test_implicit(self) -> None:
        """Without MX the domain's own addresses (RFC 5321 §5.1)."""
        self.assertEqual(self.targets("implicit.example"), ["implicit.example 192.0.2.4"])

    def test_literal(self) -> None:
        """An address literal asks no DNS."""
        self.assertEqual(self.targets("[192.0.2.8]"), ["[192.0.2.8] 192.0.2.8"])
        self.assertEqual(self.targets("[IPv6:2001:db8::8]")[0].split()[1], "2001:db8::8")
        self.assertEqual(self.resolver.asked, [])

    def test_refusals(self) -> None:
        """What DNS says for certain is an end; an alias goes round for now only."""
        for domain, expected in (
            ("null.example", "Failed 5.1.10"),
            ("gone.example", "Failed 5.1.2"),
            ("nowhere.example", "Failed 5.4.4"),
            ("text.example", "Failed 5.4.4"),
            ("literal.example", "Failed 5.4.4"),
            ("ours.example", "Failed 5.4.6"),
            ("inside.example", "Failed 5.4.4"),
            ("[127.0.0.1]", "Failed 5.4.4"),
            ("[192.0.2.99]", "Failed 5.4.6"),
            ("round.example", "Retry 4.4.3"),
        ):
            self.assertEqual((domain, self.refusal(domain)), (domain, expected))

    def test_alias(self) -> None:
        """A CNAME is followed."""
        self.assertEqual(self.targets("alias.example"), self.targets("x.example"))

    def test_backup(self) -> None:
        """Who is a backup sends only to servers that are better than itself (RFC 5321 §5.1)."""
        found = self.targets("backup.example")
        self.assertEqual({one.split()[0] for one in found}, {"a.x.example"})

    def test_broken(self) -> None:
        """A DNS that fails or is silent means: not now; unless another server is known."""
        self.resolver.broken = {"x.example"}
        self.assertEqual(self.refusal("x.example"), "Retry 4.4.3")
        self.resolver.broken = {"a.x.example", "b.x.example"}
        self.assertEqual(self.targets("x.example"), ["c.x.example 192.0.2.3"])
        self.resolver.broken.add("c.x.example")
        self.assertEqual(self.refusal("x.example"), "Retry 4.4.3")
        # A better server that DNS does not say anything about now may well be there.
        self.resolver.broken = {"a.x.example"}
        self.assertEqual(self.refusal("backup.example"), "Retry 4.4.3")
        self.assertEqual(self.refusal("half.example"), "Retry 4.4.3")
        self.resolver.broken = {"c.x.example"}
        self.assertEqual(self.targets("backup.example")[0], "a.x.example 2001:db8::1")
        self.assertEqual(self.refusal("ours.example"), "Failed 5.4.6")
        self.resolver.silent = {"quiet.example"}
        d = self.router().route("quiet.example")
        self.clock.advance(30)
        self.assertEqual(self.failureResultOf(d, NoRoute).value.outcome.reply.enhanced, "4.4.3")

    def test_remembered(self) -> None:
        """Answers are kept as long as they say, also that there is nothing."""
        router = self.router()
        for _ in "12":
            self.successResultOf(router.route("x.example"))
            self.failureResultOf(router.route("gone.example"), NoRoute)
        asked = len(self.resolver.asked)
        self.assertEqual(asked, len(set(self.resolver.asked)))
        self.clock.advance(61)
        self.successResultOf(router.route("x.example"))
        self.assertGreater(len(self.resolver.asked), asked)

    def test_cancelled(self) -> None:
        """Who waits for DNS may stop waiting."""
        self.resolver.silent = {"x.example", "a.x.example"}
        for domain in ("x.example", "backup.example"):
            d = self.router().route(domain)
            d.cancel()
            self.failureResultOf(d, defer.CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class MXTests(HandoverCase, DeliveryStageContract):
    """
    L{MXDelivery}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.resolver = Resolver(RECORDS)
        self.services.resolver = lambda servers: self.resolver  # type: ignore[method-assign]
        self.peers = {
            address: self.host(address) for address in ("192.0.2.1", "192.0.2.3", "192.0.2.4")
        }

    def host(self, address: str) -> Peer:
        peer = Peer()
        self.network.peers[f"tcp:host={address}:port=25:timeout=30"] = peer
        return peer

    def makeStage(self, **settings: Any) -> Any:
        return MXDelivery(MXSettings(**{"ipv6": False, **settings}), self.services)

    def to(self, *addresses: str, **more: Any) -> list[Any]:
        return self.outcomes(makeAddressees(*addresses), **more)

    def test_delivered(self) -> None:
        """Each domain goes its own way, in one transaction for all of its recipients."""
        found = self.to("a@x.example", "b@implicit.example", "c@x.example", "d@gone.example")
        self.assertEqual([type(one) for one in found], [Delivered, Delivered, Delivered, Failed])
        self.assertEqual(self.peers["192.0.2.4"].delivered, ["b@implicit.example"])
        together = [*self.peers["192.0.2.1"].accepted, *self.peers["192.0.2.3"].accepted]
        self.assertEqual(sorted(to for _, to, _ in together), ["a@x.example", "c@x.example"])
        self.assertIn(found[0].host, ("a.x.example", "c.x.example"))

    def test_next(self) -> None:
        """The next host, where the first is not there or says 4xx."""
        self.peers["192.0.2.1"].greeting = "421 4.3.2 too many"
        (found,) = self.to("a@backup.example")
        self.assertIsInstance(found, Retry)
        (found,) = self.to("a@x.example")  # b.x.example refuses connections
        self.assertEqual((type(found), found.host), (Delivered, "c.x.example"))

    def test_idna(self) -> None:
        """An internationalised domain is looked up, and sent, as A-labels (RFC 5890)."""
        (found,) = self.to("a@b\u00fccher.example")
        self.assertIsInstance(found, Delivered)
        self.assertEqual(self.peers["192.0.2.1"].delivered, ["a@xn--bcher-kva.example"])

    def test_ourselves(self) -> None:
        """Mail that would come back is refused: by name, by address, by greeting, by counting."""
        self.services.listensOn = (  # type: ignore[method-assign]
            lambda address, port: (address, port) == ("192.0.2.4", 25)
        )
        for domain in ("ours.example", "implicit.example"):
            (found,) = self.to(f"a@{domain}")
            self.assertEqual((type(found), found.reply.enhanced), (Failed, "5.4.6"))
        self.peers["192.0.2.1"].name = "mx.example.net"
        (found,) = self.to("a@backup.example")
        self.assertEqual((type(found), found.reply.enhanced), (Failed, "5.4.6"))
        for literal, own in (("192.0.2.7", "192.0.2.7"), ("IPv6:2001:db8::7", "2001:DB8:0::7")):
            (found,) = self.to(f"a@[{literal}]", stage=self.makeStage(own=[own]))
            self.assertEqual((type(found), found.reply.enhanced), (Failed, "5.4.6"))

    def test_ourselvesByGreeting(self) -> None:
        """A server that turns out to be this one ends the list: none behind it is used."""
        self.host("192.0.2.1").name = "mx.example.net"
        (found,) = self.to("a@first.example")
        self.assertEqual((type(found), found.reply.enhanced), (Failed, "5.4.6"))
        self.assertEqual(self.peers["192.0.2.3"].accepted, [])
        self.host("192.0.2.1").greeting = "421 4.3.2 too many"
        (found,) = self.to("a@first.example")
        self.assertEqual(self.peers["192.0.2.3"].delivered, ["a@first.example"])

    def test_never(self) -> None:
        """DNS does not lead us to our own inside; unless the operator says so."""
        (found,) = self.to("a@inside.example")
        self.assertEqual((type(found), found.reply.enhanced), (Failed, "5.4.4"))
        peer = self.host("127.0.0.1")
        self.to("a@inside.example", stage=self.makeStage(never=()))
        self.assertEqual(peer.delivered, ["a@inside.example"])

    def test_requireTLS(self) -> None:
        """REQUIRETLS needs somebody to vouch for the name, which DNS does not (RFC 8689)."""
        (found,) = self.to("a@x.example", envelope=makeEnvelope(requireTLS=True))
        self.assertEqual((type(found), found.reply.enhanced), (Failed, "5.7.30"))

    def test_literal(self) -> None:
        """An address literal."""
        self.to("a@[192.0.2.4]")
        self.assertEqual(self.peers["192.0.2.4"].delivered, ["a@[192.0.2.4]"])

    def test_cancelled(self) -> None:
        """Who waits no longer has nothing under way."""
        self.resolver.silent = {"x.example"}
        d = self.start(makeAddressees("a@x.example", "b@implicit.example"))
        d.cancel()
        self.failureResultOf(d, defer.CancelledError)

    def test_fails(self) -> None:
        """What goes wrong with one domain is that domain's."""
        self.services.resolver = lambda servers: 1 / 0  # type: ignore[method-assign]
        a, b = self.to("a@x.example", "b@[192.0.2.4]")
        self.assertEqual([type(a), type(b)], [Retry, Delivered])

    def test_settings(self) -> None:
        """DNS servers, networks, ports."""
        self.assertEqual(
            dnsServers(["192.0.2.53", "192.0.2.53:5353", "[2001:db8::53]:54", "2001:db8::53"]),
            (
                *(("192.0.2.53", 53), ("192.0.2.53", 5353)),
                *(("2001:db8::53", 54), ("2001:db8::53", 53)),
            ),
        )
        wrong: Iterable[dict[str, Any]] = (
            {"dns": ["dns.example"]},
            {"dns": ["192.0.2.53:0"]},
            {"never": ["192.0.2.1/24"]},
            {"port": 0},
            {"hosts": 0},
        )
        for settings in wrong:
            with self.assertRaises(ValueError):
                MXSettings(**settings)

    def test_domainOf(self) -> None:
        """The destination is the domain: what the queue counts by."""
        stage = self.makeStage()
        (addressee,) = makeAddressees("a@b\u00fccher.example")
        self.assertEqual(stage.destination(addressee.recipient), "mx xn--bcher-kva.example")


class NetworkTests(SynchronousTestCase):
    """
    Which addresses are our own.
    """

    def test_reachable(self) -> None:
        """A listener's address; all of this machine's, where it listens everywhere."""
        listening = [("0.0.0.0", 25), ("192.0.2.1", 2525)]
        self.assertTrue(reachable(listening, "127.0.0.1", 25))
        self.assertFalse(reachable(listening, "127.0.0.1", 2525))
        self.assertTrue(reachable(listening, "192.0.2.1", 2525))
        self.assertFalse(reachable(listening, "192.0.2.77", 25))
        self.assertTrue(isLocal("127.0.0.1"))
        self.assertFalse(isLocal("192.0.2.77"))
