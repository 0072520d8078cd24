"""
A recipient on its way.
"""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.delivery import Addressee
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Accept, Marks, Route
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

    def test_accepting(self) -> None:
        """Its marks are those of the verdict, and so is where it goes, where that says so."""
        recipient = makeRecipient("a@example.net")
        self.assertEqual(Addressee.accepting(recipient, ACCEPT, 2), Addressee(recipient, seq=2))
        self.assertEqual(Addressee.accepting(recipient, None), Addressee(recipient))
        marks, route = Marks(junk=True), Route("strict", "aside")
        found = Addressee.accepting(recipient, Accept(marks, route), 1)
        self.assertEqual(found, Addressee(recipient.routed(route), marks, 1))
