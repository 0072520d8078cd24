"""
How fields are written in Dovecot's protocols.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.dovecot import escaped, unescaped


class EscapeTests(SynchronousTestCase):
    """
    L{escaped} and L{unescaped}.
    """

    def test_unescaped(self) -> None:
        """What stands for tabs and line ends."""
        self.assertEqual(unescaped(b"a\x01tb\x01nc\x01rd\x010e\x011f\x01x"), b"a\tb\nc\rd\0e\x01fx")

    @given(st.binary())
    def test_inverse(self, value: bytes) -> None:
        """What is escaped is one field, and is the same again."""
        self.assertFalse({*escaped(value)} & {*b"\0\t\r\n"})
        self.assertEqual(unescaped(escaped(value)), value)
