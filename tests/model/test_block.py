"""
The replies after the data, as a table.
"""

from __future__ import annotations

import itertools
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.block import Block, Resolution, nextReplies, refusedByAll, repliesFor
from deferrals.model.envelope import Form
from deferrals.model.reply import R250_RECIPIENT, R352_DEFERRED, R452_NO_STORAGE, Reply
from deferrals.model.transaction import Candidate
from deferrals.model.verdict import ACCEPT, Accept, Defer, Marks, Refuse
from deferrals.testing import makeRecipient
from tests.requirements import requirement

NO = Refuse(Reply(550, "5.6.0", "no"))
NEVER = Refuse(Reply(550, "5.7.1", "never"))
LATER = Refuse(Reply(450, "4.7.1", "later"))


def candidates(form: Form, deferred: str) -> list[Candidate]:
    """
    @param deferred: a letter for each: C{d} deferred, C{a} accepted.
    """
    found = []
    for number, letter in enumerate(deferred):
        recipient = makeRecipient(f"r{number}@example.net")
        reply = R352_DEFERRED if letter == "d" and form is Form.DEFERRALS else R250_RECIPIENT
        found.append(Candidate(recipient, reply.addressed(str(recipient)), letter == "d", number))
    return found


def codes(replies: list[Reply]) -> list[int]:
    return [reply.code for reply in replies]


class TableTests(SynchronousTestCase):
    """
    Form, who was deferred, the verdicts, what the disk does; and the codes.
    """

    def run_(self, form: Form, deferred: str, verdicts: list[Any], disk: bool = True) -> list[int]:
        block = Block(form, candidates(form, deferred), "id X")
        waiting = [index for index, letter in enumerate(deferred) if letter == "d"]
        said = block.take()
        for index, verdict in zip(waiting, verdicts, strict=True):
            block.verdict(index, verdict)
            if block.dilemma:
                block.resolve(Resolution.STRICTEST)
            said += block.take()
        if block.needsCommit:
            if disk:
                block.committed()
            else:
                block.uncommitted(R452_NO_STORAGE)
            said += block.take()
        self.assertTrue(block.over)
        self.assertEqual(block.take(), [])
        return codes(said)

    def test_foreseen(self) -> None:
        """
        Who can never be delivered refuses, however the envelope took it; a DEFERRALS
        client's accepted one only where all refuse (D-17).
        """
        no = Reply(552, "5.3.4", "too large")
        for form, deferred, which, wanted, accepted in (
            (Form.PLAIN, "a", [0], [552], []),
            (Form.PLAIN, "dd", [0, 1], [552], []),
            (Form.PRDR, "aa", [1], [353, 250, 552, 250], [0]),
            (Form.PRDR, "ad", [0], [353, 552, 250, 250], [1]),
            (Form.LMTP, "ad", [0], [552, 250], [1]),
            (Form.EXDATA, "ad", [1], [558], [0]),
            (Form.DEFERRALS, "ad", [0], [250], [0, 1]),
            (Form.DEFERRALS, "ad", [1], [353, 552, 250], [0]),
            (Form.DEFERRALS, "ad", [0, 1], [552], []),
        ):
            block = Block(form, candidates(form, deferred), "id X")
            block.foreseen(dict.fromkeys(which, no))
            for index in range(len(deferred)):
                block.verdict(index, ACCEPT)
            found = block.accepted()
            if block.needsCommit:
                block.committed()
            self.assertEqual((codes(block.take()), found), (wanted, accepted), (form, deferred))
            self.assertTrue(block.over)

    @requirement("D-9")
    @requirement("D-10")
    @requirement("D-17")
    @requirement("D-18")
    @requirement("D-19")
    @requirement("P-3")
    @requirement("P-4")
    @requirement("P-9")
    def test_table(self) -> None:
        """The forms and what they say (RFC 2033)."""
        d, p, t, lm = Form.DEFERRALS, Form.PRDR, Form.PLAIN, Form.LMTP
        for form, deferred, verdicts, disk, wanted in (
            # one recipient: no block (P-4)
            (d, "d", [ACCEPT], True, [250]),
            (d, "d", [NO], True, [550]),
            (p, "d", [LATER], True, [450]),
            # unanimous: one reply (D-9, P-4)
            (d, "dd", [ACCEPT, ACCEPT], True, [250]),
            (d, "dd", [NO, NO], True, [550]),
            (p, "dd", [LATER, LATER], True, [450]),
            (d, "aa", [], True, [250]),
            (p, "aa", [], True, [250]),
            # all accept and the disk is gone (P-9)
            (p, "dd", [ACCEPT, ACCEPT], False, [452]),
            (d, "dd", [ACCEPT, NO], False, [353, 250, 550, 452]),
            # mixed (D-10, D-17, P-3)
            (d, "dd", [NO, ACCEPT], True, [353, 550, 250, 250]),
            (d, "add", [NO, ACCEPT], True, [353, 550, 250, 250]),
            (d, "ad", [NO], True, [353, 550, 250]),
            (p, "add", [NO, ACCEPT], True, [353, 250, 550, 250, 250]),
            # refused by all, for different reasons (D-18, D-19)
            (d, "dd", [NO, NEVER], True, [353, 550, 550, 550]),
            (d, "dd", [NO, LATER], True, [353, 550, 450, 450]),
            (p, "dd", [LATER, NEVER], True, [353, 450, 550, 450]),
            # plain: one refusal is everybody's, where nobody kept them apart
            (t, "dd", [NO, ACCEPT], True, [550]),
            (t, "dd", [NO, LATER], True, [450]),
            (t, "ad", [ACCEPT], True, [250]),
            # LMTP: one each, whatever happens
            (lm, "dd", [NO, ACCEPT], True, [550, 250]),
            (lm, "ad", [NO], False, [452, 550]),
            (lm, "dd", [NO, NO], True, [550, 550]),
        ):
            got = self.run_(form, deferred, verdicts, disk)
            self.assertEqual(got, wanted, f"{form} {deferred} {verdicts} {disk}")


