"""
Whether a message is its author's domain's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model import dmarc
from deferrals.model.authentication import DMARC, Signature
from deferrals.model.dkim import fieldsIn
from deferrals.model.dmarc import (
    MOST_AUTHORS,
    MOST_FROM_OCTETS,
    MOST_RECORD_OCTETS,
    Authors,
    DMARCRecord,
    Suffixes,
    authorsOf,
    findRecord,
    judge,
    together,
)
from deferrals.model.spf import Finding, LookupFailed
from deferrals.model.spfrecord import SPFResult
from tests.spfzone import Names, finished

try:
    import publicsuffixlist
except ImportError:
    publicsuffixlist = None

MISSING = "" if publicsuffixlist is not None else "the extra authentication is not installed"

_LIST = "example\nuk\nco.uk\n*.ck\n!www.ck\nhost.example\n"


_DOMAINS = some.builds(
    lambda labels, suffix: ".".join([*labels, suffix]),
    some.lists(some.sampled_from(["a", "b", "host", "co"]), max_size=3),
    some.sampled_from(["example", "uk", "co.uk", "host.example", "ck", "www.ck", "x.ck"]),
)


def organization(domain: str) -> str:
    """
    The shortest name above a domain that is no public suffix, by hand.
    """
    labels = domain.split(".")
    names = [".".join(labels[n:]) for n in range(len(labels) - 1, -1, -1)]
    isPublic = {"example", "uk", "co.uk", "ck", "host.example"}
    for name in names:
        isWild = name.endswith(".ck") and name.count(".") == 1 and name != "www.ck"
        if name not in isPublic and not isWild:
            return name
    return domain


def suffixes() -> Suffixes:
    """
    A list of public suffixes of our own.
    """
    return Suffixes(publicsuffixlist.PublicSuffixList(_LIST).privatesuffix)


class AuthorsTests(SynchronousTestCase):
    """
    L{authorsOf}.
    """

    def authors(self, header: bytes) -> Authors:
        return authorsOf(fieldsIn(header))

    def test_one(self) -> None:
        """One author, however the field is written; several of one domain are as one."""
        for value in (
            b"a@x.example",
            b"A <a@X.EXAMPLE>",
            b'"b@y.example" <a@x.example>',
            b"b@y.example <a@x.example>",
            b'"b@y.example"@x.example',
            b"(b@y.example) a@x.example (c)",
            b"a@x.example, b@x.example",
            b"A\r\n <a@x.example>",
            b"=?utf-8?q?b=40y.example?= <a@x.example>",
            b"G: a@x.example, b@x.example;",
        ):
            self.assertEqual(self.authors(b"From: " + value), Authors(("x.example",)), value)
        self.assertEqual(
            self.authors("From: a@b\xfccher.example".encode()).domains, ("xn--bcher-kva.example",)
        )
        self.assertEqual(self.authors(b"From: a@[192.0.2.1]"), Authors())
        self.assertEqual(self.authors(b"From: nobody:;"), Authors())

    def test_several(self) -> None:
        """Authors of several domains, and several fields, are no one author."""
        found = self.authors(b"From: a@x.example, b@y.example")
        self.assertEqual(found.domains, ("x.example", "y.example"))
        self.assertEqual((bool(found.problem), found.atLeast), (True, "none"))
        for text in (b"b@y.example: a@x.example;", b"<a@x.example> b@y.example"):
            found = self.authors(b"From: " + text)
            self.assertEqual(set(found.domains), {"x.example", "y.example"}, text)
        found = self.authors(b"From: a@x.example\r\nSubject: b\r\nFrom: a@x.example")
        self.assertEqual((found.domains, found.atLeast), (("x.example",), "reject"))
        many = b", ".join(b"a@x%d.example" % n for n in range(MOST_AUTHORS + 1))
        found = self.authors(b"From: " + many)
        self.assertEqual((len(found.domains), found.atLeast), (MOST_AUTHORS, "reject"))

    def test_none(self) -> None:
        """Without From there is none; one that cannot be read is at least junk."""
        self.assertEqual(self.authors(b"Subject: x").atLeast, "none")
        self.assertTrue(self.authors(b"Subject: x").problem)
        for value in (
            b"a",
            b"<a@x..example>",
            b"a@x.example <b",
            b"a@x.example <b@y.example> <c@z>",
            b"(a@x.example)",
            b"((a@x.example",
            b"a@x.example (",
            b"a@x.example b@y.example",
            b'"c" a@x.example b@y.example',
        ):
            self.assertEqual(self.authors(b"From: " + value).atLeast, "quarantine", value)
        long = b"From: " + b"(x) " * MOST_FROM_OCTETS + b"a@x.example"
        self.assertEqual(self.authors(long).atLeast, "reject")

    @given(some.binary(max_size=80))
    def test_anything(self, value: bytes) -> None:
        """No octets are too odd; and none makes more than a few domains."""
        found = self.authors(b"From: " + value)
        self.assertLessEqual(len(found.domains), MOST_AUTHORS)

    @given(some.text(alphabet='a@"\\\n'))
    def test_unquoted(self, text: str) -> None:
        """What is in quotes that end is left out."""
        expected = re.sub(r'"(?:[^"\\]|\\.)*"', "", text, flags=re.S)
        self.assertEqual(dmarc._unquoted(text), expected)


class DMARCCase(SynchronousTestCase):
    """
    With a table for DNS.
    """

    if MISSING:
        skip = MISSING

    def setUp(self) -> None:
        self.records: dict[tuple[str, str], Sequence[Any]] = {}
        self.names = Names(self.records)
        self.suffixes = suffixes()

    def publish(self, domain: str, *texts: str) -> None:
        self.records[f"_dmarc.{domain}", "TXT"] = texts

    def find(self, domain: str) -> DMARCRecord | None:
        return finished(findRecord(self.names, domain, self.suffixes))

    def judge(
        self,
        author: str,
        *signers: str,
        spf: str = "",
        result: SPFResult = SPFResult.PASS,
        signed: Any = "pass",
    ) -> DMARC:
        """
        @param signers: whose signatures are right.
        """
        finding = Finding(result, spf) if spf else None
        signatures = [Signature(signed, one, "s") for one in signers]
        return judge(author, self.find(author), finding, signatures, self.suffixes)


class RecordTests(DMARCCase):
    """
    L{findRecord}.
    """

    def test_places(self) -> None:
        """The domain's own record, else its organization's."""
        self.publish("x.example", "v=DMARC1; p=reject")
        self.assertEqual(self.find("x.example"), DMARCRecord("v=DMARC1; p=reject", "x.example"))
        self.assertEqual(self.find("a.b.x.example"), DMARCRecord("v=DMARC1; p=reject", "x.example"))
        self.publish("b.x.example", "v=DMARC1; p=none")
        self.assertEqual(self.find("b.x.example"), DMARCRecord("v=DMARC1; p=none", "b.x.example"))
        self.assertEqual(self.find("a.b.x.example"), DMARCRecord("v=DMARC1; p=reject", "x.example"))
        self.assertIsNone(self.find("y.example"))
        self.assertIsNone(self.find("example"))

    def test_asked(self) -> None:
        """Three records at most are asked for."""
        self.assertIsNone(self.find("a.b.c.x.example"))
        asked = ["_dmarc.a.b.c.x.example", "_dmarc.x.example", "_dmarc.example"]
        self.assertEqual(self.names.asked, [(one, "TXT") for one in asked])
        self.names.asked.clear()
        self.assertIsNone(self.find("a.x.co.uk"))
        self.assertEqual(
            [name for name, _ in self.names.asked],
            ["_dmarc.a.x.co.uk", "_dmarc.x.co.uk", "_dmarc.co.uk"],
        )

    def test_which(self) -> None:
        """Only one that begins rightly is a record; of several none counts."""
        self.publish(
            "x.example", "text", "v=DMARC1; p=reject", "v=DMARC10; p=none", "v=dmarc1; p=x"
        )
        self.assertEqual(self.judge("x.example").policy, "reject")
        self.publish("x.example", "v=DMARC1; p=reject", "v=DMARC1; p=reject")
        self.assertIsNone(self.find("x.example"))
        self.publish("x.example", "v=DMARC1; p=reject; rua=" + "x" * MOST_RECORD_OCTETS)
        self.assertIsNone(self.find("x.example"))

    def test_suffix(self) -> None:
        """A public suffix's record counts for what is below only where it says psd=y."""
        self.publish("co.uk", "v=DMARC1; p=reject")
        self.assertIsNone(self.find("x.co.uk"))
        self.publish("co.uk", "v=DMARC1; p=reject; psd=y")
        self.assertEqual(self.judge("x.co.uk").policy, "reject")
        self.assertEqual(self.judge("a.x.co.uk").policy, "reject")

    def test_missing(self) -> None:
        """Whether the author's domain exists is asked where the record speaks of it."""
        self.publish("x.example", "v=DMARC1; p=none; sp=quarantine; np=reject")
        self.assertEqual(self.judge("gone.x.example").policy, "reject")
        self.records["there.x.example", "A"] = ["192.0.2.1"]
        self.assertEqual(self.judge("there.x.example").policy, "quarantine")
        self.records["mx.x.example", "MX"] = [(10, "y.example")]
        self.assertEqual(self.judge("mx.x.example").policy, "quarantine")
        self.assertEqual(self.judge("x.example").policy, "none")

    def test_fails(self) -> None:
        """DNS that does not say is no absence."""
        self.names.broken = {"_dmarc.x.example"}
        with self.assertRaises(LookupFailed):
            self.find("a.x.example")
        found = judge("x.example", LookupFailed("no"), None, [], self.suffixes)
        self.assertEqual(found, DMARC("temperror", "x.example", problem="no"))


