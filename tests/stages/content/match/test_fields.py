"""
What header fields say.
"""

from __future__ import annotations

import base64
import email.header
import email.message
import email.policy

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.match.fields import base64 as lenient
from deferrals.stages.content.match.fields import decoded, parameters, readings, words
from tests.characters import anyText
from tests.work import linesRun

TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), max_size=300)


class ParameterTests(SynchronousTestCase):
    """
    L{parameters}.
    """

    def test_forms(self) -> None:
        """Tokens, quoted strings, RFC 2231's continuations and encodings."""
        for value, wanted in (
            ("text/plain", {}),
            ("a/b; Name=x.txt ; b = c", {"name": "x.txt", "b": "c"}),
            ('a/b;name="a;b\\"c\\\\.exe"', {"name": 'a;b"c\\.exe'}),
            ("a/b;\tname*=utf-8'de'%C3%A4%2eexe", {"name": "\u00e4.exe"}),
            ("a; n*0*=iso-8859-1''%e4; n*1=b%20; n*2*=%e4", {"n": "\u00e4b%20\u00e4"}),
            ('a; n*1="b"; n*0="a"; n*3=d', {"n": "ab"}),
            ("a; n=plain; n*=''encoded", {"n": "encoded"}),
            ("a; n=first; n=second", {"n": "first"}),
            ('a; n="never ends; m=1', {"n": "never ends", "m": "1"}),
            ("a; n=\u00e4 b.exe; *=x; *0=y", {"n": "\u00e4 b.exe", "*": "x", "*0": "y"}),
            ("a; n*0*=nonsense'x; n*1*=%", {"n": "nonsense'x%"}),
            ("a; n*=no-such-charset''%C3%A4", {"n": "\u00e4"}),
        ):
            self.assertEqual(parameters(value), wanted, value)

    def test_readings(self) -> None:
        """What one reader each takes for the name."""
        for value, wanted in (
            ('text/html; name=quo"te.exe name=quo"te.exe', "te.exe name=quo"),
            ('text/html; name=quo"te.exe ("x)', "te.exe ("),
            ('x; name=a.exe"; name="b.exe', "; name="),
            ("x; filename=\"back\\slash.exe; filename='b.js'", "backslash.exe; filename='b.js'"),
            ("x; filename*=ut/-8''%28paren%29%2Eexe", "ut"),
            ("x; name*=utf-8''per/%2541cent%2Eexe", "per"),
            ("x; name*=utf-8''a%27b%2\r\n%2Eexe", "a'b"),
            ('x; filename="=?utf-8?q?=70=65=72=25=3', "per%=3"),
            ('x; name*0="a"; name*1="c"; name*0*=utf-8\'\'b', "ac"),
            ("x; name*0*=utf-8''a; name*1=.exe; name*=utf-8''b", "ab"),
            ('x; name="=?utf-8?\x0cYQ==?="', "=?utf-8? YQ==?="),
            ('x; name="=?utf-8?b?YS5leGU=\\YWJj?="', "a.exe"),
            ('x; name="=?utf-8?b?YS5leGU=\\YWJj?="', "YS5leGU=\\YWJj"),
            ("x; name*=utf-8''a%5=?b%2eexe", "a?b.exe"),
            ("x; name*=utf-8''a%x%2eexe%5", "ax.exe"),
            ("x; name*0*=utf-8''a'; name*1=.e; name*0*=utf-8''b; name*1=c", "a'utf-8''b.e"),
            ('x; name="trail\r\n\t g.exe"', "trail\t g.exe"),
            ("x; name*0=a.e; name*1=b; name*2=xe", "a.exe"),
            ("x; name*0=a.e; name*0=b; name*1=c; name*1=xe", "a.exe"),
        ):
            found = readings(value)
            self.assertIn(wanted, found.get("name", []) + found.get("filename", []), value)

    @given(TEXT.filter(bool))
    def test_likeTheLibrary(self, name: str) -> None:
        """A file name comes out as the standard library has written it."""
        message = email.message.Message(email.policy.compat32)
        if name.isascii():
            message.add_header("Content-Disposition", "attachment", filename=name)
        else:
            message.add_header("Content-Disposition", "attachment", filename=("utf-8", "", name))
        self.assertEqual(parameters(message["Content-Disposition"]), {"filename": name})

    @given(anyText(max_size=200))
    def test_anything(self, value: str) -> None:
        """Any text has parameters, or none."""
        parameters(value)
        parameters(f'a/b; name="{value}; n*0*={value}')


