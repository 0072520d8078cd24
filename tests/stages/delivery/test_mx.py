"""
Delivery by MX records.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet import defer

from deferrals.model.delivery import Addressee
from deferrals.model.networks import dnsServers
from deferrals.model.verdict import Delivered, Failed, Retry
from deferrals.stages.delivery.mx import MXDelivery, MXSettings
from deferrals.testing import (
    ReportingDeliveryContract,
    makeAddressees,
    makeEnvelope,
    makeRecipient,
)
from tests.peer import Peer
from tests.remote import RemoteCase
from tests.resolver import RECORDS, Resolver


class MXTests(RemoteCase, ReportingDeliveryContract):
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

    def makeAddressees(self) -> list[Addressee]:
        return makeAddressees("a@implicit.example", "b@backup.example")

    def makeHalting(self) -> MXDelivery:
        self.peers["192.0.2.1"].override = {"MAIL": "silence"}
        stage: MXDelivery = self.makeStage()
        return stage

    def to(self, *addresses: str, **more: Any) -> list[Any]:
        return self.outcomes(makeAddressees(*addresses), **more)

    def test_refusal(self) -> None:
        """REQUIRETLS, and addresses that nothing is sent to, are refused in the envelope."""
        stage = self.makeStage()
        for address, wanted in (
            ("a@x.example", None),
            ("a@[192.0.2.7]", None),
            ("a@[127.0.0.1]", "5.4.4"),
            ("a@[IPv6:fe80::1]", "5.4.4"),
            ("a@[IPv6:2001:db8::1]", None),
        ):
            recipient = makeRecipient(address)
            found = stage.refusal(makeEnvelope(), recipient)
            self.assertEqual(found and found.enhanced, wanted, address)
            found = stage.refusal(makeEnvelope(requireTLS=True), recipient)
            self.assertEqual((found.code, found.enhanced), (550, "5.7.30"))
            (outcome,) = self.to(address, envelope=makeEnvelope(requireTLS=True))
            self.assertEqual(outcome.reply, found)
            if wanted is not None:
                (outcome,) = self.to(address)
                self.assertEqual((type(outcome), outcome.reply.enhanced), (Failed, wanted))

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

    def test_hops(self) -> None:
        """The servers that can be asked are those that it delivers to; or why there are none."""
        for address, hosts in (
            ("a@x.example", {"a.x.example", "b.x.example", "c.x.example"}),
            ("a@implicit.example", {"implicit.example"}),
        ):
            d = defer.Deferred.fromCoroutine(self.makeStage().hops(makeRecipient(address)))
            self.assertEqual({hop.host for hop in self.successResultOf(d)}, hosts)
        d = defer.Deferred.fromCoroutine(self.makeStage().hops(makeRecipient("d@gone.example")))
        self.assertIsInstance(self.successResultOf(d), Failed)

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
        """A caller that waits no longer leaves nothing under way."""
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
