"""
Addresses and paths.
"""

import ast

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import AddressError, Mailbox, comparable, normalDomain, takePath
from deferrals.model.commands import checkRecipient
from deferrals.model.outgoing import wireAddress
from tests.characters import anyText
from tests.rigs import some
from tests.source import nodes
from tests.test_layout import modules
from tests.work import linesRun

#: What is compared there is no address, and more than one spelling is to be found.
FOLDING = ("auth/throttle.py", "model/ours.py", "model/recent.py", "stages/delivery/maildir.py")


class ComparableTests(SynchronousTestCase):
    """
    L{comparable}.
    """

    def test_same(self) -> None:
        """One name in two spellings is one."""
        for one, other in (
            ("Fighter", "fIGHTER"),
            ("M\u00dcLLER", "mu\u0308ller"),
            ("\u00c5", "\u212b"),
            ("K", "\u212a"),
        ):
            self.assertEqual(comparable(one), comparable(other))

    def test_others(self) -> None:
        """Two people never share a mailbox."""
        for one, other in (
            ("stra\xdfe", "strasse"),
            ("stra\u1e9ee", "strasse"),
            ("\ufb01n", "fin"),
            ("\u017fam", "sam"),
            ("\u03c2", "\u03c3"),
            ("\u0130", "i"),
            ("i", "\u0131"),
            ("\uff41", "a"),
            ("\u00aa", "a"),
        ):
            self.assertNotEqual(comparable(one), comparable(other))

    def test_stable(self) -> None:
        """What it says is its own spelling, for each character."""
        for character in some(map(chr, range(0x110000)), 7):
            once = comparable(character)
            self.assertEqual(comparable(once), once, hex(ord(character)))

    def test_oneWay(self) -> None:
        """No module folds cases in a way of its own, nor lowers a local part."""
        for _, path, tree in modules():
            calls = [node.func for node in nodes(tree, ast.Call)]
            called = [one for one in calls if isinstance(one, ast.Attribute)]
            if path not in FOLDING:
                self.assertEqual([one for one in called if one.attr == "casefold"], [], path)
            if path != "model/address.py":
                lowered = [ast.unparse(one.value) for one in called if one.attr == "lower"]
                self.assertEqual([one for one in lowered if one.endswith("local")], [], path)

    @given(anyText())
    def test_texts(self, text: str) -> None:
        """The same, whatever stands beside it."""
        self.assertEqual(comparable(comparable(text)), comparable(text))


