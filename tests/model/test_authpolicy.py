"""
What a recipient makes of where a message comes from.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.authentication import DMARC, Authentication, Chain, Seal, Signature
from deferrals.model.authpolicy import (
    NO_ONE,
    AuthDecision,
    AuthPolicy,
    DMARCMeans,
    Domains,
    Forwarders,
    decide,
    oneOf,
    refusalFor,
)
from deferrals.model.spf import Finding
from deferrals.model.spfrecord import SPFResult

CLIENT = "192.0.2.1"
REPLY = "550 5.7.1 refused: not sent by {domain} (DMARC)"
VOUCHES = b" i=1; mx.list.example; dmarc=pass header.from=bank.example"
DENIES = b" i=1; mx.list.example; dmarc=fail header.from=bank.example"


def failing(policy: Any = "reject", **more: Any) -> Authentication:
    """
    A message that bank.example has not sent.
    """
    known = {"spf": Finding(SPFResult.PASS, "list.example")}
    return Authentication(**{**known, "dmarc": DMARC("fail", "bank.example", policy), **more})


def policy(dmarc: Any = "enforce", **more: Any) -> AuthPolicy:
    forwarders = Forwarders.parse(more.pop("forwarders", ()))
    sealers = Domains.parse(more.pop("sealers", ()))
    return AuthPolicy(dmarc, forwarders=forwarders, sealers=sealers, reply=REPLY, **more)


class DomainsTests(SynchronousTestCase):
    """
    L{Domains} and L{Forwarders}.
    """

    def test_domains(self) -> None:
        """A domain is itself; with an asterisk, those below it."""
        found = Domains.parse(["Example.ORG.", "*.lists.example", "b\xfccher.example"])
        for domain, wanted in (
            ("example.org", True),
            ("a.example.org", False),
            ("a.lists.example", True),
            ("a.b.lists.example", True),
            ("lists.example", False),
            ("xlists.example", False),
            ("xn--bcher-kva.example", True),
            ("", False),
        ):
            self.assertIs(domain in found, wanted, domain)
        self.assertFalse(Domains())

    def test_wrong(self) -> None:
        """What is no domain, or everybody's, is an error that says so."""
        for word in ("*", "org", "*.org", "a@example.org", "[192.0.2.1]", "", "a..b", "*.*.b.c"):
            self.assertRaisesRegex(ValueError, "^domains such as", Domains.parse, [word])
            self.assertRaisesRegex(ValueError, "^networks such as", Forwarders.parse, [word])
        self.assertRaises(ValueError, Forwarders.parse, ["0.0.0.0/0"])
        self.assertRaises(ValueError, Forwarders.parse, ["0.0.0.0/1", "128.0.0.0/1"])
        self.assertRaises(ValueError, Forwarders.parse, ["192.0.2.1/24"])
        self.assertRaises(ValueError, Forwarders.parse, ["unix"])

    def test_forwarders(self) -> None:
        """Networks and domains in one list."""
        found = Forwarders.parse(["192.0.2.0/24", "2001:db8::1", "list.example"])
        self.assertIn("192.0.2.7", found.networks)
        self.assertIn("2001:db8::1", found.networks)
        self.assertIn("list.example", found.domains)


class ReadingTests(SynchronousTestCase):
    """
    What recipients' own settings are read by.
    """

    def test_oneOf(self) -> None:
        """One of the words."""
        self.assertEqual(oneOf(DMARCMeans)("mark"), "mark")
        self.assertRaisesRegex(
            ValueError, "^one of enforce, mark, ignore, not 'x'$", oneOf(DMARCMeans), "x"
        )

    def test_refusal(self) -> None:
        """A reply that refuses, in which the domain may stand and nothing else."""
        refusalFor(REPLY)
        refusalFor("550 no")
        for text in ("250 ok", "550 {x}", "550 {domain!r}", "550 {", "550 {domain.x}"):
            self.assertRaises(ValueError, refusalFor, text)