class LatchTests(SynchronousTestCase):
    """
    Verdicts are latches.
    """

    @requirement("D-25")
    def test_firstCounts(self) -> None:
        """A second verdict changes nothing."""
        block = Block(Form.DEFERRALS, candidates(Form.DEFERRALS, "dd"), "id X")
        self.assertTrue(block.verdict(0, NO))
        self.assertFalse(block.verdict(0, ACCEPT))
        self.assertEqual(block.verdicts[0], NO)
        block.verdict(1, ACCEPT)
        self.assertEqual(block.accepted(), [1])

    @requirement("P-8")
    def test_code(self) -> None:
        """A code that RCPT TO does not know is replaced."""
        block = Block(Form.PRDR, candidates(Form.PRDR, "d"), "id X")
        block.verdict(0, Refuse(Reply(554, "5.7.1", "no")))
        self.assertEqual(block.take(), [Reply(550, "5.7.1", "no")])

    @requirement("P-9")
    def test_vetoAcceptsNobody(self) -> None:
        """When the message as a whole cannot be taken, nobody is delivered."""
        block = Block(Form.PRDR, candidates(Form.PRDR, "dd"), "id X")
        block.verdict(0, ACCEPT)
        block.uncommitted(R452_NO_STORAGE)
        self.assertEqual(block.accepted(), [])

    @requirement("P-5")
    def test_353(self) -> None:
        """The 353 carries no enhanced code."""
        block = Block(Form.PRDR, candidates(Form.PRDR, "dd"), "id X")
        block.windowOver()
        (reply,) = block.take()
        self.assertEqual((reply.code, reply.enhanced), (353, None))

    @requirement("D-16")
    def test_finalIsGlobal(self) -> None:
        """The final reply names no recipient."""
        for verdicts in ([NO, ACCEPT], [NO, NEVER], [NO, LATER]):
            block = Block(Form.DEFERRALS, candidates(Form.DEFERRALS, "dd"), "id X")
            for index, verdict in enumerate(verdicts):
                block.verdict(index, verdict)
            said = block.take()
            block.committed()
            said += block.take()
            self.assertNotIn("@", said[-1].text)

    def test_marksDoNotShow(self) -> None:
        """Two accepting recipients whose copies are marked differently are unanimous."""
        block = Block(Form.DEFERRALS, candidates(Form.DEFERRALS, "dd"), "id X")
        block.verdict(0, Accept(Marks((("X-Score", "1"),))))
        block.verdict(1, ACCEPT)
        block.committed()
        self.assertEqual(codes(block.take()), [250])