class JudgeTests(DMARCCase):
    """
    L{judge}.
    """

    def test_aligned(self) -> None:
        """Relaxed, one organization is enough; strict, it has to be the domain."""
        for modes, signer, wanted in (
            ("", "x.example", "pass"),
            ("", "a.x.example", "pass"),
            ("", "c.a.x.example", "pass"),
            ("", "b.x.example", "pass"),
            ("", "A.X.Example", "pass"),
            ("; adkim=s; aspf=s", "a.x.example", "pass"),
            ("; adkim=s; aspf=s", "x.example", "fail"),
            ("; adkim=s; aspf=s", "b.x.example", "fail"),
            ("", "y.example", "fail"),
            ("", "xx.example", "fail"),
            ("", "example", "fail"),
        ):
            self.publish("x.example", "v=DMARC1; p=reject" + modes)
            self.assertEqual(self.judge("a.x.example", signer).result, wanted, (modes, signer))
            self.assertEqual(self.judge("a.x.example", spf=signer).result, wanted, signer)

    def test_suffixes(self) -> None:
        """Neighbours under one public suffix are not one, nor is the suffix itself."""
        self.publish("host.example", "v=DMARC1; p=reject")
        self.publish("me.host.example", "v=DMARC1; p=reject")
        for author, signer in (
            ("me.host.example", "you.host.example"),
            ("me.host.example", "host.example"),
            ("host.example", "you.host.example"),
        ):
            self.assertEqual(self.judge(author, signer).result, "fail", (author, signer))

    @given(_DOMAINS, _DOMAINS, some.sampled_from(["", "; adkim=s"]))
    def test_organizations(self, author: str, signer: str, mode: str) -> None:
        """Relaxed, one organization; strict, one name; whatever the names are."""
        self.publish(author, "v=DMARC1; p=reject" + mode)
        isOne = author == signer if mode else organization(author) == organization(signer)
        found = self.judge(author, signer)
        self.assertEqual(found.result, "pass" if isOne else "fail", (author, signer))

    def test_results(self) -> None:
        """Only what passes proves; what is not known is not held against the message."""
        self.publish("x.example", "v=DMARC1; p=reject")
        for result in SPFResult:
            wanted = {"pass": "pass", "temperror": "temperror"}.get(result.value, "fail")
            self.assertEqual(self.judge("x.example", spf="x.example", result=result).result, wanted)
            other = self.judge("x.example", spf="y.example", result=result)
            self.assertEqual(other.result, "fail")
        for signed in ("fail", "permerror", "none"):
            self.assertEqual(self.judge("x.example", "x.example", signed=signed).result, "fail")
        self.assertEqual(
            self.judge("x.example", "x.example", signed="temperror").result, "temperror"
        )
        self.assertEqual(self.judge("x.example", "y.example", signed="temperror").result, "fail")
        found = self.judge("x.example", "x.example", spf="x.example", result=SPFResult.TEMPERROR)
        self.assertEqual(found.result, "pass")

    def test_policies(self) -> None:
        """What the record wants; tests and percentages."""
        for text, own, below in (
            ("p=none", "none", "none"),
            ("p=quarantine", "quarantine", "quarantine"),
            ("p=reject", "reject", "reject"),
            ("p=reject; sp=none", "reject", "none"),
            ("P=Reject ; SP=Quarantine", "reject", "quarantine"),
            ("p=reject; sp=nonsense", "reject", "reject"),
            ("p=reject; t=y", "quarantine", "quarantine"),
            ("p=quarantine; t=y", "none", "none"),
            ("p=reject; pct=0", "quarantine", "quarantine"),
            ("p=reject; pct=50", "reject", "reject"),
            ("p=reject; pct=x", "reject", "reject"),
            ("p=reject; pct=" + "9" * 4000, "reject", "reject"),
            ("p=reject; unknown=1", "reject", "reject"),
        ):
            self.publish("x.example", "v=DMARC1; " + text)
            for author, wanted in (("x.example", own), ("a.x.example", below)):
                self.assertEqual(
                    self.judge(author), DMARC("fail", author, wanted), (text[:40], author)
                )

    def test_unreadable(self) -> None:
        """A record without a policy is none."""
        for text in ("v=DMARC1", "v=DMARC1;", "v=DMARC1; rua=mailto:a@x.example", "v=DMARC1; p=x"):
            self.publish("x.example", text)
            found = self.judge("x.example")
            self.assertEqual((found.result, found.policy), ("permerror", "none"))

    def test_noRecord(self) -> None:
        """Without one there is nothing to judge."""
        self.assertEqual(self.judge("x.example", "x.example"), DMARC("none", "x.example"))

    @given(some.text(max_size=60), some.sampled_from(["none", "quarantine", "reject"]))
    def test_anything(self, text: str, policy: str) -> None:
        """No record is too odd; what is behind a policy does not fail."""
        self.publish("x.example", f"v=DMARC1; p={policy}; {text}")
        self.judge("x.example", "x.example")


