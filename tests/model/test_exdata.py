"""
EXDATA's 558: how it is written, and what one that was read says.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.block import Block
from deferrals.model.envelope import Form
from deferrals.model.exdata import EXTENDED, extendedReply, ownReplies
from deferrals.model.reply import MAX_LINE_OCTETS, R250_RECIPIENT, R452_NO_STORAGE, Reply
from deferrals.model.transaction import Candidate
from deferrals.model.verdict import ACCEPT, ContentVerdict, Refuse
from deferrals.testing import makeRecipient
from tests.requirements import requirement

FINE = Reply(250, "2.1.5", "<lover@example.net> accepts the content")
NO = Reply(550, "5.7.1", "<fighter@example.net> spam\nis not wanted")
LATER = Reply(451, None, "not now")


def unwrapped(octets: bytes) -> list[str]:
    """
    The lines of a 558 as they came, without what is before each.
    """
    return [line[4:] for line in octets.decode().split("\r\n")[:-1]]


texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=700)
replies = st.builds(
    lambda code, text, hasEnhanced: Reply(
        code, f"{code // 100}.1.5" if hasEnhanced else None, "x" + text
    ),
    st.sampled_from([250, 251, 450, 451, 452, 550, 552]),
    texts,
    st.booleans(),
)


class ExtendedReplyTests(SynchronousTestCase):
    """
    L{extendedReply}.
    """

    @requirement("X-4")
    @requirement("X-6")
    def test_lines(self) -> None:
        """One line of the 558 for each line of a recipient's own reply."""
        self.assertEqual(
            extendedReply([FINE, NO, LATER]).encode(),
            b"558-250 2.1.5 <lover@example.net> accepts the content\r\n"
            b"558-550-5.7.1 <fighter@example.net> spam\r\n"
            b"558-550 5.7.1 is not wanted\r\n"
            b"558 451 not now\r\n",
        )

    def test_long(self) -> None:
        """A long text is cut where its own reply goes on, so that each line has both codes."""
        octets = extendedReply([Reply(550, "5.7.1", "word " * 300), FINE]).encode()
        lines = octets.split(b"\r\n")[:-1]
        self.assertLessEqual(max(map(len, lines)) + 2, MAX_LINE_OCTETS)
        self.assertTrue(all(line.startswith(b"558-550-5.7.1 ") for line in lines[:-2]))
        self.assertTrue(lines[-2].startswith(b"558-550 5.7.1 "))

    @requirement("X-5")
    @requirement("X-6")
    @given(st.lists(replies, min_size=1, max_size=6))
    def test_wire(self, given: list[Reply]) -> None:
        """
        What is written is read again: as many replies, with their codes, in their
        order; and no line is too long.
        """
        octets = extendedReply(given).encode(utf8=True)
        found = ownReplies(unwrapped(octets))
        self.assertEqual(
            [(r.code, r.enhanced) for r in found], [(r.code, r.enhanced) for r in given]
        )
        self.assertTrue(all(len(line) <= MAX_LINE_OCTETS for line in octets.splitlines(True)))


class OwnRepliesTests(SynchronousTestCase):
    """
    L{ownReplies}.
    """

    @requirement("X-4")
    def test_whole(self) -> None:
        """Each reply, in one line or more."""
        lines = [
            "250 2.1.5 fine",
            "550-5.7.1 spam",
            "550 5.7.1 is not wanted",
            "451",
            "250-Message accepted",
            "250 Queue ID is 120",
        ]
        self.assertEqual(
            ownReplies(lines),
            [
                Reply(250, "2.1.5", "fine"),
                Reply(550, "5.7.1", "spam\nis not wanted"),
                Reply(451, None, ""),
                Reply(250, None, "Message accepted\nQueue ID is 120"),
            ],
        )

    @requirement("X-8")
    def test_incomplete(self) -> None:
        """What is whole counts, what is not does not."""
        whole = [Reply(250, None, "one"), Reply(550, None, "two")]
        for rest in (
            [],
            ["250-thr"],
            ["250-three", "550 four"],
            ["no reply"],
            ["250three"],
            ["354 three"],
            ["099 three"],
            [""],
            ["no reply", "250 three"],
        ):
            self.assertEqual(ownReplies(["250 one", "550 two", *rest]), whole, rest)

    @given(st.lists(texts, max_size=5))
    def test_anything(self, lines: list[str]) -> None:
        """Whatever comes, it is a list of replies, none of which is a 3xx."""
        self.assertTrue(
            all(reply.code >= 200 and not reply.isIntermediate for reply in ownReplies(lines))
        )