class DilemmaTests(SynchronousTestCase):
    """
    A plain sender, and no one reply is exact.
    """

    def block(self, *verdicts: Any, isWatched: bool = False) -> Block:
        deferred = "d" * len(verdicts)
        block = Block(Form.PLAIN, candidates(Form.PLAIN, deferred), "id X", isWatched)
        for index, verdict in enumerate(verdicts):
            block.verdict(index, verdict)
        return block

    def test_when(self) -> None:
        """When recipients differ; and always, where what is remembered has a say."""
        for verdicts, isWatched, wanted in (
            ([ACCEPT, NO], False, True),
            ([ACCEPT, LATER], False, True),
            ([ACCEPT, ACCEPT], False, False),
            ([ACCEPT, ACCEPT], True, True),
            ([NO, NEVER], False, False),
            ([NO, NEVER], True, True),
            ([NO, LATER], False, True),
            ([LATER, Refuse(Reply(451, "4.3.0", "x"))], False, False),
            ([LATER], True, True),
        ):
            block = self.block(*verdicts, isWatched=isWatched)
            self.assertEqual(block.dilemma, wanted, (verdicts, isWatched))
            if wanted:
                self.assertFalse(block.needsCommit)
                self.assertRaises(RuntimeError, block.take)
            else:
                self.assertRaises(RuntimeError, block.resolve, Resolution.LATER)

    def test_later(self) -> None:
        """Refused for now: nobody is delivered."""
        block = self.block(ACCEPT, NO)
        block.resolve(Resolution.LATER)
        self.assertEqual(codes(block.take()), [451])
        self.assertEqual((block.accepted(), block.diverted()), ([], []))

    def test_has(self) -> None:
        """
        Who has the message already gets no second copy, and its verdict does not
        count; where all have it, there is nothing to store.
        """
        block = self.block(ACCEPT, ACCEPT, isWatched=True)
        block.resolve(Resolution.ACCEPT, [0], 1)
        self.assertEqual((block.accepted(), block.needsCommit), ([1], True))
        block.committed()
        self.assertEqual(
            [str(reply) for reply in block.take()], ["250 2.6.0 message accepted, id X"]
        )
        block = self.block(ACCEPT, NO, isWatched=True)
        block.resolve(Resolution.ACCEPT, [0, 1], 2)
        self.assertEqual((block.accepted(), block.diverted(), block.needsCommit), ([], [], False))
        self.assertEqual(codes(block.take()), [250])

    def test_reasons(self) -> None:
        """Each line names who refuses, how and why, and who has it; not too many of them."""
        block = self.block(ACCEPT, NO, LATER)
        block.resolve(Resolution.LATER, (), 3)
        _, no, later = block.candidates
        self.assertEqual(
            block.take()[0].text.split("\n"),
            [
                f"<{no.recipient}> refuses it for good ({NO.reply.text});"
                " 3 recipients have it already, try again",
                f"<{later.recipient}> refuses it for now ({LATER.reply.text});"
                " 3 recipients have it already, try again",
            ],
        )
        block = self.block(ACCEPT, *[NO] * 50)
        block.resolve(Resolution.STRICTEST)
        lines = block.take()[0].text.split("\n")
        self.assertEqual(len(lines), 20)
        for line, candidate in zip(lines, block.candidates[1:], strict=False):
            self.assertEqual(
                line,
                f"<{candidate.recipient}> refuses it for good ({NO.reply.text});"
                " 30 more that are not named here refuse it; no recipient has it",
            )

    def test_accept(self) -> None:
        """Accepted for all: who refuses is named, for what becomes of it."""
        block = self.block(ACCEPT, NO)
        block.resolve(Resolution.ACCEPT)
        self.assertTrue(block.needsCommit)
        self.assertEqual(block.take(), [])
        block.committed()
        (reply,) = block.take()
        self.assertEqual(str(reply), "250 2.6.0 message accepted, id X")
        self.assertEqual((block.accepted(), block.diverted()), ([0], [(1, NO.reply)]))

    def test_noDisk(self) -> None:
        """A disk that is full is everybody's refusal here, too."""
        block = self.block(ACCEPT, NO)
        block.resolve(Resolution.ACCEPT)
        block.uncommitted(R452_NO_STORAGE)
        self.assertEqual(codes(block.take()), [452])
        self.assertEqual(block.diverted(), [])


