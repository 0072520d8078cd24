"""
What a server's replies mean for each recipient.
"""

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.answers import R451_NO_ANSWER, weigh
from deferrals.model.envelope import Form
from deferrals.model.reply import Reply
from tests.requirements import requirement

OK, DEFERRED = Reply(250, "2.1.5", "ok"), Reply(352, None, "later")
GONE = Reply(551, "5.1.6", "<b@example.org>")
UNKNOWN, NO, NOT_NOW = (
    Reply(550, "5.1.1", "who?"),
    Reply(550, "5.6.0", "no"),
    Reply(450, "4.7.1", "later"),
)
FINAL, NEVER, LATER = (
    Reply(250, "2.6.0", "taken"),
    Reply(554, "5.0.0", "no"),
    Reply(451, "4.3.0", "no"),
)


class WeighTests(SynchronousTestCase):
    """
    L{weigh}, as a table of RCPT replies, block, final reply and answers.
    """

    @requirement("D-6")
    @requirement("D-11")
    @requirement("D-21")
    @requirement("P-10")
    @requirement("P-11")
    def test_table(self) -> None:
        """The rules of both drafts for clients."""
        for envelope, block, final, wanted in (
            # own replies count after a positive final reply (D-11)
            ([DEFERRED, DEFERRED], {0: NO, 1: OK}, FINAL, [NO, OK]),
            ([OK, DEFERRED], {1: NO}, FINAL, [OK, NO]),
            ([OK, OK], {0: NOT_NOW, 1: OK}, FINAL, [NOT_NOW, OK]),
            # a 352 that the block has left open says nothing: tried again
            ([DEFERRED, DEFERRED], {1: OK}, FINAL, [R451_NO_ANSWER, OK]),
            # no block: the final reply is everybody's
            ([DEFERRED, OK], {}, FINAL, [FINAL, FINAL]),
            ([DEFERRED, OK], {}, NEVER, [NEVER, NEVER]),
            # a negative final reply overrides the block (P-11)
            ([OK, OK], {0: NO, 1: OK}, NEVER, [NEVER, NEVER]),
            ([OK, OK], {0: NO, 1: OK}, LATER, [LATER, LATER]),
            # ... unless it only sums up that all refuse: each keeps its reason,
            # if it is one of the same kind
            ([OK, OK], {0: NO, 1: GONE}, NEVER, [NO, GONE]),
            ([DEFERRED, UNKNOWN, OK], {0: NO, 2: GONE}, NEVER, [NO, UNKNOWN, GONE]),
            ([OK, OK], {0: NO, 1: NOT_NOW}, LATER, [LATER, NOT_NOW]),
            # a recipient was in who is not in the block: it does more than sum up
            ([OK, DEFERRED], {1: NO}, NEVER, [NEVER, NEVER]),
            # refused in the envelope stays refused
            ([UNKNOWN, OK], {1: OK}, FINAL, [UNKNOWN, OK]),
            ([UNKNOWN, OK], {}, LATER, [UNKNOWN, LATER]),
            # no final reply: the message is still ours (D-21, P-10)
            ([DEFERRED, DEFERRED], {0: NO, 1: OK}, None, [R451_NO_ANSWER, R451_NO_ANSWER]),
            ([UNKNOWN, OK], {}, None, [UNKNOWN, R451_NO_ANSWER]),
        ):
            recipients = [f"r{index}@example.net" for index in range(len(envelope))]
            result = weigh(recipients, envelope, Form.DEFERRALS, block, final)
            self.assertEqual([answer.reply for answer in result.answers], wanted)

    def test_lmtp(self) -> None:
        """Under LMTP each reply stands for itself; a missing one is no answer."""
        result = weigh(["a", "b", "c"], [OK, UNKNOWN, OK], Form.LMTP, {0: OK}, None)
        self.assertEqual([a.reply for a in result.answers], [OK, UNKNOWN, R451_NO_ANSWER])
        self.assertEqual([a.recipient for a in result.accepted], ["a"])
        self.assertEqual([a.temporary for a in result.refused], [False, True])