class PathTests(SynchronousTestCase):
    """
    L{takePath}.
    """

    def test_good(self) -> None:
        """What RFC 5321 allows (trap f1)."""
        for text, local, domain in (
            ("<a@example.net>", "a", "example.net"),
            ("<A.b+c@EXAMPLE.net>", "A.b+c", "example.net"),
            ('<"a b"@example.net>', "a b", "example.net"),
            ('<"a\\"b\\\\"@example.net>', 'a"b\\', "example.net"),
            ("<@r.example,@s.example:a@example.net>", "a", "example.net"),
            ("<u@[192.0.2.1]>", "u", "[192.0.2.1]"),
            ("<u@[ipv6:2001:DB8::0:1]>", "u", "[IPv6:2001:db8::1]"),
            ("<\u00e4@example.net>", "\u00e4", "example.net"),
            ("<a@b\u00fccher.example>", "a", "xn--bcher-kva.example"),
            ("<a_b@under_score.example>", "a_b", "under_score.example"),
            ("<a@localhost>", "a", "localhost"),
            ("<a@i\u2764.ws>", "a", "xn--i-7iq.ws"),
            ("<a@I\u2764\ufe0f.ws.>", "a", "xn--i-7iq.ws"),
            ("<a@xn--i-7iq.ws>", "a", "xn--i-7iq.ws"),
        ):
            mailbox, rest = takePath(text + " REST=1")
            assert mailbox is not None
            self.assertEqual((mailbox.local, mailbox.domain, rest), (local, domain, " REST=1"))

    def test_long(self) -> None:
        """Local parts are longer than RFC 5321 §4.5.3.1.1 makes everybody take: mailing lists
        write a recipient's address into their own."""
        local = f"bounces+{'a' * 60}=example.org"
        mailbox, _ = takePath(f"<{local}@lists.example.net>")
        assert mailbox is not None
        self.assertEqual(mailbox.local, local)

    def test_null(self) -> None:
        """The null path."""
        self.assertEqual(takePath("<> X"), (None, " X"))

    def test_postmaster(self) -> None:
        """C{<postmaster>} is a path where it may be one (RFC 5321 §4.5.1)."""
        mailbox, _ = takePath("<PostMaster>", True)
        self.assertEqual(str(mailbox), "postmaster")
        self.assertRaises(AddressError, takePath, "<postmaster>", False)
        self.assertRaises(AddressError, takePath, "postmaster", False)
        for text, rest in (
            *(("postmaster", ""), ("Postmaster NOTIFY=NEVER", " NOTIFY=NEVER")),
            *(("< postmaster >", ""), ("<@a.example:postmaster> x", " x")),
        ):
            found, left = takePath(text, True)
            self.assertEqual((str(found), left), ("postmaster", rest))
        for text in (
            "postmaster>",
            "<postmaster",
            "<postmaster x>",
            "postmasters",
            "<postmaster@>",
        ):
            self.assertRaises(AddressError, takePath, text, True)
        for text in ("postmaster", "< postmaster >"):
            self.assertRaises(AddressError, takePath, text, True, True)

    def test_lenient(self) -> None:
        """What servers around take, and a strict listener does not."""
        for text, local in (
            ("a@example.net", "a"),
            ("@r.example:a@example.net", "a"),
            ('"a <b"@example.net', "a <b"),
            ("<a..b@example.net>", "a..b"),
            ("<.a@example.net>", ".a"),
            ("<a.@example.net>", "a."),
            ("..@example.net", ".."),
            ("<\t a@example.net >", "a"),
        ):
            mailbox, rest = takePath(text + " REST=1")
            assert mailbox is not None
            self.assertEqual((mailbox.local, mailbox.domain), (local, "example.net"))
            self.assertEqual(rest, " REST=1")
            self.assertEqual(Mailbox.parse(str(mailbox)), mailbox)
            self.assertRaises(AddressError, takePath, text, True, True)
        self.assertEqual(takePath("< > X"), (None, " X"))
        self.assertRaises(AddressError, takePath, "< >", False, True)

    def test_bad(self) -> None:
        """What is no path."""
        for text in (
            "<a@example.net",
            "a@example.net>",
            "a@example.net(c)",
            "Name <a@example.net>",
            "<<a@example.net>>",
            "<a b@example.net>",
            "<a@example.net..>",
            "<a@b\u00fccher.example..>",
            "<a@[IPv6:fe80::1%>x]>",
            "nobody",
            ">",
            "< ",
            "<a@>",
            "<@example.net>",
            "<a@-x.example>",
            "<a@x-.example>",
            "<a@x..example>",
            "<a@.example>",
            f"<{'a' * 255}@example.net>",
            f"<a@{'b' * 64}.example>",
            f"<a@{'b.' * 130}example>",
            "<a@[300.0.0.1]>",
            "<a@[IPv6:1::2::3]>",
            "<a@[192.0.2.1>",
            '<"a@example.net>',
            '<"a\x01"@example.net>',
            "<a@ex ample.net>",
            "<nobody>",
            "",
            "<",
        ):
            self.assertRaises(AddressError, takePath, text, True)

    def test_linear(self) -> None:
        """
        Long nonsense is refused with work that grows with its length only (trap
        f2).  Patterns are no lines: with one that goes back, this would not end.
        """
        for head, repeated in (("<", "a."), ("<", "@a,"), ('<"', "\\a"), ("<a@", "a.")):
            once, twice = (self.work(head + repeated * count + ">x") for count in (500, 1000))
            self.assertLessEqual(twice, 2.1 * once, head + repeated)
            self.assertRaises(AddressError, takePath, head + repeated * 200000 + ">x")

    def work(self, text: str) -> int:
        return linesRun(self.assertRaises, AddressError, takePath, text)

    @given(anyText(max_size=40))
    def test_anything(self, text: str) -> None:
        """Any text is a path, or is none."""
        try:
            mailbox, rest = takePath(text)
        except AddressError:
            return
        self.assertTrue(text.endswith(rest))
        if mailbox is not None:
            again, _ = takePath(f"<{mailbox}>")
            self.assertEqual(again, mailbox)

    @given(st.text('ab.@"\\<> é\u3000\u00a0\u00ad\u200b\u200d\u202e\x85\u2028\ufeff', max_size=8))
    def test_passedOn(self, local: str) -> None:
        """What this server takes, its client can pass on."""
        for written in (local, f'"{local}"'):
            for domain in ("x.example", f"x{local}.example", f"[IPv6:fe80::1%{local}]"):
                try:
                    mailbox, _ = takePath(f"<{written}@{domain}>")
                except AddressError:
                    continue
                if mailbox is not None:
                    checkRecipient(str(mailbox))
                    checkRecipient(wireAddress(mailbox))

    def test_unseen(self) -> None:
        """Controls, format characters and line ends are in no part of an address."""
        for character in "\0\r\n\x7f\x85\x9f\xad\u200b\u200e\u2028\u2029\u202e\u2066\ufeff\ud800":
            for text in (
                f"a{character}@x.example",
                f'"a{character}"@x.example',
                f"a@x{character}.example",
            ):
                self.assertRaises(AddressError, Mailbox.parse, text)
                self.assertRaises(AddressError, takePath, f"<{text}>")
                self.assertRaises(ValueError, checkRecipient, text)
        for text in ("a\u00a0b@x.example", "a\u3000b@x.example", "a@[IPv6:fe80::1%>]"):
            self.assertRaises(AddressError, Mailbox.parse, text)
        for text in ("\u0646\u200c\u0647@x.example", '"a\u00a0b"@x.example'):
            self.assertEqual(str(Mailbox.parse(text)), text)