class WordTests(SynchronousTestCase):
    """
    L{words}.
    """

    def test_forms(self) -> None:
        """RFC 2047, and what is nearly that."""
        for value, wanted in (
            ("plain =?", "plain =?"),
            ("=?utf-8?q?a=2Eexe?=", "a.exe"),
            ("Re: =?ISO-8859-1?Q?=E4_b?= c", "Re: \u00e4 b c"),
            ("=?utf-8?b?w6Q=?= =?utf-8?B?w7Y?=", "\u00e4\u00f6"),
            ("=?utf-8?b?ww==?= =?utf-8?b?pA==?=", "\u00e4"),
            ("=?utf-8*en?q?a?=b", "ab"),
            ("=?utf-8?q?a?= x =?utf-8?q?b?=", "a x b"),
            ("=?no-such?q?a?=", "a"),
            ("=?utf-8?x?a?=", "=?utf-8?x?a?="),
            ("=?punycode?q?a-?=", "a-"),
        ):
            self.assertEqual(words(value), wanted, value)

    @given(TEXT)
    def test_likeTheLibrary(self, text: str) -> None:
        """What the standard library encodes is decoded."""
        value = email.header.Header(text, "utf-8").encode()
        self.assertEqual(words(value.replace("\n", "")), text)

    @given(anyText(max_size=200))
    def test_anything(self, value: str) -> None:
        """Any text has words."""
        words(value)
        words(f"=?utf-8?b?{value}?= =?{value}?q?x?=")


class CostTests(SynchronousTestCase):
    """
    Fields that cost the standard library seconds.
    """

    def test_linear(self) -> None:
        """
        Twice the field is no more than twice the work.  Patterns are no lines, so
        the fields are long: with a pattern that goes back, this would not end.
        """
        for head, repeated, end in (
            ('a; name="', ";" * 100, ""),
            ('a; name="', '\\"' * 50, ""),
            ("a", '; n="' * 20, ""),
            ("a;", " " * 100, ""),
            ("a; ", "n" * 100, ""),
            ("a", "; n*0=x" * 14, ""),
            ("a; n*99999999999999", "9" * 100, "=x"),
            ("", "=?a?q?" * 16, ""),
            ("", "=?" * 50, ""),
            ("", "=?utf-8?q?a?= " * 7, ""),
            ("=?utf-8?q?a?=", " " * 100, ""),
            ("=?punycode?q?", "x" * 100, "?="),
        ):
            once = self.work(head + repeated * 25 + end)
            self.assertLessEqual(self.work(head + repeated * 50 + end), 2.1 * once, head + repeated)
            for read in (parameters, words):
                read(head + repeated * 2500 + end)

    def work(self, value: str) -> int:
        return linesRun(parameters, value) + linesRun(words, value)


class OctetsTests(SynchronousTestCase):
    """
    Octets and character sets.
    """

    @given(st.binary(max_size=300), st.integers(1, 80))
    def test_base64(self, data: bytes, width: int) -> None:
        """Whatever stands between, and with or without its end."""
        whole = base64.b64encode(data)
        lines = b"!\r\n".join(whole[at : at + width] for at in range(0, len(whole), width))
        self.assertEqual(lenient(lines), data)
        self.assertEqual(lenient(whole.rstrip(b"=")), data)

    @given(st.binary(max_size=50))
    def test_base64Anything(self, data: bytes) -> None:
        """Anything at all."""
        lenient(data)

    def test_decoded(self) -> None:
        """Character sets that are none, or no character sets."""
        for charset in ("", "utf-8", "nonsense", "base64", "idna", "a\0b", "unicode-escape"):
            self.assertEqual(decoded(b"\\u0041", charset), "\\u0041", charset)
        self.assertEqual(decoded(b"\xe4", "latin1"), "\u00e4")
        self.assertEqual(decoded(b"+2AA- \xff +AOQ-", "utf-7"), "? \ufffd \u00e4")
