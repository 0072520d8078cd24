"""
What the replies after the data have to be, as tests: for
L{Block<deferrals.model.block.Block>}, and for whatever answers in its place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.block import Block, Resolution
from deferrals.model.envelope import Form
from deferrals.model.reply import R250_RECIPIENT, R352_DEFERRED, Reply
from deferrals.model.transaction import Candidate
from deferrals.model.verdict import ACCEPT, ContentVerdict, Refuse
from deferrals.testing.values import makeRecipient

if TYPE_CHECKING:
    _Case = SynchronousTestCase
else:
    _Case = object  # a mixin: it is no test by itself

_NO = Refuse(Reply(550, "5.7.1", "no"))
_LATER = Refuse(Reply(451, "4.7.1", "later"))
_VERDICTS: tuple[ContentVerdict, ...] = (ACCEPT, _NO, _LATER)


class RepliesContract(_Case):
    """
    What holds for any form, any answers, and in any order.
    """

    def makeBlock(self, form: Form, candidates: Sequence[Candidate]) -> Block:
        """
        @return: what is tested.
        """
        return Block(form, candidates, "id X")

    def cases(self) -> Iterator[tuple[Form, Sequence[ContentVerdict], Sequence[int]]]:
        """
        Each form, with each answers of up to three recipients, in each order.
        """
        for form in Form:
            for count in (1, 2, 3):
                for verdicts in itertools.product(_VERDICTS, repeat=count):
                    for order in itertools.permutations(range(count)):
                        yield form, verdicts, order

    def started(self, form: Form, count: int) -> Block:
        """
        A block that knows nothing yet.
        """
        rcpt = R352_DEFERRED if form is Form.DEFERRALS else R250_RECIPIENT
        recipients = [makeRecipient(f"r{index}@example.net") for index in range(count)]
        return self.makeBlock(form, [Candidate(one, rcpt, True, str(one)) for one in recipients])

    def played(
        self, form: Form, verdicts: Sequence[ContentVerdict], order: Sequence[int]
    ) -> list[Reply]:
        """
        Tell it the verdicts in an order.

        @return: all that it said; on the way it says nothing twice, and nothing
            positive before the message is durable.
        """
        block = self.started(form, len(verdicts))
        said: list[Reply] = []
        for index in order:
            self.assertFalse(block.over)
            self.assertTrue(block.verdict(index, verdicts[index]))
            if block.dilemma:
                block.resolve(Resolution.LATER)
            said += block.take()
        if block.accepted():
            self.assertFalse(block.over, "it ended before the message was durable")
            self.assertTrue(block.needsCommit)
            block.committed()
        said += block.take()
        self.assertTrue(block.over)
        self.assertEqual(block.take(), [], "it said something after the end")
        self.assertRefused(block, verdicts)
        return said

    def assertRefused(self, block: Block, verdicts: Sequence[ContentVerdict]) -> None:
        """
        No recipient that refuses takes the message.
        """
        for index in block.accepted():
            self.assertEqual(verdicts[index], ACCEPT)

    def test_form(self) -> None:
        """One reply; or 353, one for each recipient, and one; under LMTP one each."""
        for form, verdicts, order in self.cases():
            codes = [reply.code for reply in self.played(form, verdicts, order)]
            count = len(verdicts)
            if form is Form.LMTP:
                self.assertEqual(len(codes), count, (form, verdicts, order))
            elif codes[0] == 353:
                self.assertIn(form, (Form.DEFERRALS, Form.PRDR))
                self.assertEqual(len(codes), 1 + count + 1, (form, verdicts, order))
            else:
                self.assertEqual(len(codes), 1, (form, verdicts, order))

    def test_own(self) -> None:
        """Each recipient is told what was said for it, in the order of RCPT TO."""
        for form, verdicts, order in self.cases():
            said = self.played(form, verdicts, order)
            own = said if form is Form.LMTP else said[1:-1]
            for verdict, reply in zip(verdicts, own, strict=False):
                wanted = verdict.reply.code if isinstance(verdict, Refuse) else 250
                self.assertEqual(reply.code, wanted, (form, verdicts, order))

    def test_final(self) -> None:
        """It is positive where a recipient takes the message, and 4xx where one may later."""
        for form, verdicts, order in self.cases():
            if form in (Form.LMTP, Form.PLAIN):
                continue
            final = self.played(form, verdicts, order)[-1]
            if form is Form.EXDATA and final.code == 558:
                self.assertGreater(len(set(verdicts)), 1, (form, verdicts, order))
                continue  # a reply for each recipient, in one
            if ACCEPT in verdicts:
                self.assertTrue(final.isPositive, (form, verdicts, order))
            else:
                self.assertEqual(final.isTemporary, _LATER in verdicts, (form, verdicts, order))

    def test_order(self) -> None:
        """In whatever order verdicts come, the replies are the same."""
        for form, verdicts, order in self.cases():
            inOrder = self.played(form, verdicts, range(len(verdicts)))
            self.assertEqual(self.played(form, verdicts, order), inOrder)

    def test_latched(self) -> None:
        """The first verdict on a recipient counts."""
        for form in Form:
            block = self.started(form, 1)
            self.assertTrue(block.verdict(0, _NO))
            self.assertFalse(block.verdict(0, ACCEPT))
            self.assertEqual(block.accepted(), [])

    def test_veto(self) -> None:
        """Where the message as a whole cannot be taken, no recipient takes it."""
        for form, verdicts, order in self.cases():
            block = self.started(form, len(verdicts))
            for index in order:
                block.verdict(index, verdicts[index])
            said = [] if block.dilemma else block.take()
            if not block.over:
                block.uncommitted(Reply(452, "4.3.1", "the disk is full"))
                said += block.take()
                self.assertTrue(block.over)
                self.assertEqual(block.accepted(), [])
                self.assertFalse(said[-1].isPositive)
