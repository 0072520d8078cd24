"""
Tests for L{deferrals.model.mixedgroup}.
"""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.mixedgroup import Group, groupOf, stablePath


class StablePathTests(SynchronousTestCase):
    """
    L{stablePath}.
    """

    def test_signed(self) -> None:
        """BATV, SRS and VERP change at each attempt; what is left does not."""
        for path in (
            "Me@Example.com",
            "prvs=1234567890=me@example.com",
            "SRS0=abcd=XY=example.com=me@forward.example",
            "SRS1=abcd=first.example==abcd=XY=example.com=me@forward.example",
            "me+you=example.net@example.com",
            "me-you=example.net@example.com",
        ):
            self.assertEqual(stablePath(Mailbox.parse(path)), "me@example.com", path)
        self.assertEqual(stablePath(None), "")

    def test_numbers(self) -> None:
        """Numbers are a mass mailer's customers: they stay."""
        found = {stablePath(Mailbox.parse(f"bounce-{n}@esp.example")) for n in (1234, 4321)}
        self.assertEqual(len(found), 2)

    @given(st.text(alphabet="a+-=.", min_size=1))
    def test_alone(self, local: str) -> None:
        """What VERP adds begins at the last plus, or else at the first hyphen."""
        expected = re.sub("[+-][^+]*=[^=]+$", "", local)
        self.assertEqual(stablePath(Mailbox(local, "b")), Mailbox(expected, "b").key)


class GroupTests(SynchronousTestCase):
    """
    L{groupOf}.
    """

    def test_owners(self) -> None:
        """What is proved comes first, and needs no address; else the network."""
        for arguments, wanted in (
            ({"user": "a b", "spf": "x"}, Group("user:a%20b", "p")),
            ({"spf": "Example.COM"}, Group("spf:example.com", "p")),
            ({}, Group("net:192.0.2.0/24", "p", "192.0.2.77")),
        ):
            group = groupOf("p", "192.0.2.77", **arguments)  # type: ignore[arg-type]
            self.assertEqual((group, group.isProved), (wanted, bool(arguments)))
        self.assertEqual(groupOf("p", "2001:db8::1:2:3:4").owner, "net:2001:db8::/64")
        self.assertEqual(groupOf("p", "fe80::1%eth0").owner, "net:fe80::/64")
        self.assertEqual(groupOf("p", "").owner, "net:")

    def test_key(self) -> None:
        """The first word of a key is its owner, whatever the path is."""
        key = groupOf('"a b"@c', "192.0.2.1").key
        self.assertEqual(key.partition(" ")[0], "net:192.0.2.0/24")
