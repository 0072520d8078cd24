"""
The envelope stage by configuration.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.interfaces import IEnvelopeStage
from deferrals.model.address import Mailbox
from deferrals.model.envelope import Client, Envelope, Recipient
from deferrals.model.reply import R550_SENDER_ROUTING, Reply
from deferrals.model.verdict import Accept, Defer, EnvelopeVerdict, Refuse, Route
from deferrals.stages.envelope.chain import Pardons
from deferrals.stages.envelope.rules import Allowed, Onward, Pattern, Rule, RuleTable
from deferrals.testing import EnvelopeStageContract, makeEnvelope, makeRecipient
from tests.work import linesRun


def table(*patterns: str) -> RuleTable:
    rules = [Rule(Pattern.parse(text), Defer(Route(text, text))) for text in patterns]
    return RuleTable(rules, "mx.example.net")


@implementer(IEnvelopeStage)
class _Fixed:
    """
    Says the same of all.
    """

    def __init__(self, answer: EnvelopeVerdict) -> None:
        self._answer = answer

    def judgeRecipient(self, envelope: Envelope, recipient: Recipient) -> EnvelopeVerdict:
        return self._answer


class RuleTests(EnvelopeStageContract, SynchronousTestCase):
    """
    L{RuleTable}.
    """

    def makeStage(self) -> RuleTable:
        return table("*@example.net")

    def match(self, rules: RuleTable, address: str) -> Any:
        mailbox = Mailbox("postmaster", "") if "@" not in address else Mailbox.parse(address)
        verdict = rules.judgeRecipient(makeEnvelope(), Recipient(mailbox))
        return verdict.reply.code if isinstance(verdict, Refuse) else verdict.route.policy

    def test_match(self) -> None:
        """The four forms; local parts are compared without case."""
        rules = table(
            "Info@Example.net", "*@example.net", "*@*.example.net", "*@b\u00fccher.example"
        )
        for address, wanted in (
            ("INFO@example.NET", "Info@Example.net"),
            ("other@example.net", "*@example.net"),
            ("x@a.example.net", "*@*.example.net"),
            ("x@a.b.example.net", "*@*.example.net"),
            ("x@xn--bcher-kva.example", "*@b\u00fccher.example"),
            ("x@example.org", 550),
        ):
            self.assertEqual(self.match(rules, address), wanted)

    def test_firstWins(self) -> None:
        """The first rule that matches counts."""
        rules = table("*@example.net", "info@example.net", "*")
        self.assertEqual(self.match(rules, "info@example.net"), "*@example.net")
        self.assertEqual(self.match(rules, "info@example.org"), "*")

    def test_noMatch(self) -> None:
        """550 5.1.1 in a domain of ours, 550 5.7.1 elsewhere."""
        rules = table("info@example.net", "*@*.example.org")
        for address, enhanced in (
            ("x@example.net", "5.1.1"),
            ("x@example.org", "5.7.1"),
            ("x@example.com", "5.7.1"),
        ):
            verdict = rules.judgeRecipient(makeEnvelope(), Recipient(Mailbox.parse(address)))
            self.assertEqual((verdict.reply.code, verdict.reply.enhanced), (550, enhanced))

    def test_postmaster(self) -> None:
        """The bare postmaster is that of our host, or of the first domain that has one."""
        self.assertEqual(self.match(table("*@mx.example.net"), "postmaster"), "*@mx.example.net")
        rules = table("info@a.example", "postmaster@b.example")
        self.assertEqual(self.match(rules, "postmaster"), "postmaster@b.example")
        self.assertEqual(self.match(table("info@a.example"), "postmaster"), 550)

    def test_checks(self) -> None:
        """A rule's further envelope stages are asked about whom it lets in."""
        no = Refuse(Reply(452, "4.2.2", "full"))

        class Check:
            def judgeRecipient(self, envelope: Any, recipient: Recipient) -> Any:
                return no if recipient.address.local == "full" else None

        rule = Rule(Pattern.parse("*@example.net"), Accept(route=Route("open", "box")), [Check()])
        rules = RuleTable([rule], "mx.example.net")
        for local, wanted in (("full", no), ("fine", rule.verdict)):
            d = rules.judgeRecipient(makeEnvelope(), Recipient(Mailbox(local, "example.net")))
            self.assertEqual(self.successResultOf(d), wanted)

    def left(self, rule: EnvelopeVerdict, *checks: EnvelopeVerdict) -> str:
        """
        What a rule's checks make of it, and under which policy.
        """
        policies: dict[str, EnvelopeVerdict] = {
            "open": Accept(route=Route("open", "")),
            "strict": Defer(Route("strict", "")),
        }
        rules = RuleTable(
            [Rule(Pattern.parse("*@x.example"), rule, [_Fixed(one) for one in checks])],
            "mx.example.net",
            policies,
            ("box",),
        )
        found = self.successResultOf(
            rules.judgeRecipient(makeEnvelope(), makeRecipient("a@x.example"))
        )
        kind = "nowhere" if getattr(found, "nowhere", False) else type(found).__name__
        return f"{kind} {found.route.policy}"

    def test_leftToTheContent(self) -> None:
        """
        That a check leaves a recipient to the content stands, whatever other checks say
        of its route; a route alone, or another policy, leaves nothing to it.
        """
        accept, strict = Accept(route=Route("open", "box")), Defer(Route("strict", "box"))
        asks = Defer()
        row = Defer(Route("open", "box", (("refuse_score", 5.0),)), asRuled=True)
        moved = Defer(Route("open", "box"), asRuled=True)
        movedByOthers = Defer(Route("open", "box"))
        toStrict = Defer(Route("strict", "box"), asRuled=True)
        for rule, checks, wanted in (
            (accept, [asks], "Defer open"),
            (accept, [row], "Accept open"),
            (accept, [row, asks], "Defer open"),
            (accept, [asks, row], "Defer open"),
            (accept, [toStrict], "Defer strict"),
            (accept, [toStrict, moved], "Accept open"),
            (strict, [asks], "Defer strict"),
            (strict, [moved], "Accept open"),
            (strict, [movedByOthers], "Accept open"),
            (strict, [asks, moved], "Defer open"),
            (strict, [moved, asks], "Defer open"),
            (accept, [asks, Accept()], "Accept open"),
            (strict, [Accept()], "Accept strict"),
            (strict, [toStrict, Accept(nowhere=True)], "nowhere strict"),
            (strict, [moved, Accept(nowhere=True), asks], "nowhere open"),
        ):
            self.assertEqual(self.left(rule, *checks), wanted, (rule, checks))

    def routing(self, address: str, delivery: str, routing: bool = False, **more: Any) -> Any:
        """
        What a table says where C{out} leads on to another server, and C{box} does not.
        """
        route = Route("open", delivery)
        rule = Rule(Pattern.parse("*"), Accept(route=route), routing=routing, **more)
        onward = Onward({"out"}, {"sent": "out"})
        policies = {"sent": Accept()}
        rules = RuleTable([rule], "mx.example.net", policies, ("box", "out"), onward)
        recipient = Recipient(Mailbox.parse(address))
        verdict = rules.judgeRecipient(makeEnvelope(), recipient)
        verdict = self.successResultOf(verdict) if isinstance(verdict, Deferred) else verdict
        returned = rules.route(recipient.address)
        if not more:
            self.assertEqual(returned is None, isinstance(verdict, Refuse))
        return verdict.reply if isinstance(verdict, Refuse) else None

    def test_routing(self) -> None:
        """
        Where its mail goes on is not for a sender to say: RCPT is refused, and no
        notice goes there.  A mailbox of our own may have any name, and a rule may
        let it pass.
        """
        for local in (
            *("victim%outside.example", "outside.example!victim", '"victim@outside.example"'),
            *(
                '"a\\@b"',
                "%",
                "a!",
                '"|/bin/sh"',
                "|sh",
                "/etc/passwd",
                '"/x"',
                '"\\|x"',
                '"a b%c"',
            ),
            *("outside.example!victim%x", '"@x:y"'),
        ):
            address = f"{local}@customer.example"
            self.assertEqual(self.routing(address, "out"), R550_SENDER_ROUTING, address)
            self.assertIsNone(self.routing(address, "box"), address)
            self.assertIsNone(self.routing(address, "out", routing=True), address)
        for local in ("a/b", "a|b", "user+tag", "SRS0=x=y=z", '"a b"', "=x", "a#b", "{x}", "ü"):
            self.assertIsNone(self.routing(f"{local}@customer.example", "out"), local)

    def test_routingLater(self) -> None:
        """Nor where a check puts it, be it by a policy whose quarantine leads on."""
        for route in (Route("open", "out"), Route("sent", "box")):

            class Check:
                def judgeRecipient(
                    self, envelope: Any, recipient: Recipient, route: Route = route
                ) -> Any:
                    return Accept(route=route)

            for address, wanted in (("a%b@x.test", R550_SENDER_ROUTING), ("a@x.test", None)):
                self.assertEqual(self.routing(address, "box", checks=[Check()]), wanted)

    def test_subaddress(self) -> None:
        """A rule is for subaddresses, too, where it says so; one of their own comes first."""

        def rule(match: str, name: str, **settings: Any) -> Rule:
            return Rule(Pattern.parse(match), Accept(route=Route(name, "d")), **settings)

        table = RuleTable(
            [
                rule("anna@x.example", "anna", subaddress="+"),
                rule("anna+lists@x.example", "lists", subaddress="+"),
                rule("bob@x.example", "bob"),
                rule("carl@x.example", "carl", subaddress="-"),
                rule("*@x.example", "all"),
                rule("dora@x.example", "never", subaddress="+"),
                rule("eve@y.example", "eve", subaddress="+", allow=Allowed.parse(["192.0.2.9"])),
            ],
            "mx.example.net",
        )
        for address, policy in (
            ("anna@x.example", "anna"),
            ("Anna+Other@x.example", "anna"),
            ("anna+lists@x.example", "lists"),
            ("anna+lists+more@x.example", "anna"),
            ("+anna@x.example", "all"),
            ("bob+a@x.example", "all"),
            ("carl-a+b@x.example", "carl"),
            ("carl+a@x.example", "all"),
            ("dora+a@x.example", "all"),
            ("eve+a@y.example", None),
        ):
            verdict = table.judgeRecipient(makeEnvelope(), makeRecipient(address))
            found = None if isinstance(verdict, Refuse) else verdict.route.policy
            self.assertEqual(found, policy, address)
        route = table.route(Mailbox.parse("anna+a@x.example"))
        self.assertEqual(route, Route("anna", "d"))

    def test_kept(self) -> None:
        """What checks say of a recipient does not change what a subaddress is."""

        class Check:
            """Another route, and no word of subaddresses."""

            def judgeRecipient(self, envelope: Envelope, recipient: Recipient) -> Defer:
                return Defer(Route("open", "box"))

        verdict = Defer(Route("open", "box", subaddress="+"))
        rule = Rule(Pattern.parse("a@x.example"), verdict, [Check()], subaddress="+")
        found = self.successResultOf(
            RuleTable([rule], "mx").judgeRecipient(makeEnvelope(), makeRecipient("a+b@x.example"))
        )
        self.assertEqual(found.route, Route("open", "box", subaddress="+"))

    def test_allow(self) -> None:
        """A rule with allow is not there for other clients, and makes no domain ours."""
        outward = Accept(route=Route("open", "out"))
        rules = RuleTable(
            [
                Rule(
                    Pattern.parse("*@partner.example"),
                    outward,
                    allow=Allowed.parse(["192.0.2.0/24"]),
                ),
                Rule(Pattern.parse("*@example.net"), Accept(route=Route("open", "box"))),
                Rule(Pattern.parse("*"), outward, allow=Allowed.parse(["authenticated", "unix"])),
            ],
            "mx.example.net",
        )
        for client, address, wanted in (
            (Client("192.0.2.1"), "a@partner.example", "out"),
            (Client("198.51.100.1"), "a@partner.example", "5.7.1"),
            (Client("192.0.2.1"), "a@other.example", "5.7.1"),
            (Client("198.51.100.1", user="me"), "a@other.example", "out"),
            (Client("198.51.100.1", user="me"), "a@example.net", "box"),
            (Client("198.51.100.1"), "a@example.net", "box"),
            (Client("local"), "a@other.example", "out"),
        ):
            envelope = attrs.evolve(makeEnvelope(), client=client)
            verdict = rules.judgeRecipient(envelope, Recipient(Mailbox.parse(address)))
            refused = isinstance(verdict, Refuse)
            said = verdict.reply.enhanced if refused else verdict.route.delivery
            self.assertEqual(said, wanted, (client, address))

    def test_members(self) -> None:
        """A rule for members of aliases is there for these alone, whoever sends."""
        rules = RuleTable(
            [
                Rule(Pattern.parse("*@example.net"), Accept(route=Route("open", "box"))),
                Rule(
                    Pattern.parse("*"),
                    Accept(route=Route("open", "out")),
                    allow=Allowed.parse(["members"]),
                ),
            ],
            "mx.example.net",
        )
        alias = (Mailbox.parse("all@example.net"),)
        address, client = Mailbox.parse("anna@other.example"), Client("198.51.100.1")
        envelope = attrs.evolve(makeEnvelope(), client=client)
        for aliases, wanted in (((), None), (alias, "out"), ((), None)):
            recipient = Recipient(address, aliases=aliases)
            verdict = rules.judgeRecipient(envelope, recipient)
            assert not isinstance(verdict, Deferred)
            route = verdict.route if isinstance(verdict, Accept) else None
            self.assertEqual(None if route is None else route.delivery, wanted)
        self.assertFalse(rules.isOurs(address))

    def test_refusedMember(self) -> None:
        """A member that a check refuses keeps its rule's policy: its copy may be filed."""
        no = Refuse(Reply(550, "5.1.1", "no"))
        check = _Fixed(no)
        rule = Rule(Pattern.parse("*@example.net"), Defer(Route("strict", "box")), [check])
        table = RuleTable([rule], "mx.example.net")
        address = Mailbox.parse("anna@example.net")
        for aliases, policy in (((), ""), ((Mailbox.parse("all@example.net"),), "strict")):
            said = table.judgeRecipient(makeEnvelope(), Recipient(address, aliases=aliases))
            verdict = self.successResultOf(said) if isinstance(said, Deferred) else said
            assert isinstance(verdict, Refuse)
            self.assertEqual((verdict, verdict.policy), (no, policy))

    def test_allowed(self) -> None:
        """Whom allow may name."""
        self.assertRaises(ValueError, Allowed.parse, ["everybody"])
        self.assertRaises(ValueError, Allowed.parse, ["192.0.2.1/24"])
        self.assertTrue(Allowed.parse(["::/0"]).networks.isEverybody)
        self.assertFalse(Allowed.parse(["authenticated", "10.0.0.0/8"]).networks.isEverybody)

    def test_patterns(self) -> None:
        """What is none of the four forms is no pattern."""
        for text in (
            "",
            "@",
            "example.net",
            "*@",
            "a@*",
            "*@*",
            "*@*.",
            "a b@example.net",
            "*x@example.net@",
        ):
            self.assertRaises(ValueError, Pattern.parse, text)

    def test_many(self) -> None:
        """The cost of a look-up does not grow with the number of rules."""
        few, many = (table(*[f"u{n}@example.net" for n in range(end)]) for end in (10, 10000))
        self.assertEqual(self.match(many, "u9999@example.net"), "u9999@example.net")
        work = linesRun(self.match, few, "u9@example.net")
        self.assertEqual(linesRun(self.match, many, "u9998@example.net"), work)


