"""
Files of aliases as people write them.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import AddressError, Mailbox
from deferrals.model.aliasfile import Format, mailboxOf, readBook, readIncluded, readMembers

ALIASES = """\
# who reads what
postmaster: root
Root:   anna, "bert b"@example.net,carl@example.org
\t# a comment within
  , dora,
"first last": anna
list: :include:/etc/mail/list, \\eve
named: Anna A. <anna@example.net> (her again, really), (nobody else)
both : x , y
prog: "|/usr/bin/vacation anna"
pipe: anna, |cat
file: /var/mail/spool
bad one: x
at@example.net: x
odd: a b
none:
postmaster: twice
quote: "a, b"
"""

VIRTUAL = """\
# domains
Anna@Example.net anna
info@example.net\tanna, bert@example.org
 , carl@example.org
@old.example @example.net
@all.example  postmaster@example.net
bare  x@example.org
"a b"@example.net   x
alone@example.net
b\u00fccher@b\u00fccher.example x
no@@where x
"""


class AliasesTests(SynchronousTestCase):
    """
    C{/etc/aliases}.
    """

    def test_read(self) -> None:
        """Names, members, quotes, comments, lines that go on."""
        book = readBook(ALIASES, "aliases")
        found = {name: list(members) for name, members in book.members.items()}
        self.assertEqual(
            found,
            {
                "postmaster": ["root"],
                "root": ["anna", '"bert b"@example.net', "carl@example.org", "dora"],
                "first last": ["anna"],
                "list": [":include:/etc/mail/list", "eve"],
                "named": ["anna@example.net"],
                "both": ["x", "y"],
                "none": [],
                "quote": ['"a, b"'],
            },
        )

    def test_faults(self) -> None:
        """What cannot be is an error of its line, and of its alias alone."""
        book = readBook(ALIASES, "aliases")
        self.assertEqual(sorted(book.faults), ["file", "odd", "pipe", "prog"])
        self.assertIn("a program is no member", book.faults["prog"])
        self.assertIn("a file is no member", book.faults["file"])
        lines = [number for number, _ in book.problems]
        self.assertEqual(lines, [10, 11, 12, 13, 14, 15, 17])

    def test_lost(self) -> None:
        """A line that goes on with nothing, a colon that is missing."""
        book = readBook("  anna\nb\n: c\n", "aliases")
        self.assertEqual([number for number, _ in book.problems], [1, 2, 3])
        self.assertEqual(book.members, {})

    def test_stars(self) -> None:
        """A * is no pattern in either format, which is said, and the alias counts."""
        for form, text, lines in (
            ("aliases", '*: a\nsales*: b\n"c*": d\n', [1, 2]),
            ("virtual", "*@example.net a\ns*@example.net b\n@example.net c\n", [1, 2]),
            ("virtual", '"c*"@example.net d\n', []),
        ):
            book = readBook(text, form)
            self.assertEqual([number for number, _ in book.problems], lines)
            self.assertTrue(all("stands for itself" in said for _, said in book.problems))
            self.assertEqual(book.faults, {})
            self.assertEqual(len(book.members), text.count("\n"))

    def test_lineEnds(self) -> None:
        """Line ends of any kind."""
        book = readBook("a: b,\r\n c\r\nd: e", "aliases")
        self.assertEqual(book.members, {"a": ("b", "c"), "d": ("e",)})


class VirtualTests(SynchronousTestCase):
    """
    Virtual alias maps.
    """

    def test_read(self) -> None:
        """Addresses, domains, names."""
        book = readBook(VIRTUAL, "virtual")
        found = {name: list(members) for name, members in book.members.items()}
        self.assertEqual(
            found,
            {
                "anna@example.net": ["anna"],
                "info@example.net": ["anna", "bert@example.org", "carl@example.org"],
                "@old.example": ["@example.net"],
                "@all.example": ["postmaster@example.net"],
                "bare": ["x@example.org"],
                "a b@example.net": ["x"],
                "b\u00fccher@xn--bcher-kva.example": ["x"],
            },
        )
        self.assertEqual([number for number, _ in book.problems], [9, 11])


class MemberTests(SynchronousTestCase):
    """
    Members as addresses.
    """

    def test_mailbox(self) -> None:
        """A name is of the alias' domain; a domain keeps the alias' name."""
        alias = Mailbox.parse("Info+x@Example.net")
        for member, expected in (
            ("anna", "anna@Example.net"),
            ("anna@example.org", "anna@example.org"),
            ('"a b"', '"a b"@Example.net'),
            ('"a@b"', '"a@b"@Example.net'),
            ('"a@b"@example.org', '"a@b"@example.org'),
            ("@new.example", "Info+x@new.example"),
        ):
            (read,) = readMembers(member)
            self.assertEqual(str(mailboxOf(read, alias)), expected)

    def test_included(self) -> None:
        """A file that is included has lines, or commas."""
        found = readIncluded("# us\nanna, bert\n\n  carl@x.test (him)\r\n:include:/y\n")
        self.assertEqual(found, ["anna", "bert", "carl@x.test", ":include:/y"])
        self.assertRaises(ValueError, readIncluded, "a\n|prog\n")

    @given(st.text(alphabet='ab@.,:\\"<>()| /\n#+', max_size=30))
    def test_any(self, text: str) -> None:
        """Whatever stands there: members can be made addresses of, or it is an error."""
        alias = Mailbox.parse("x@example.net")
        forms: tuple[Format, ...] = ("aliases", "virtual")
        for form in forms:
            book = readBook(text, form)
            for members in book.members.values():
                for member in members:
                    if not member.startswith(":include:"):
                        try:
                            mailboxOf(member, alias)
                        except AddressError:
                            self.assertIn("@", member)
