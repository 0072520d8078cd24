"""
Deliveries to other servers: which is asked next, what is left out, and by which name.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.verdict import Delivered, Failed, Retry
from deferrals.stages.delivery.copies import unreported
from deferrals.stages.delivery.remote import RemoteDelivery, hostOf, isLoopback
from deferrals.testing import (
    makeAddressees,
    makeEnvelope,
    makeMessage,
)
from tests.peer import Peer
from tests.remote import BODY, HOP, RemoteCase
from tests.requirements import requirement


class NextTests(RemoteCase):
    """
    Several servers, one after the other.
    """

    def inTurn(self, *addresses: str, message: bytes = BODY, report: Any = unreported) -> list[Any]:
        hops = [self.makeStage(ask=()) for _ in "12"]
        hops[1]._hop = hops[1]._hop.__class__("two", "two", "two.example", forms=())
        addressees = makeAddressees(*addresses)
        remote = RemoteDelivery(self.services, 30, "relayed")
        hopsInTurn = [stage._hop for stage in hops]
        d = Deferred.fromCoroutine(
            remote.deliver(makeMessage(message), makeEnvelope(), addressees, hopsInTurn, report)
        )
        self.network.run()
        found = self.successResultOf(d)
        return [found[one] for one in addressees]

    def test_temporarily(self) -> None:
        """Recipients refused for now, and no others, are offered to the next server."""
        two = self.network.peers["two"] = Peer(name="two.example")
        self.peer.rcpt = {"b@x.example": "451 4.7.1 grey", "c@x.example": "550 5.1.1 who"}
        a, b, c = self.inTurn("a@x.example", "b@x.example", "c@x.example")
        self.assertEqual([type(one) for one in (a, b, c)], [Delivered, Delivered, Failed])
        self.assertEqual((b.host, two.delivered), ("two.example", ["b@x.example"]))
        self.assertEqual(self.peer.delivered, ["a@x.example"])

    def test_noConnection(self) -> None:
        """Nor does it matter that the first one is not there."""
        self.network.peers["two"] = Peer(name="two.example")
        del self.network.peers[HOP]
        (a,) = self.inTurn("a@x.example")
        self.assertEqual((type(a), a.host), (Delivered, "two.example"))

    def test_nobody(self) -> None:
        """No server is there: the last reason stands, and there is another attempt."""
        self.network.peers.clear()
        (a,) = self.inTurn("a@x.example")
        self.assertEqual((type(a), a.reply.enhanced), (Retry, "4.4.1"))

    def test_lacks(self) -> None:
        """
        That a server lacks an extension, or takes nothing so large, is no end as long as
        another one has not been asked: it fails only where none of them can carry it.
        """
        small, large = ["SIZE 100"], ["SIZE 9999"]
        utf8 = ["8BITMIME", "SMTPUTF8"]
        for first, second, address, wanted, host in (
            (small, large, "a@x.example", (Delivered, None), "two.example"),
            (small, ["SIZE 90"], "a@x.example", (Failed, "5.3.4"), ""),
            (small, None, "a@x.example", (Retry, "4.4.1"), ""),
            ([], utf8, "\u00fc@x.example", (Delivered, None), "two.example"),
            ([], [], "\u00fc@x.example", (Failed, "5.6.7"), ""),
            (small, large, "no@x.example", (Failed, "5.1.1"), "two.example"),
            (large, small, "later@x.example", (Retry, "4.7.1"), "peer.example"),
        ):
            self.setUp()
            self.peer.keywords = ["PIPELINING", *first]
            self.peer.rcpt = {"later@x.example": "451 4.7.1 grey"}
            if second is not None:
                two = self.network.peers["two"] = Peer(*second, name="two.example")
                two.rcpt = {"no@x.example": "550 5.1.1 who"}
            reported: list[Any] = []
            heard = lambda who, outcome, told=reported: told.append(outcome)  # noqa: E731
            (found,) = self.inTurn(address, report=heard)
            enhanced = None if wanted[1] is None else found.reply.enhanced
            self.assertEqual((type(found), enhanced, found.host), (*wanted, host), wanted)
            self.assertEqual([one for one in reported if one != found], [])

    def test_cancelledBetween(self) -> None:
        """A server that stops before the second one has answered has refused nothing."""
        self.peer.keywords = ["PIPELINING", "SIZE 100"]
        two = self.network.peers["two"] = Peer(name="two.example")
        two.override["MAIL"] = "silence"
        reported: list[Any] = []
        hops = [self.makeStage(ask=())._hop for _ in "12"]
        hops[1] = hops[1].__class__("two", "two", "two.example", forms=())
        remote = RemoteDelivery(self.services, 30, "relayed")
        d = Deferred.fromCoroutine(
            remote.deliver(
                makeMessage(BODY),
                makeEnvelope(),
                makeAddressees("a@x.example"),
                hops,
                lambda who, outcome: reported.append(outcome),
            )
        )
        self.network.run()
        self.assertNoResult(d)
        d.cancel()
        self.network.run()
        self.failureResultOf(d)
        self.assertEqual([one for one in reported if isinstance(one, Failed)], [])

    @requirement("D-21")
    def test_nobodyKnows(self) -> None:
        """A message that may have been taken is not offered to another server at once."""
        two = self.network.peers["two"] = Peer()
        self.peer.drop = lambda sender: 0
        (a,) = self.inTurn("a@x.example")
        self.assertEqual((type(a), two.connections), (Retry, 0))


class DropTests(RemoteCase):
    """
    A next hop that drops the connection after each possible octet of what it
    says to the data: nobody is lost, nobody gets a second copy, nobody gets
    another's outcome.
    """

    people = ("good@x.example", "bad@x.example", "later@x.example", "best@x.example")

    def everyOctet(self, *keywords: str, lmtp: bool = False) -> None:
        self.lmtp, self.keywords = lmtp, keywords
        end = longest = 0
        while end <= longest:
            self.setUp()
            drops = iter([end])
            self.peer.drop = lambda sender, drops=drops: next(drops, None)
            self.peer.block = {"bad@x.example": "550 5.6.0 bad", "later@x.example": "450 4.7.1 no"}
            if "DEFERRALS" in keywords:
                self.peer.rcpt = dict.fromkeys(self.people[:3], "352 wait")
            outcomes = self.untilDone()
            kinds = {address: type(outcome) for address, outcome in outcomes.items()}
            self.assertEqual(kinds, self.expected(), end)
            taken = [a for a, kind in self.expected().items() if kind is Delivered]
            self.assertEqual(Counter(self.peer.delivered), Counter(taken), end)
            end, longest = end + 1, max(longest, len(self.first))
        self.assertGreater(longest, 10)

    def untilDone(self) -> dict[str, Any]:
        """
        As a queue does it: whoever is to be retried comes again.
        """
        waiting, done = makeAddressees(*self.people), {}
        message, envelope = makeMessage(BODY), makeEnvelope()
        self.first = b""
        for _ in range(4):
            found = self.outcomes(waiting, message=message, envelope=envelope)
            self.first = self.first or self.peer.answer
            outcomes = dict(zip(waiting, found, strict=True))
            waiting = [a for a, outcome in outcomes.items() if isinstance(outcome, Retry)]
            done.update({str(a): o for a, o in outcomes.items() if a not in waiting})
            if not waiting:
                break
            if len(waiting) == 1:
                self.peer.block.pop(str(waiting[0]), None)
        return done

    def expected(self) -> dict[str, Any]:
        kinds: dict[str, Any] = dict.fromkeys(self.people, Delivered)
        if self.lmtp or {"DEFERRALS", "PRDR"} & set(self.keywords):
            kinds["bad@x.example"] = Failed
        return kinds

    @requirement("D-21")
    @requirement("P-10")
    def test_deferrals(self) -> None:
        """DEFERRALS."""
        self.everyOctet("PIPELINING", "DEFERRALS")

    @requirement("P-10")
    @requirement("P-11")
    def test_prdr(self) -> None:
        """PRDR."""
        self.everyOctet("PIPELINING", "PRDR")

    def test_lmtp(self) -> None:
        """LMTP: whoever was answered before the drop stays answered."""
        self.everyOctet("PIPELINING", lmtp=True)

    def test_plain(self) -> None:
        """One reply for all."""
        self.everyOctet("PIPELINING")


class NameTests(SynchronousTestCase):
    """
    Hosts in endpoint strings.
    """

    def test_hostOf(self) -> None:
        """The host, where there is one."""
        for endpoint, host in (
            ("tcp:mx.example:25", "mx.example"),
            ("tcp:host=mx.example:port=25", "mx.example"),
            ("tcp:port=25:host=mx.example", "mx.example"),
            ("tls:mx.example:465:timeout=3", "mx.example"),
            ("tcp:host=2001\\:db8\\:\\:1:port=25", "2001:db8::1"),
            ("unix:/run/lmtp", ""),
        ):
            self.assertEqual(hostOf(endpoint), host)

    def test_isLoopback(self) -> None:
        """This machine."""
        self.assertEqual(
            [isLoopback(h) for h in ("127.0.0.1", "::1", "localhost", "mx.example", "192.0.2.1")],
            [True, True, True, False, False],
        )