class RefusedByAllTests(SynchronousTestCase):
    """
    L{refusedByAll}.
    """

    def test_common(self) -> None:
        """What all have in common is kept."""
        one, two = Reply(552, "5.2.2", "full"), Reply(552, "5.2.2", "really full")
        self.assertEqual(refusedByAll([one, one]), one)
        self.assertEqual(
            (refusedByAll([one, two]).code, refusedByAll([one, two]).enhanced), (552, "5.2.2")
        )

    @requirement("D-19")
    def test_temporaryWins(self) -> None:
        """One temporary cause makes it 4xx, and its code is that cause's."""
        reply = refusedByAll([Reply(550, "5.7.1", "no"), Reply(452, "4.3.1", "full")])
        self.assertEqual((reply.code, reply.enhanced), (452, "4.3.1"))


_verdicts = st.sampled_from([ACCEPT, NO, NEVER, LATER])


class PropertyTests(SynchronousTestCase):
    """
    Whatever the order of events, the block keeps its promises.
    """

    @requirement("D-10")
    @requirement("D-14")
    @requirement("D-17")
    @requirement("D-19")
    @requirement("D-22")
    @requirement("D-23")
    @requirement("P-6")
    @requirement("P-9")
    @given(
        st.sampled_from([Form.DEFERRALS, Form.PRDR, Form.LMTP, Form.PLAIN]),
        st.text("ad", min_size=1, max_size=6),
        st.data(),
    )
    def test_promises(self, form: Form, deferred: str, data: Any) -> None:
        """
        One reply per recipient that must have one, in order, after exactly one 353;
        a positive end only if somebody accepts and the message is durable.
        """
        block = Block(form, candidates(form, deferred), "id X")
        waiting = [index for index, letter in enumerate(deferred) if letter == "d"]
        events: list[Any] = data.draw(st.permutations([*waiting, "window"]))
        verdicts = {index: data.draw(_verdicts) for index in waiting}
        disk = data.draw(st.booleans())
        said: list[Reply] = []
        for event in events:
            if not block.dilemma:
                said += block.take()
            if event == "window":
                block.windowOver()
            else:
                block.verdict(event, verdicts[event])
        if block.dilemma:
            self.assertEqual(said, [])
            block.resolve(Resolution.STRICTEST)
        said += block.take()
        accepts = [i for i in range(len(deferred)) if verdicts.get(i, ACCEPT) == ACCEPT]
        committed = block.needsCommit
        if committed:
            self.assertFalse(block.over)
            block.committed() if disk else block.uncommitted(R452_NO_STORAGE)
            said += block.take()
        self.assertTrue(block.over)
        assert block.final is not None
        if form is Form.LMTP:
            self.assertEqual(len(said), len(deferred))
            return
        self.assertEqual(said[-1], block.final)
        self.assertEqual(block.final.isPositive, committed and disk)
        if form is Form.PLAIN:
            self.assertEqual(len(said), 1)
            self.assertEqual(committed, len(accepts) == len(deferred))
            return
        self.assertEqual(committed, bool(accepts))
        if not accepts:
            temporary = any(verdicts[index] == LATER for index in waiting)
            self.assertEqual(block.final.isTemporary, temporary)
        listed = waiting if form is Form.DEFERRALS else list(range(len(deferred)))
        if len(said) > 1:
            self.assertEqual(codes(said).count(353), 1)
            self.assertEqual(said[0].code, 353)
            self.assertEqual(len(said), len(listed) + 2)
            for index, reply in zip(listed, said[1:-1], strict=True):
                self.assertIn(f"<r{index}@example.net>", reply.text)
                self.assertEqual(reply.isPositive, index in accepts)
        elif len({str(verdicts.get(i, ACCEPT)) for i in range(len(deferred))}) > 1:
            self.fail("a mixed outcome needs a block")


