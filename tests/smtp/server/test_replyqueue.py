"""
Replies in the order of their commands.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.reply import R250_OK, R354_GO_AHEAD, Reply
from deferrals.smtp.server.replyqueue import ReplyQueue, Slot


class OrderTests(SynchronousTestCase):
    """
    Slots.
    """

    def test_order(self) -> None:
        """A reply that is known waits for those before it."""
        queue, first, second = ReplyQueue(), Slot(), Slot()
        queue.enqueue(first)
        queue.enqueue(second)
        second.settle = lambda: R354_GO_AHEAD
        self.assertIsNone(queue.next())
        first.settle = lambda: R250_OK
        self.assertEqual([queue.next(), queue.next()], [R250_OK, R354_GO_AHEAD])
        self.assertIsNone(queue.next())
        self.assertEqual(len(queue.slots), 0)

    def test_madeInTurn(self) -> None:
        """A reply is made when those before it have been taken, and its slot is no more."""
        queue, made = ReplyQueue(), []

        def settle() -> Reply:
            made.append(len(queue.slots))
            return R250_OK

        queue.enqueue(Slot(settle))
        queue.enqueue(Slot(settle))
        queue.next()
        self.assertEqual(made, [1])
        queue.next()
        self.assertEqual(made, [1, 0])

    def test_dropped(self) -> None:
        """What no reply is waited for any longer is cancelled, once."""
        queue, cancelled = ReplyQueue(), []
        for number in range(2):
            waiting: Deferred[None] = Deferred(lambda _, number=number: cancelled.append(number))
            waiting.addErrback(lambda _: None)
            queue.enqueue(Slot(None, waiting))
        queue.enqueue(Slot())
        queue.drop()
        queue.drop()
        self.assertEqual((cancelled, len(queue.slots)), ([0, 1], 0))


class OctetTests(SynchronousTestCase):
    """
    What is to be written.
    """

    def test_together(self) -> None:
        """What is said before it is written goes out in one piece, and once."""
        queue = ReplyQueue()
        self.assertFalse(queue.hasOctets)
        queue.say(R250_OK, False)
        queue.say(R354_GO_AHEAD, False)
        self.assertTrue(queue.hasOctets)
        self.assertEqual(queue.take(), R250_OK.encode() + R354_GO_AHEAD.encode())
        self.assertEqual((queue.hasOctets, queue.take()), (False, b""))

    def test_utf8(self) -> None:
        """UTF-8 is for a client that asked for it (RFC 6531)."""
        for utf8, wanted in ((True, "550 j\u00f6rg\r\n".encode()), (False, b"550 j?rg\r\n")):
            queue = ReplyQueue()
            queue.say(Reply(550, None, "j\u00f6rg"), utf8)
            self.assertEqual(queue.take(), wanted)
