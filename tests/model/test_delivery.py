"""
A recipient on its way.
"""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.delivery import Addressee
from deferrals.model.reply import Reply
from deferrals.testing import makeRecipient


class AddresseeTests(SynchronousTestCase):
    """
    L{Addressee}.
    """

    def test_same(self) -> None:
        """What was said of it last does not make it another one: outcomes are found by it."""
        one = Addressee(makeRecipient("a@example.net"), seq=3)
        told = attrs.evolve(one, action="failed", reply=Reply(550, "5.1.1", "no"), host="mx")
        self.assertEqual(one, told)
        self.assertEqual({one: 1}[told], 1)

    def test_other(self) -> None:
        """The same mailbox, named twice, is two of them."""
        recipient = makeRecipient("a@example.net")
        self.assertNotEqual(Addressee(recipient, seq=0), Addressee(recipient, seq=1))

    def test_shown(self) -> None:
        """As text it is the address."""
        self.assertEqual(str(Addressee(makeRecipient("a@example.net"))), "a@example.net")