class MailboxTests(SynchronousTestCase):
    """
    L{Mailbox}.
    """

    def test_text(self) -> None:
        """What needs quotes gets them; the domain is shown as it was written."""
        for text in (
            '"a b"@example.net',
            "a.b@Example.NET",
            '"a\\"b"@example.net',
            '"a..b"@x.example',
        ):
            self.assertEqual(str(Mailbox.parse(text)), text)

    def test_key(self) -> None:
        """Two spellings of one mailbox."""
        one, two = Mailbox.parse("User@EXAMPLE.net"), Mailbox.parse('"user"@example.NET')
        self.assertEqual(one.key, two.key)
        self.assertNotEqual(one.key, Mailbox.parse("user2@example.net").key)

    def test_utf8(self) -> None:
        """
        Which addresses need SMTPUTF8: by the local part, or a domain written in
        U-labels (RFC 6531).
        """
        self.assertTrue(Mailbox.parse("\u00e4@example.net").needsUTF8)
        self.assertTrue(Mailbox.parse("a@b\u00fccher.example").needsUTF8)
        self.assertFalse(Mailbox.parse("a@xn--bcher-kva.example").needsUTF8)

    def test_domain(self) -> None:
        """One spelling for one domain."""
        self.assertEqual(normalDomain("B\u00dcCHER.example."), "xn--bcher-kva.example")
        for bad in ("", ".", "a b", "-", "a." + "b" * 300):
            self.assertRaises(AddressError, normalDomain, bad)
