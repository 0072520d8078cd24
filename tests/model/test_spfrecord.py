"""
What an SPF record says.
"""

from __future__ import annotations

import contextlib
import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model import spfrecord
from deferrals.model.spfmacro import RecordError
from deferrals.model.spfrecord import MAX_RECORD_OCTETS, MAX_TERMS, isRecord, parseRecord
from tests.work import linesRun


class RecordTests(SynchronousTestCase):
    """
    L{parseRecord}.
    """

    def test_selection(self) -> None:
        """The version is a word of its own (RFC 7208 §4.5)."""
        for text in (b"v=spf1", b"V=SPF1 -all", b"v=spf1 nonsense"):
            self.assertTrue(isRecord(text), text)
        for text in (b"", b"v=spf10", b"v=spf", b" v=spf1", b"v=spf1\t-all", b"v=spf2 a"):
            self.assertFalse(isRecord(text), text)

    def test_valid(self) -> None:
        """Terms of every kind; case and the number of spaces do not matter."""
        for text in (
            *("", " ", "   -ALL  ", "a", "A/24", "a//64", "a/24//64", "a/0//0", "mx:a.example/1"),
            *("a:foo:bar/baz.example.com/24", "PTR", "ptr:%{d2}", "ip4:192.0.2.1/0"),
            *("ip6:::1/128", "ip6:2001:db8::/32", "ip6:::ffff:192.0.2.1", "exists:%{i}.a.example"),
            *("moo.cow-far_out=man:dog/cat", "x=%{c}%{r}%{t}", "x=", "exp=%{d}", "redirect=%{d}"),
            *(
                "Redirect=a.example EXP=b.example",
                "redirect=a.example all",
                "include:_spf.a.example",
            ),
        ):
            parseRecord(b"v=spf1 " + text.encode())

    def test_invalid(self) -> None:
        """What is an error, wherever it stands (RFC 7208 §4.6)."""
        for text in (
            *(
                "all:a.example",
                "all/8",
                "-all.",
                "--all",
                "+-all",
                "al",
                "foo",
                "foo:a.example",
                "-",
            ),
            *("include", "include:", "include:a", "include:a.example/24"),
            *("a:", "a/", "a/33", "a/032", "a//129", "a/24/64", "a///64", "a:/24", "a:1.2.3.4"),
            *("mx:", "mx/33", "ptr:", "ptr/24", "ptr:a", "exists", "exists:", "exists:a.example/2"),
            *("ip4", "ip4:", "ip4:1.2.3", "ip4:1.2.3.4/33", "ip4:1.2.3.4/032", "ip4:01.2.3.4"),
            *("ip4:1.2.3.4//32", "ip4:1.2.3.4:25", "ip4:::1", "ip6", "ip6:1.2.3.4", "ip6:::1/129"),
            *("ip6::a::b", "ip6:fe80::1%eth0", "ip6:::1//64", "ip4/24", "ip6:[::1]"),
            *("redirect:a.example", "+redirect=a.example", "redirect=", "redirect=a", "exp="),
            *("exp=%{r}.example", "exp=a.example exp=b.example", "x=%", "x=%{z}", "1x=y", "=all"),
            *("redirect=a.example REDIRECT=a.example", "a\tmx", "a:é.example", "a\x00", "a\n"),
        ):
            octets = b"v=spf1 ip4:192.0.2.1 -all " + text.encode()
            self.assertRaises(RecordError, parseRecord, octets)

    def test_long(self) -> None:
        """A record that is too long, or has too many terms, is invalid."""
        parseRecord(b"v=spf1" + b" a" * MAX_TERMS)
        self.assertRaises(RecordError, parseRecord, b"v=spf1" + b" a" * (MAX_TERMS + 1))
        parseRecord(b"v=spf1".ljust(MAX_RECORD_OCTETS))
        self.assertRaises(RecordError, parseRecord, b"v=spf1".ljust(MAX_RECORD_OCTETS + 1))

    def test_work(self) -> None:
        """Reading twice as much costs twice as much."""
        for term in (b" a", b" ip4:192.0.2.1/24", b" x=%{d}", b" a:%{l}.example/1//2"):
            few = linesRun(parseRecord, b"v=spf1" + term * 100)
            many = linesRun(parseRecord, b"v=spf1" + term * 200)
            self.assertLess(many, 2.1 * few)
        for part in (b"%{d}", b"%{l1r-+}.", b"a.", b"%%", b"/1", b"%{d2.-+,}"):
            few = linesRun(parseRecord, b"v=spf1 a:" + part * 400 + b"%{d}")
            many = linesRun(parseRecord, b"v=spf1 a:" + part * 800 + b"%{d}")
            self.assertLess(many, 2.1 * few)

    @given(octets=st.binary(max_size=200))
    def test_hostile(self, octets: bytes) -> None:
        """A record can be read, or has an error."""
        with contextlib.suppress(RecordError):
            parseRecord(b"v=spf1 " + octets)

    @given(st.text(alphabet="+-aB1:/. \n"))
    def test_directive(self, term: str) -> None:
        """A term's name ends where its letters and digits do."""
        expected = re.fullmatch(r"([+\-?~]?)([A-Za-z0-9]+)(.*)", term)
        found = spfrecord._DIRECTIVE.fullmatch(term)
        self.assertEqual(found and found.groups(), expected and expected.groups())