class DecideTests(SynchronousTestCase):
    """
    L{decide}.
    """

    def test_dmarc(self) -> None:
        """What the author's domain wants, and what the recipient makes of it."""
        for means, actions in (
            ("enforce", ("accept", "junk", "refuse")),
            ("mark", ("accept", "junk", "junk")),
            ("ignore", ("accept", "accept", "accept")),
        ):
            for wanted, action in zip(("none", "quarantine", "reject"), actions, strict=True):
                found = decide(failing(wanted), CLIENT, policy(means))
                self.assertEqual(found.action, action, (means, wanted))
                found = decide(
                    failing(dmarc=DMARC("permerror", "", wanted, "x")), CLIENT, policy(means)
                )
                self.assertEqual(found.action, action, (means, wanted))

    def test_reply(self) -> None:
        """A refusal names the domain; where it is not one, nobody."""
        found = decide(failing(), CLIENT, policy())
        text = "550 5.7.1 refused: not sent by bank.example (DMARC)"
        self.assertEqual(
            (str(found.reply), found.why), (text, "dmarc=fail (p=reject), dmarc enforce")
        )
        found = decide(failing(dmarc=DMARC("permerror", "", "reject")), CLIENT, policy())
        self.assertIn(NO_ONE, str(found.reply))

    def test_passes(self) -> None:
        """What is proved, has no policy, or comes from inside is accepted."""
        for result in ("pass", "none"):
            judged = DMARC(result, "bank.example")
            found = decide(failing(dmarc=judged), CLIENT, policy())
            self.assertEqual(found.action, "accept")
        inside = decide(Authentication(), "local", policy(spf="enforce"))
        self.assertEqual(inside, AuthDecision("accept"))

    def test_unsure(self) -> None:
        """What is not known is not held against the message."""
        judged = DMARC("temperror", "bank.example", problem="no answer")
        for means, action in (("enforce", "unsure"), ("mark", "unsure"), ("ignore", "accept")):
            self.assertEqual(decide(failing(dmarc=judged), CLIENT, policy(means)).action, action)
        slow = failing(spf=Finding(SPFResult.TEMPERROR, "list.example", "slow"))
        self.assertEqual(decide(slow, CLIENT, policy(spf="enforce")).action, "refuse")
        found = decide(slow, CLIENT, policy("mark", spf="enforce"))
        self.assertEqual((found.action, found.isJunk), ("unsure", True))
        self.assertEqual(decide(slow, CLIENT, policy("mark")).action, "junk")

    def test_unchecked(self) -> None:
        """Signatures that were too much to be checked make it junk at most."""
        signed = (Signature("permerror", "bank.example"),)
        found = failing(dkim=signed, unchecked="too much")
        self.assertEqual(decide(found, CLIENT, policy()).action, "junk")
        self.assertEqual(decide(failing(unchecked="too much"), CLIENT, policy()).action, "refuse")
        self.assertEqual(decide(failing(dkim=signed), CLIENT, policy()).action, "refuse")

    def test_spf(self) -> None:
        """A failure of SPF alone refuses where that is wanted, and nothing less does."""
        for result in SPFResult:
            found = Authentication(Finding(result, "a.example"), dmarc=DMARC("pass", "a.example"))
            self.assertEqual(decide(found, CLIENT, policy()).action, "accept")
            decided = decide(found, CLIENT, policy(spf="enforce"))
            wanted = {"fail": "refuse", "temperror": "unsure"}.get(result.value, "accept")
            self.assertEqual(decided.action, wanted, result)
            if decided.reply is not None:
                text = "550 5.7.23 refused: 192.0.2.1 may not send for a.example (SPF)"
                self.assertEqual(str(decided.reply), text)

    def test_forwarders(self) -> None:
        """A forwarder's failures are not held against it: by its network, or proved by SPF."""
        for forwarders, wanted in (
            (["192.0.2.0/24"], "accept"),
            (["198.51.100.0/24"], "refuse"),
            (["list.example"], "accept"),
            (["*.list.example"], "refuse"),
            (["bank.example"], "refuse"),
        ):
            found = decide(failing(), CLIENT, policy(forwarders=forwarders))
            self.assertEqual(found.action, wanted, forwarders)
            self.assertEqual(bool(found.trusted), wanted == "accept")
        for result in SPFResult:
            known = failing(spf=Finding(result, "list.example"))
            found = decide(known, CLIENT, policy(forwarders=["list.example"]))
            self.assertEqual(found.action == "accept", result is SPFResult.PASS, result)
        failed = Authentication(Finding(SPFResult.FAIL, "a.example"))
        forwarding = policy(spf="enforce", forwarders=["192.0.2.1"])
        self.assertEqual(decide(failed, CLIENT, forwarding).action, "accept")

    def test_sealers(self) -> None:
        """A trusted sealer's word, in a chain that holds, with none but trusted ones behind."""
        one, other = Seal("list.example", VOUCHES), Seal("list.example", DENIES)
        stranger, friend = Seal("x.example", VOUCHES), Seal("friend.example", DENIES)
        trusting = policy(sealers=["list.example", "friend.example"])
        for seals, wanted in (
            ((one,), "accept"),
            ((other,), "refuse"),
            ((stranger,), "refuse"),
            ((one, stranger), "refuse"),
            ((stranger, one), "accept"),
            ((one, friend), "accept"),
            ((stranger, friend), "refuse"),
            ((one, stranger, friend), "refuse"),
            ((one, other), "accept"),
            ((), "refuse"),
        ):
            found = failing(arc=Chain("pass", seals))
            decided = decide(found, CLIENT, trusting)
            self.assertEqual(decided.action, wanted, [one.domain for one in seals])
            self.assertEqual(decide(found, CLIENT, policy()).action, "refuse")

    def test_broken(self) -> None:
        """A broken seal trusts nobody."""
        trusting = policy(sealers=["list.example"])
        for result in ("none", "fail", "permerror", "temperror"):
            chain = Chain(result, (Seal("list.example", VOUCHES),))
            self.assertEqual(decide(failing(arc=chain), CLIENT, trusting).action, "refuse")

    def test_another(self) -> None:
        """What a sealer says of another author says nothing of this one."""
        chain = Chain("pass", (Seal("list.example", VOUCHES.replace(b"bank", b"other")),))
        trusting = policy(sealers=["list.example"])
        self.assertEqual(decide(failing(arc=chain), CLIENT, trusting).action, "refuse")
        several = failing(dmarc=DMARC("permerror", "", "reject"), arc=chain)
        self.assertEqual(decide(several, CLIENT, trusting).action, "refuse")

    @given(some.binary(max_size=100))
    def test_anything(self, results: bytes) -> None:
        """Whatever a sealer writes, it vouches for this author or does not."""
        chain = Chain("pass", (Seal("list.example", results),))
        found = decide(failing(arc=chain), CLIENT, policy(sealers=["list.example"]))
        self.assertIn(found.action, ("accept", "refuse"))
