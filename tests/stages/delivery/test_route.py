"""
Where mail for a domain goes, with a resolver without sockets.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import defer
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.delivery.route import (
    MAX_RECORDS,
    R550_FORBIDDEN,
    R554_OURSELVES,
    NoRoute,
    Router,
)
from deferrals.stages.lookups import Names
from tests.resolver import RECORDS, Resolver


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

    def test_refusal(self) -> None:
        """Of an address it is known without DNS that nothing is sent there."""
        router = self.router(isOurs=lambda name: name in ("192.0.2.99", "2001:db8::99"))
        for literal, wanted in (
            ("[192.0.2.1]", None),
            ("[IPv6:2001:db8::1]", None),
            ("[192.0.2.99]", R554_OURSELVES),
            ("[IPv6:2001:db8::99]", R554_OURSELVES),
            ("[127.0.0.1]", R550_FORBIDDEN),
        ):
            self.assertEqual(router.refusal(literal), wanted)

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

    def test_many(self) -> None:
        """Of servers and addresses without number the first ones count."""
        numbers = range(4000)
        many = {
            ("many.example", "MX"): [(9999 - n, f"mx{n}.many.example") for n in numbers],
            ("one.example", "A"): [f"10.0.{n // 256}.{n % 256}" for n in numbers],
        }
        self.resolver = Resolver({**RECORDS, **many})
        asked: list[str] = []
        router = self.router(isOurs=lambda name: bool(asked.append(name)))
        self.successResultOf(router.route("one.example"))
        self.assertLessEqual(len(asked), MAX_RECORDS + 1)
        self.failureResultOf(router.route("many.example"), NoRoute)
        self.assertEqual(
            min(name for name, _ in self.resolver.asked if name[:2] == "mx"), "mx3900.many.example"
        )

    def test_liars(self) -> None:
        """That there is no such name is said of one type only (RFC 4074 §4.2)."""
        self.resolver.liars = {("a.x.example", "AAAA"), ("implicit.example", "MX")}
        self.resolver.liars |= {("implicit.example", "AAAA")}
        self.assertEqual(self.targets("first.example")[0], "a.x.example 192.0.2.1")
        self.assertEqual(self.targets("implicit.example"), ["implicit.example 192.0.2.4"])
        self.resolver.liars = {("a.x.example", "A")}
        self.assertEqual(self.targets("first.example")[0], "a.x.example 2001:db8::1")

    def test_asNeeded(self) -> None:
        """The server with the last preference is found; none is looked up that is not needed."""
        names = [f"mx{n:02}.many.example" for n in range(25)]
        self.resolver.records = {
            **RECORDS,
            ("many.example", "MX"): [(n, name) for n, name in enumerate(names)],
            (names[24], "A"): ["192.0.2.24"],
        }
        self.assertEqual(self.targets("many.example"), [f"{names[24]} 192.0.2.24"])
        self.resolver.records |= {(names[n], "A"): [f"192.0.2.{n}"] for n in range(10)}
        self.resolver.asked.clear()
        self.assertEqual(len(self.targets("many.example")), 10)
        self.assertNotIn((names[10], "A"), self.resolver.asked)

    def test_silent(self) -> None:
        """Where DNS says nothing of some, it is not asked for all the others, too."""
        names = [f"mx{n:02}.many.example" for n in range(90)]
        records = [(n, name) for n, name in enumerate(names)]
        self.resolver.records = {("many.example", "MX"): records}
        self.resolver.broken = set(names)
        self.assertEqual(self.refusal("many.example"), "Retry 4.4.3")
        self.assertNotIn((names[10], "A"), self.resolver.asked)

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
        """A backup server sends only to servers that are better than itself (RFC 5321 §5.1)."""
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
        """A caller that waits for DNS may stop waiting."""
        self.resolver.silent = {"x.example", "a.x.example"}
        for domain in ("x.example", "backup.example"):
            d = self.router().route(domain)
            d.cancel()
            self.failureResultOf(d, defer.CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