class TogetherTests(SynchronousTestCase):
    """
    L{together}.
    """

    def test_one(self) -> None:
        """One author is what was found of it."""
        found = DMARC("fail", "x.example", "reject")
        self.assertEqual(together(Authors(("x.example",)), [found]), found)
        self.assertEqual(together(Authors(), []), DMARC())

    def test_strictest(self) -> None:
        """Of several, the strictest policy of those that are not proved."""
        authors = Authors(("x.example", "y.example"), "two")
        proved = DMARC("pass", "x.example")
        for policy in ("none", "quarantine", "reject"):
            found = together(authors, [proved, DMARC("fail", "y.example", policy)])
            self.assertEqual(found, DMARC("permerror", "", policy, "two"))
        self.assertEqual(together(authors, [proved, proved]).policy, "none")

    def test_unsure(self) -> None:
        """What is not known of one counts where nothing worse is known."""
        authors = Authors(("x.example", "y.example"), "two")
        unsure = DMARC("temperror", "x.example", problem="no answer")
        self.assertEqual(together(authors, [unsure, DMARC()]).result, "temperror")
        found = together(authors, [unsure, DMARC("fail", "y.example", "reject")])
        self.assertEqual(found.policy, "reject")

    def test_atLeast(self) -> None:
        """What cannot be read, and what is there twice."""
        authors = Authors(("x.example",), "two fields", "reject")
        found = together(authors, [DMARC("pass", "x.example")])
        self.assertEqual(found, DMARC("permerror", "x.example", "reject", "two fields"))
        self.assertEqual(together(Authors((), "no From"), []).policy, "none")
