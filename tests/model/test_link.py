"""
Links: who has none opens nothing.
"""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.link import MOST_CHARACTERS, SignedLink

KEY = bytes(range(32))
LINK = SignedLink(2000, "anna@example.net")


class SignedLinkTests(SynchronousTestCase):
    """
    L{SignedLink}.
    """

    def test_opens(self) -> None:
        """It opens what it is for, until it ends."""
        token = LINK.token(KEY)
        self.assertEqual(SignedLink.read(token, KEY, 1999.9), LINK)
        self.assertIsNone(SignedLink.read(token, KEY, 2000.0))
        self.assertIsNone(SignedLink.read(token, KEY, 2000.0 + 86400))

    def test_otherKey(self) -> None:
        """Another server's opens nothing."""
        self.assertIsNone(SignedLink.read(LINK.token(bytes(32)), KEY, 0.0))

    def test_eachOctet(self) -> None:
        """One octet changed, whichever, and in whichever way: it opens nothing."""
        token = LINK.token(KEY)
        octets = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        for place in range(len(octets)):
            for change in (1, 0x80, 0xFF):
                other = bytearray(octets)
                other[place] ^= change
                text = base64.urlsafe_b64encode(other).decode().rstrip("=")
                self.assertIsNone(SignedLink.read(text, KEY, 0.0), (place, change))

    def test_oneForm(self) -> None:
        """Of one token there is one form: no other letters mean the same."""
        token = LINK.token(KEY)
        for other in (token + "=", token + "\n", f" {token}", token.replace("A", "A-", 1)):
            self.assertIsNone(SignedLink.read(other, KEY, 0.0), other)
        self.assertIsNone(SignedLink.read("A" * (MOST_CHARACTERS + 1), KEY, 0.0))

    @given(st.text(max_size=200))
    def test_nonsense(self, token: str) -> None:
        """Whatever else stands there opens nothing, and nothing is raised."""
        self.assertIsNone(SignedLink.read(token, KEY, 0.0))

    @given(st.data())
    def test_adversary(self, data: st.DataObject) -> None:
        """
        One who has links of its own, and puts pieces of them together, changes them, cuts
        them and extends them, opens nothing that it has not been given.
        """
        times, names = st.integers(0, 2**40), st.emails()
        given = [
            SignedLink(data.draw(times), data.draw(names)),
            SignedLink(data.draw(times), data.draw(names)),
        ]
        tokens = [one.token(KEY) for one in given]
        octets = [base64.urlsafe_b64decode(one + "=" * (-len(one) % 4)) for one in tokens]
        first, second = octets
        cut = data.draw(st.integers(0, max(map(len, octets))))
        pieces = data.draw(
            st.sampled_from(
                [
                    first[:cut] + second[cut:],
                    first[:-32] + second[-32:],
                    first[:cut],
                    first[cut:],
                    first[:9] + second[9:-32] + first[-32:],
                    first + data.draw(st.binary(min_size=1, max_size=40)),
                    data.draw(st.binary(max_size=80)) + first[-32:],
                ]
            )
        )
        made = base64.urlsafe_b64encode(pieces).decode().rstrip("=")
        found = SignedLink.read(made, KEY, -1.0)
        if made not in tokens:
            self.assertIsNone(found)

    @given(st.integers(0, 2**63), st.emails())
    def test_roundTrip(self, expires: int, address: str) -> None:
        """Whatever the address and the time."""
        link = SignedLink(expires, address)
        self.assertEqual(SignedLink.read(link.token(KEY), KEY, -1.0), link)
