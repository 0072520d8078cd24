"""
What is found out about where a message comes from, written and read.
"""

from __future__ import annotations

import authres
from hypothesis import given
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.authentication import (
    DMARC,
    MOST_RESULTS_OCTETS,
    Authentication,
    Chain,
    MethodResult,
    Signature,
    statements,
    vouches,
)
from deferrals.model.spf import Finding
from deferrals.model.spfrecord import SPFResult

_RESULTS = some.sampled_from(["none", "pass", "fail", "permerror", "temperror"])
_NAMES = some.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,10}\.){0,3}[a-z0-9]{1,10}", fullmatch=True)
#: What a stranger may have written where a name belongs.
_ODD = some.one_of(_NAMES, some.text(max_size=20))
_FOUND = some.builds(
    Authentication,
    some.none() | some.builds(Finding, some.sampled_from(SPFResult), _ODD),
    some.lists(some.builds(Signature, _RESULTS, _ODD, _ODD), max_size=3).map(tuple),
    some.builds(Chain, _RESULTS),
    some.none() | some.builds(DMARC, _RESULTS, _ODD),
)


def read(text: str) -> authres.AuthenticationResultsHeader:
    """
    What another program reads.
    """
    context = authres.FeatureContext(authres.all_features())
    return context.parse(f"Authentication-Results: {text}")


class AuthenticationTests(SynchronousTestCase):
    """
    L{Authentication}.
    """

    def test_words(self) -> None:
        """The format: one statement for each method, one for each signature."""
        found = Authentication(
            Finding(SPFResult.FAIL, "a.example"),
            (Signature("pass", "b.example", "s1"), Signature("fail", "c.example", "s2")),
            Chain("none"),
            DMARC("fail", "a.example", "reject"),
        )
        self.assertEqual(
            "; ".join(found.words("mx.example.net")),
            "mx.example.net; spf=fail smtp.mailfrom=a.example;"
            " dkim=pass header.d=b.example header.s=s1; dkim=fail header.d=c.example header.s=s2;"
            " arc=none; dmarc=fail header.from=a.example",
        )
        nothing = "; ".join(Authentication().words("mx.example.net"))
        self.assertEqual(nothing, "mx.example.net; dkim=none; arc=none")

    def test_aligned(self) -> None:
        """What is proved is what passes: the domain of SPF, and who has signed."""
        found = Authentication(
            Finding(SPFResult.PASS, "a.example"),
            (Signature("pass", "B.Example", "s"), Signature("fail", "c.example", "s")),
        )
        self.assertEqual(found.aligned, {"a.example", "b.example"})
        for result in SPFResult:
            other = Authentication(Finding(result, "a.example"), (Signature("pass"),))
            self.assertEqual(bool(other.aligned), result is SPFResult.PASS)

    @given(_FOUND)
    def test_stranger(self, found: Authentication) -> None:
        """Another program reads what was meant, whatever a stranger has called things."""
        header = read("; ".join(found.words("mx.example.net")))
        self.assertEqual(header.authserv_id, "mx.example.net")
        said = [(one.method, one.result) for one in header.results]
        wanted = [] if found.spf is None else [("spf", found.spf.result.value)]
        wanted += [("dkim", one.result) for one in found.dkim] or [("dkim", "none")]
        wanted.append(("arc", found.arc.result))
        wanted += [] if found.dmarc is None else [("dmarc", found.dmarc.result)]
        self.assertEqual(said, wanted)


class StatementsTests(SynchronousTestCase):
    """
    L{statements} and L{vouches}.
    """

    def test_read(self) -> None:
        """Comments, folding, versions, case and quotes."""
        value = (
            b' i=1; mx.example (a; dkim=pass);\r\n spf=softfail (b) smtp.mailfrom="x y"@a.example;'
            b" DKIM/1 = PASS header.d=b.example header.d=c.example; dmarc=fail (p=reject (x))"
            b' header.from="d.example"; nonsense; a=b=c'
        )
        self.assertEqual(
            statements(value)[:3],
            [
                MethodResult("spf", "softfail", (("smtp.mailfrom", "x y"),)),
                MethodResult("dkim", "pass", (("header.d", "b.example"),)),
                MethodResult("dmarc", "fail", (("header.from", "d.example"),)),
            ],
        )

    def test_nothing(self) -> None:
        """What is very long is not read, nor what is behind a comment without end."""
        self.assertEqual(statements(b"a; dmarc=pass" + b" " * MOST_RESULTS_OCTETS), [])
        self.assertEqual(statements(b"a; (dmarc=pass"), [])
        self.assertEqual(statements(b"a; dmarc=passed1"), [])
        self.assertEqual(statements(b'a; x="; dmarc=pass"'), [])

    def test_vouches(self) -> None:
        """A sealer says that the author is proved: by DMARC, else by a signature."""
        for value, wanted in (
            (b"a; dmarc=pass header.from=d.example", True),
            (b"a; dmarc=pass header.from=D.Example.", True),
            (b"a; dmarc=pass header.from=e.example", False),
            (b"a; dmarc=pass", False),
            (b"a; dmarc=fail header.from=d.example; dmarc=pass header.from=d.example", False),
            (b"a; dmarc=pass header.from=d.example; dmarc=fail header.from=d.example", False),
            (b"a; dmarc=pass header.from=d.example; dmarc=fail header.from=e.example", True),
            (b"a; dmarc=fail header.from=d.example; dkim=pass header.d=d.example", False),
            (b"a; dkim=pass header.d=d.example", True),
            (b"a; dkim=pass header.d=d.example; dmarc=none header.from=d.example", True),
            (b"a; dkim=pass header.i=x@d.example", True),
            (b"a; dkim=pass header.d=example", False),
            (b"a; dkim=pass header.d=xd.example", False),
            (b"a; dkim=pass header.d=ample", False),
            (b"a; dkim=fail header.d=d.example", False),
            (b"a; dkim=pass", False),
            (b"a; spf=pass smtp.mailfrom=d.example", False),
            (b"a; (dmarc=pass header.from=d.example)", False),
            (b"a; x-dmarc=pass header.from=d.example", False),
            (b'a; y=n reason="; dmarc=pass header.from=d.example"', False),
            (b"", False),
        ):
            self.assertEqual(vouches(value, "d.example"), wanted, value)

    @given(_FOUND)
    def test_ours(self, found: Authentication) -> None:
        """What we write, we read."""
        results = "; ".join(found.words("mx.example.net")).encode()
        said = [(one.method, one.result) for one in statements(b" i=1; " + results)]
        header = read(results.decode())
        self.assertEqual(said, [(one.method, one.result) for one in header.results])

    @given(some.binary(max_size=200))
    def test_anything(self, value: bytes) -> None:
        """No octets are too odd."""
        vouches(b"a; dmarc=" + value, "d.example")