@st.composite
def blocks(draw: Any) -> Block:
    """
    A message that has just come.
    """
    form = draw(st.sampled_from(Form))
    deferred = draw(st.text("ad", min_size=1, max_size=5))
    found = candidates(form, deferred)
    if draw(st.booleans()):
        found = [attrs.evolve(one, cohort=place // 2) for place, one in enumerate(found)]
    return Block(form, found, "id X", draw(st.booleans()))


class WhateverIsLearntTests(SynchronousTestCase):
    """
    L{nextReplies}, whatever is learnt, in whatever order.
    """

    def learn(self, block: Block, data: Any) -> None:
        """
        One more fact.
        """
        undecided = [index for index, verdict in enumerate(block.verdicts) if verdict is None]
        facts: list[Any] = [*undecided]
        if block.dilemma:
            facts += [Resolution.LATER, Resolution.ACCEPT, Resolution.STRICTEST]
        if block.needsCommit:
            facts += ["durable"]
        facts += ["veto", "window"]
        fact = data.draw(st.sampled_from(facts))
        if fact == "window":
            block.windowOver()
        elif fact == "veto":
            block.uncommitted(data.draw(st.sampled_from([R452_NO_STORAGE, Reply(554, "5.6.0")])))
        elif fact == "durable":
            block.committed({0: Reply(554, "5.1.1", "not there")}, ["<r0> not there"])
        elif isinstance(fact, Resolution):
            block.resolve(fact)
        else:
            block.verdict(fact, data.draw(_verdicts))

    @requirement("D-10")
    @requirement("P-6")
    @given(blocks(), st.data())
    def test_neverTakenBack(self, block: Block, data: Any) -> None:
        """What has been said stays said, and the next replies continue it."""
        said: list[Reply] = []
        while not block.over:
            self.learn(block, data)
            isSilent = block.dilemma or data.draw(st.booleans())
            if isSilent:
                continue
            for count in range(len(said) + 1):
                again = said[:count] + nextReplies(block, count)[0]
                self.assertEqual(again, nextReplies(block, 0)[0])
            said += block.take()
            self.assertEqual(said, nextReplies(block, 0)[0])
        self.assertEqual(block.take(), [])
        self.check(block, said)

    def check(self, block: Block, said: list[Reply]) -> None:
        """
        The whole dialogue.
        """
        assert block.final is not None
        isBlock = block.form in (Form.DEFERRALS, Form.PRDR) and len(said) > 1
        one = len(block.candidates) if block.form is Form.LMTP else 1
        self.assertEqual(len(said), len(block.listed) + 2 if isBlock else one)
        self.assertEqual(codes(said)[1:].count(353), 0)
        self.assertEqual(said[0].code == 353, isBlock)
        own = said[1:-1] if isBlock else said if block.form is Form.LMTP else []
        for index, reply in zip(block.listed, own, strict=False):
            self.assertTrue(isinstance(block.verdicts[index], Accept) or not reply.isPositive)
        for index in block.accepted():
            self.assertIsInstance(block.verdicts[index], Accept)
        if block.final.isPositive:
            self.assertTrue(block.isDurable)
            self.assertTrue(block.accepted())

    @given(blocks(), st.data())
    def test_orderDoesNotMatter(self, block: Block, data: Any) -> None:
        """The same verdicts in another order make the same dialogue."""
        waiting = [index for index, verdict in enumerate(block.verdicts) if verdict is None]
        verdicts = {index: data.draw(_verdicts) for index in waiting}
        dialogues = []
        for order in (waiting, data.draw(st.permutations(waiting))):
            one = Block(block.form, block.candidates, "id X", block.isWatched)
            said: list[Reply] = []
            for index in order:
                one.verdict(index, verdicts[index])
                said += [] if one.dilemma else one.take()
            if one.dilemma:
                one.resolve(Resolution.ACCEPT if None in one.answers else Resolution.STRICTEST)
            if one.needsCommit:
                one.committed()
            dialogues.append(said + one.take())
        self.assertEqual(*dialogues)


class StrictTests(SynchronousTestCase):
    """
    What makes no sense is an error where it is said.
    """

    def test_verdict(self) -> None:
        """Only L{Accept} and L{Refuse} are verdicts on the content."""
        block = Block(Form.PRDR, candidates(Form.PRDR, "dd"), "id X")
        for nonsense in (None, True, NO.reply, Defer(), "550 no"):
            self.assertRaises(TypeError, block.verdict, 0, nonsense)
        self.assertEqual((block.undecided, block.take()), (2, []))

    def test_noRecipient(self) -> None:
        """A message without recipients has no answers."""
        self.assertRaises(ValueError, Block, Form.PRDR, [], "id X")


class RepliesForTests(SynchronousTestCase):
    """
    L{repliesFor}.
    """

    def test_dialogues(self) -> None:
        """The dialogues of the draft, section 7, and their like."""
        one, two = "fighter@example.net", "lover@example.net"
        for form, first, second, wanted in (
            (Form.DEFERRALS, NO.reply, None, [353, 550, 250, 250]),
            (Form.PRDR, None, LATER.reply, [353, 250, 450, 250]),
            (Form.DEFERRALS, NO.reply, NO.reply, [550]),
            (Form.PRDR, NO.reply, LATER.reply, [353, 550, 450, 450]),
            (Form.PRDR, None, None, [250]),
            (Form.LMTP, None, NO.reply, [250, 550]),
            (Form.PLAIN, None, NO.reply, [451]),
        ):
            self.assertEqual(codes(repliesFor(form, [(one, first), (two, second)])), wanted)

    def test_texts(self) -> None:
        """What is said of the message as a whole is the caller's to say."""
        (reply,) = repliesFor(Form.PLAIN, [("a@example.net", None)])
        self.assertEqual(str(reply), "250 2.6.0 message accepted")
        (reply,) = repliesFor(Form.PLAIN, [("a@example.net", None)], taken="id X")
        self.assertEqual(str(reply), "250 2.6.0 message accepted, id X")

    def test_mixed(self) -> None:
        """What a plain sender gets for a mixed message can be chosen."""
        answers = [("a@example.net", None), ("b@example.net", NO.reply)]
        for mixed, code in (
            (Resolution.STRICTEST, 550),
            (Resolution.LATER, 451),
            (Resolution.ACCEPT, 250),
        ):
            self.assertEqual(codes(repliesFor(Form.PLAIN, answers, mixed=mixed)), [code])

    def test_nonsense(self) -> None:
        """No recipient, and what is no address."""
        self.assertRaises(ValueError, repliesFor, Form.PRDR, [])
        self.assertRaises(ValueError, repliesFor, Form.PRDR, [("nobody", None)])


class WindowTests(SynchronousTestCase):
    """
    When 353 is said.
    """

    @requirement("P-5")
    def test_heldBack(self) -> None:
        """Not before two verdicts differ or the window is over."""
        for first, second in itertools.permutations([ACCEPT, NO]):
            block = Block(Form.DEFERRALS, candidates(Form.DEFERRALS, "ddd"), "id X")
            block.verdict(0, first)
            self.assertEqual(block.take(), [])
            block.verdict(2, second)
            self.assertEqual(codes(block.take())[0], 353)

    @requirement("D-25")
    def test_late(self) -> None:
        """Before the block everybody undecided is late, within it whose turn it is."""
        block = Block(Form.DEFERRALS, candidates(Form.DEFERRALS, "ddd"), "id X")
        block.verdict(1, NO)
        self.assertEqual(block.late(), [0, 2])
        block.windowOver()
        block.take()
        self.assertEqual(block.late(), [0])
