"""
Seals of forwarders.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model import arc
from deferrals.model.dkim import Field, fieldsIn


def chain(*numbers: int) -> bytes:
    """
    A header section with these sets.
    """
    return b"".join(
        b"ARC-Seal: i=%d; cv=none; d=x.example; s=one\r\n"
        b"ARC-Message-Signature: a=rsa-sha256; i=%d; d=x.example; s=two\r\n"
        b"ARC-Authentication-Results: i=%d; mx.x.example; arc=none\r\n" % (n, n, n)
        for n in numbers
    )


class ChainTests(SynchronousTestCase):
    """
    What a chain is.
    """

    def test_sets(self) -> None:
        """Whole sets, in order of their numbers, wherever they stand."""
        self.assertEqual(arc.setsIn(fieldsIn(b"Subject: x\r\n")), [])
        found = arc.setsIn(fieldsIn(b"Subject: x\r\n" + chain(2, 1, 3)))
        self.assertEqual(len(found), 3)
        for number, each in enumerate(found, 1):
            names = [one.name for one in each]
            self.assertEqual(names, [arc.RESULTS, arc.MESSAGE, arc.SEAL])
            self.assertTrue(all(b"i=%d;" % number in one.value for one in each))

    def test_noChain(self) -> None:
        """One missing, one twice, one without a number, or with one that cannot be."""
        for header in (
            chain(1, 3),
            chain(1, 1),
            chain(2),
            chain(51),
            chain(1).replace(b"ARC-Seal: i=1;", b"ARC-Seal: x=1;"),
            chain(1).partition(b"\r\n")[2],
            chain(1).replace(b"ARC-Seal: i=1;", b"ARC-Seal: i=0;"),
        ):
            with self.assertRaises(arc.NoChain):
                arc.setsIn(fieldsIn(header))

    def test_places(self) -> None:
        """Where the key is; nowhere, where that is no name."""
        seal, message, _ = fieldsIn(chain(1))
        self.assertEqual(arc.placeOf(seal), "one._domainkey.x.example")
        self.assertEqual(arc.placeOf(message), "two._domainkey.x.example")
        for value in (b" d=x.example", b" s=a; d=", b" s=a; d=\xff", b" d=a; s=@"):
            self.assertIsNone(arc.placeOf(Field(b"arc-seal", b"ARC-Seal:" + value)), value)

    def test_slow(self) -> None:
        """Too many fields, signatures or names, and one that is too long."""
        self.assertFalse(arc.isSlow(fieldsIn(chain(*range(1, 51)))))
        signature = b"DKIM-Signature: s=a; d=b\r\n"
        for header in (
            b"a: b\r\n" * 1001,
            signature * 11,
            b"DKIM-Signature: h=" + b"a:" * 201 + b"\r\n",
            b"DKIM-Signature: b=" + b"a" * 9000 + b"\r\n",
        ):
            self.assertTrue(arc.isSlow(fieldsIn(header)))

    def test_blanks(self) -> None:
        """Long runs of blanks within lines, however many it are; not those behind lines."""
        blanks = b" \t" * 2500
        slow = (blanks * 3 + b"x\r\n", (blanks + b"x\r\n") * 5, blanks * 3, blanks * 3 + b"\r")
        for octets in slow:
            self.assertTrue(arc.isSlowText(octets, 1))
        for octets in (b"", blanks + b"x\r\n", blanks * 3 + b"\r\n", (blanks + b"\n") * 9):
            self.assertFalse(arc.isSlowText(octets, 1))
        self.assertTrue(arc.isSlowText(blanks + b"x\r\n", 5))

    def test_pieces(self) -> None:
        """Many blanks and lines, for as many signatures as there are."""
        for piece in (b"a ", b"a\t", b"\r\n"):
            text = piece * 1_000_000
            self.assertFalse(arc.isSlowText(text, 4), piece)
            self.assertTrue(arc.isSlowText(text, 5), piece)
            self.assertTrue(arc.isSlowText(text + piece, 1), piece)