class AskSomeTests(SynchronousTestCase):
    """
    L{RuleTable.askSome}: what is asked beside a transaction.
    """

    def ask(self, address: str, *uses: str, **answers: Any) -> Any:
        class Check:
            def __init__(self, use: str, answer: Any) -> None:
                self.use = use
                self.answer = answer

            def judgeRecipient(self, envelope: Any, recipient: Any) -> Any:
                return self.answer

        checks: Any = [Check(use, answer) for use, answer in answers.items()]
        gone = Rule(Pattern("gone", "example.net"), Refuse(Reply(550, "5.1.1", "gone")))
        rule = Rule(Pattern("*", "example.net"), Defer(Route("strict", "box")), checks)
        pardons = Pardons(lambda *_: False, lambda stage: str(getattr(stage, "use", "")))
        table = RuleTable([gone, rule], "mx", {}, {"box"}, pardons=pardons)
        d = table.askSome(makeEnvelope(), makeRecipient(address), lambda use: use in uses)
        return self.successResultOf(Deferred.fromCoroutine(d))

    def test_some(self) -> None:
        """Only those checks are asked that are meant, and what they say counts."""
        no = Refuse(Reply(550, "5.1.1", "no"))
        said = {"users": Defer(Route("own", "box")), "dnsbl": no}
        self.assertEqual(self.ask("a@example.net", "users", **said).route.policy, "own")
        self.assertEqual(self.ask("a@example.net", "users", "dnsbl", **said), no)
        self.assertEqual(self.ask("a@example.net", **said).route.policy, "strict")

    def test_none(self) -> None:
        """Whom no rule lets in is refused."""
        self.assertEqual(self.ask("gone@example.net").reply.text, "gone")
        self.assertIsInstance(self.ask("a@elsewhere.example"), Refuse)