NEVER = Refuse(Reply(554, "5.7.1", "a code that is none for RCPT TO"))
NOT_NOW = Refuse(Reply(450, "4.7.1", "not now"))


def block(*verdicts: ContentVerdict | None, undecided: int = 0) -> Block:
    """
    @param verdicts: one for each recipient; L{None} for one whom the envelope
        has accepted.
    @param undecided: how many there are besides who have none yet.
    """
    candidates = []
    deferred = [verdict is not None for verdict in verdicts] + [True] * undecided
    for number, isDeferred in enumerate(deferred):
        recipient = makeRecipient(f"r{number}@example.net")
        reply = R250_RECIPIENT.addressed(str(recipient))
        candidates.append(Candidate(recipient, reply, isDeferred, number))
    found = Block(Form.EXDATA, candidates, "id X")
    for index, verdict in enumerate(verdicts):
        if verdict is not None:
            found.verdict(index, verdict)
    return found


def own(replies: list[Reply]) -> list[int]:
    """
    The codes in a 558; or the one code.
    """
    (only,) = replies
    if only.code != EXTENDED:
        return [only.code]
    return [reply.code for reply in ownReplies(only.text.split("\n"))]


class BlockTests(SynchronousTestCase):
    """
    L{Block} for a sender that understands EXDATA.
    """

    @requirement("X-5")
    @requirement("X-6")
    @requirement("X-7")
    @requirement("X-9")
    def test_table(self) -> None:
        """
        Verdicts, and what is said: each recipient's own code where two of them
        differ, otherwise the one that all have.
        """
        for verdicts, wanted in (
            ([ACCEPT], [250]),
            ([NEVER], [550]),
            ([NOT_NOW], [450]),
            ([ACCEPT, ACCEPT, None], [250]),
            ([NEVER, NEVER], [550]),
            ([ACCEPT, NEVER], [250, 550]),
            ([NEVER, ACCEPT, NOT_NOW], [550, 250, 450]),
            ([None, NEVER], [250, 550]),
            ([NOT_NOW, NEVER], [450, 550]),
            ([NEVER, Refuse(Reply(550, "5.7.1", "another reason"))], [550, 550]),
        ):
            found = block(*verdicts)
            self.assertFalse(found.dilemma)
            if found.needsCommit:
                self.assertEqual(found.take(), [])
                found.committed()
            self.assertEqual(own(found.take()), wanted)
            self.assertEqual(found.enumerated, len(wanted) > 1)
            self.assertTrue(found.over)
            self.assertIsNotNone(found.final)

    @requirement("X-10")
    def test_pending(self) -> None:
        """Nothing is said before everything is known."""
        found = block(ACCEPT, NEVER, undecided=1)
        self.assertEqual(found.take(), [])
        found.windowOver()
        self.assertEqual(found.take(), [])
        self.assertEqual(found.late(), [2])
        found.verdict(2, NOT_NOW)
        found.committed()
        self.assertEqual(own(found.take()), [250, 550, 450])

    @requirement("X-9")
    def test_veto(self) -> None:
        """The message as a whole cannot be taken: one reply for all."""
        found = block(ACCEPT, NEVER)
        found.uncommitted(R452_NO_STORAGE)
        self.assertEqual(found.take(), [R452_NO_STORAGE])
        self.assertEqual(found.accepted(), [])
        self.assertFalse(found.enumerated)

    def test_results(self) -> None:
        """
        Delivery came first (S-6): what became of it is each recipient's reply.
        """
        for results, wanted in (
            ({0: Reply(250, "2.1.5", "delivered"), 1: Reply(250, "2.1.5", "queued")}, [250]),
            ({0: Reply(250, "2.1.5", "delivered"), 1: Reply(554, "5.4.6", "no")}, [250, 550]),
            ({0: Reply(450, "4.2.2", "full"), 1: Reply(450, "4.2.2", "full")}, [450, 450]),
        ):
            found = block(ACCEPT, ACCEPT)
            found.committed(results)
            self.assertEqual(own(found.take()), wanted)

    @given(st.lists(st.sampled_from([ACCEPT, NEVER, NOT_NOW, None]), min_size=1, max_size=6))
    def test_exact(self, verdicts: list[ContentVerdict | None]) -> None:
        """Whatever the verdicts are, each recipient's code is its own."""
        found = block(*verdicts)
        if found.needsCommit:
            found.committed()
        said = own(found.take())
        said = said if len(said) > 1 else said * len(verdicts)
        codes = {NEVER: 550, NOT_NOW: 450}
        wanted = [codes[v] if isinstance(v, Refuse) else 250 for v in verdicts]
        self.assertEqual(said, wanted)
