"""
The macros of SPF records.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.spfmacro import DomainSpec, RecordError, isName

VALUES = {
    "s": "strong-bad@email.example.com",
    "l": "strong-bad",
    "o": "email.example.com",
    "d": "email.example.com",
    "i": "192.0.2.3",
    "h": "mail.example.net",
    "v": "in-addr",
    "p": "unknown",
}


class MacroTests(SynchronousTestCase):
    """
    L{DomainSpec}.
    """

    def test_examples(self) -> None:
        """The examples of RFC 7208 §7.4."""
        for text, wanted in {
            "%{s}": "strong-bad@email.example.com",
            "%{o}": "email.example.com",
            "%{d}": "email.example.com",
            "%{d4}": "email.example.com",
            "%{d3}": "email.example.com",
            "%{d2}": "example.com",
            "%{d1}": "com",
            "%{dr}": "com.example.email",
            "%{d2r}": "example.email",
            "%{l}": "strong-bad",
            "%{l-}": "strong.bad",
            "%{lr}": "strong-bad",
            "%{lr-}": "bad.strong",
            "%{l1r-}": "strong",
            "%{ir}.%{v}._spf.%{d2}": "3.2.0.192.in-addr._spf.example.com",
            "%{lr-}.lp._spf.%{d2}": "bad.strong.lp._spf.example.com",
            "%{ir}.%{v}.%{l1r-}.lp._spf.%{d2}": "3.2.0.192.in-addr.strong.lp._spf.example.com",
            "%{d2}.trusted-domains.example.net": "example.com.trusted-domains.example.net",
        }.items():
            self.assertEqual(DomainSpec.parse(text).expand(VALUES), wanted, text)

    def test_transformers(self) -> None:
        """Several delimiters, many digits, upper case, and the three escapes."""
        values = {**VALUES, "l": "~jack&jill=up-a_b3.c", "i": "1.2.3"}
        for text, wanted in {
            "%{l=-}": "~jack&jill.up.a_b3.c",
            "%{l2=-}": "up.a_b3.c",
            "%{lr==-}": "a_b3.c.up.~jack&jill",
            "%{lr_}": "b3.c.~jack&jill=up-a",
            "%{L}": "~jack%26jill%3Dup-a_b3.c",
            "%{D}": "email.example.com",
            "%{i002}": "2.3",
            "%{i127R}": "3.2.1",
            f"%{{i{'9' * 9000}r}}": "3.2.1",
            "a%%b%_c%-d.%{I}": "a%b c%20d.1.2.3",
            "a.example.": "a.example",
        }.items():
            self.assertEqual(DomainSpec.parse(text).expand(values), wanted, text[:40])

    def test_syntax(self) -> None:
        """What is no C{domain-spec}, and what is one (RFC 7208 §7.1)."""
        for text in (
            *("", "%", "%a", "%{", "%{}", "%{d", "%{x}", "%{d2x}", "%{rd}", "%{d0}", "%{d00}"),
            *(
                "%{c}",
                "%{r}",
                "%{t}",
                "%{d}com",
                "com",
                "com.",
                ".com-",
                "a.-com",
                "a.123",
                "%{l&}",
            ),
            *("a..", "a.b c", "a.b\t", "a.bé", "%(d).example", "a.example/24", "a.example:8080"),
            "%{d}.",
        ):
            self.assertRaises(RecordError, DomainSpec.parse, text)
        for text in ("a.com", ".com", "a.1-2", "a:b/c.example", "%{d}", "a%%", "a.xn--zckzah"):
            DomainSpec.parse(text)

    def test_length(self) -> None:
        """A name that is too long loses labels at its left (RFC 7208 §7.3)."""
        for first in range(1, 8):
            spec = DomainSpec.parse("%{l}." + "abc." * 60 + "example")
            name = spec.expand({"l": "x" * first})
            self.assertEqual(len(name), 247 + 1 + first if first <= 5 else 247)
            self.assertTrue(isName(name))
        spec = DomainSpec.parse("label." * 60 + "example.")
        self.assertEqual(spec.expand({}), "label." * 41 + "example")
        self.assertFalse(isName(DomainSpec.parse("%{l}.example").expand({"l": "x" * 300})))

    def test_growth(self) -> None:
        """Where a name is full, nothing more is expanded."""
        read: list[str] = []

        class Values(dict[str, str]):
            def __getitem__(self, letter: str) -> str:
                read.append(letter)
                return super().__getitem__(letter)

        spec = DomainSpec.parse("%{s}." * 1000 + "%{s}")
        spec.expand(Values(s="a" * 60 + ".example"))
        self.assertEqual(len(read), 4)

    def test_names(self) -> None:
        """What DNS is asked for."""
        for name in ("a.b", "a b.c", "a/b:c.d", "x" * 63 + ".y"):
            self.assertTrue(isName(name), name)
        for name in ("", "a", ".", "a..b", ".a", "a.b.", "x" * 64 + ".y", "é.b", "a\n.b", "a\0.b"):
            self.assertFalse(isName(name), name)
        self.assertFalse(isName(".".join("a" * 128)))

    @given(
        text=st.text("%{}slodiphvr0129.-+_=/aA", max_size=60),
        value=st.text("ab.-+%@", max_size=300),
    )
    def test_hostile(self, text: str, value: str) -> None:
        """What a macro string expands to has the length of a name, or is none."""
        try:
            spec = DomainSpec.parse(f"{text}.example")
        except RecordError:
            return
        name = spec.expand(dict.fromkeys("slodiphv", value))
        self.assertTrue(len(name) <= 253 or not isName(name))
        self.assertTrue("example".endswith(name) or name.endswith("example"))
