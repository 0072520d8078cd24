"""
Sessions that wait for outcomes (S-6).
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import Work
from deferrals.model.reply import Reply
from deferrals.model.verdict import Delivered, Failed, Retry
from deferrals.relay.waiters import Waiters
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage
from tests.requirements import requirement

LATER = Retry(Reply(451, "4.2.0", "later"))


class WaitersTests(SynchronousTestCase):
    """
    L{Waiters}.
    """

    def setUp(self) -> None:
        self.waiters = Waiters()
        addressees = tuple(makeAddressees("a@x.example", "b@x.example"))
        self.work = Work(makeEnvelope(), makeMessage(), addressees)
        self.number = self.work.envelope.transaction

    @requirement("S-6")
    def test_told(self) -> None:
        """A session is told all outcomes, when the queue has the last of them."""
        d = self.waiters.add(self.work, handsBack=False)
        self.assertIn(self.number, self.waiters)
        a, b = self.work.addressees
        outcomes = {a: Delivered(), b: LATER}
        self.assertEqual(self.waiters.answer(self.number, outcomes), outcomes)
        self.assertNoResult(d)
        self.waiters.tell(self.work)
        self.assertEqual(self.successResultOf(d), {a.seq: Delivered(), b.seq: LATER})
        self.assertNotIn(self.number, self.waiters)

    def test_handsBack(self) -> None:
        """What its client keeps leaves the queue, without a notice."""
        self.waiters.add(self.work, handsBack=True)
        _, b = self.work.addressees
        found = self.waiters.answer(self.number, {b: LATER})
        self.assertEqual(found, {b: Failed(LATER.reply, told=True)})

    def test_left(self) -> None:
        """A session that does not wait any longer has what is known."""
        d = self.waiters.add(self.work, handsBack=False)
        a, _ = self.work.addressees
        self.waiters.answer(self.number, {a: Delivered()})
        d.cancel()
        self.assertEqual(self.successResultOf(d), {a.seq: Delivered()})
        self.assertNotIn(self.number, self.waiters)

    def test_none(self) -> None:
        """Where no session waits, outcomes stay what they are."""
        a, _ = self.work.addressees
        self.assertEqual(self.waiters.answer(self.number, {a: LATER}), {a: LATER})
        self.waiters.tell(self.work)
