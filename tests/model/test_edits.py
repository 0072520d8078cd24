"""
Changes of a header section, in milter's sense.
"""

from __future__ import annotations

import random
from typing import Literal

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.edits import edited, isCounted
from deferrals.model.trace import Head, asGiven
from deferrals.model.verdict import AT_END, HeaderEdit, Marks

KINDS: list[Literal["insert", "change", "remove"]] = ["insert", "change", "remove"]

HEAD = b"From: a\r\nX: 1\r\n\t2\r\nTo: b\r\nx : 3\r\nSubject: s"


def changed(*edits: HeaderEdit, head: bytes = HEAD) -> list[str]:
    """
    The fields of a header section after C{edits}.
    """
    return Head(head).marked(Marks(edits=edits)).decode().split("\r\n")


class EditTests(SynchronousTestCase):
    """
    L{edited}.
    """

    def test_insert(self) -> None:
        """
        In front of all, between two, and behind the last one where there are fewer.  Our own
        Received counts, wherever what is inserted in front of it has put it.
        """
        both = changed(HeaderEdit("insert", "A", "v", 0), HeaderEdit("insert", "B", "v", 1))
        self.assertEqual(both[:2], ["A: v", "B: v"])
        both = changed(HeaderEdit("insert", "A", "v", 1), HeaderEdit("insert", "B", "v", 1))
        self.assertEqual(both[:2], ["B: v", "A: v"])
        self.assertEqual(changed(HeaderEdit("insert", "N", "v", 0))[0], "N: v")
        self.assertEqual(changed(HeaderEdit("insert", "N", "v", 3))[3:5], ["N: v", "To: b"])
        for index in (6, 7, AT_END):
            self.assertEqual(changed(HeaderEdit("insert", "N", "v", index))[-1], "N: v")

    def test_change(self) -> None:
        """The one of that number among those of its name, with all of its lines."""
        found = changed(HeaderEdit("change", "X", "new", 1))
        self.assertEqual(found, ["From: a", "X: new", "To: b", "x : 3", "Subject: s"])
        found = changed(HeaderEdit("change", "x", "new", 2))
        self.assertEqual(found[4], "x: new")

    def test_remove(self) -> None:
        """Removing counts at once: the next one has its number then."""
        remove = HeaderEdit("remove", "X", index=1)
        self.assertEqual(changed(remove), ["From: a", "To: b", "x : 3", "Subject: s"])
        self.assertEqual(changed(remove, remove), ["From: a", "To: b", "Subject: s"])
        self.assertEqual(changed(HeaderEdit("change", "X", "", 1)), changed(remove))

    def test_beyond(self) -> None:
        """A change of one that is not there adds it; to remove it is nothing."""
        self.assertEqual(changed(HeaderEdit("change", "X", "new", 3))[-1], "X: new")
        for edit in (HeaderEdit("remove", "X", index=3), HeaderEdit("change", "X", "", 3)):
            self.assertEqual(changed(edit), HEAD.decode().split("\r\n"))

    def test_order(self) -> None:
        """Each counts in what those before it have made."""
        found = changed(
            HeaderEdit("insert", "X", "0", 2),
            HeaderEdit("change", "X", "first", 1),
            HeaderEdit("change", "X", "second", 2),
        )
        self.assertEqual(found[:3], ["From: a", "X: first", "X: second"])

    def test_hidden(self) -> None:
        """What stages are not shown is not counted, and stays where it is."""
        head = b"Return-Path: <a>\r\nFrom: a\r\nno field\r\nDelivered-To: b\r\nTo: b"
        found = changed(HeaderEdit("insert", "N", "v", 2), head=head)
        self.assertEqual(found[-3:], ["Delivered-To: b", "N: v", "To: b"])
        self.assertEqual(
            changed(
                HeaderEdit("insert", "Delivered-To", "c", 1),
                HeaderEdit("insert", "Return-Path", "d", AT_END),
                HeaderEdit("insert", "N", "v", 2),
                head=b"From: a\r\nTo: b",
            ),
            ["Delivered-To: c", "From: a", "N: v", "To: b", "Return-Path: d"],
        )
        found = changed(HeaderEdit("remove", "Delivered-To"), head=head)
        self.assertIn("Delivered-To: b", found)
        self.assertEqual(
            [isCounted(one) for one in (b"a: b", b"a b", b"RETURN-PATH : c")],
            [
                True,
                False,
                False,
            ],
        )

    def test_empty(self) -> None:
        """A message without a header section gets one; the last field may go."""
        self.assertEqual(changed(HeaderEdit("insert", "N", "v", 0), head=b""), ["N: v"])
        self.assertEqual(changed(HeaderEdit("remove", "From"), head=b"From: a"), [""])

    def test_asGiven(self) -> None:
        """Values stay folded as they are, and no line of one is another field."""
        self.assertEqual(asGiven("N", "a;\n\tb;\r\n c"), b"N: a;\r\n\tb;\r\n c")
        self.assertEqual(asGiven("N", " a"), b"N: a")
        self.assertEqual(asGiven("N", "a\nBcc: b\n\n\nbody"), b"N: a\r\n\tBcc: b\r\n\tbody")
        self.assertEqual(asGiven("N", "a\n \t\n b"), b"N: a\r\n b")
        for value in ("gr\xfc\xdfe\nBcc: b", "a\0b", "x" * 2000, "\ud800"):
            line = asGiven("N", value)
            self.assertTrue(line.isascii())
            self.assertTrue(all(one[:1] in b" \t" for one in line.split(b"\r\n")[1:]), line)
            self.assertTrue(all(len(one) <= 998 for one in line.split(b"\r\n")))

    def test_model(self) -> None:
        """As the plainest program does it, at random."""
        chance = random.Random(1)
        for _ in range(300):
            names = [chance.choice("abc") for _ in range(chance.randrange(6))]
            fields = [(name, f" {number}") for number, name in enumerate(names)]
            edits = [
                HeaderEdit(
                    chance.choice(KINDS),
                    chance.choice("abcABC"),
                    chance.choice(("", "v", "w")),
                    chance.randrange(1, 5),
                )
                for _ in range(chance.randrange(8))
            ]
            lines = [f"{name}:{value}".encode() for name, value in fields]
            found = edited(lines, edits, lambda name, value: f"{name}: {value}".encode())
            self.assertEqual(found, _plainly(fields, edits), edits)


def _plainly(fields: list[tuple[str, str]], edits: list[HeaderEdit]) -> list[bytes]:
    fields.insert(0, ("", ""))
    for edit in edits:
        new = (edit.name, f" {edit.value}")
        same = [i for i, (name, _) in enumerate(fields) if name.lower() == edit.name.lower()]
        place = same[edit.index - 1] if edit.index <= len(same) else None
        if edit.kind == "insert":
            fields.insert(edit.index, new)
        elif edit.kind == "change" and edit.value:
            if place is None:
                fields.append(new)
            else:
                fields[place] = new
        elif place is not None:
            del fields[place]
    return [f"{name}:{value}".encode() for name, value in fields if name]
