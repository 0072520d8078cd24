"""
The protocol's mail server's side, without I/O.
"""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from kilter.protocol.messages import ActionFlags, Message, ProtocolFlags, Stage
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import StageError
from deferrals.stages.milter.dialogue import (
    MAX_EDITS,
    MilterTalk,
    Negotiated,
    Outcome,
    Said,
    negotiation,
    replyOf,
)
from deferrals.stages.milter.told import toldOf
from deferrals.stages.milter.wire import Packets
from deferrals.testing import makeEnvelope, makeRecipient
from tests.milters import negotiate, packet

ALL = Negotiated(6, ActionFlags.ALL, ProtocolFlags(0))

#: Each message that a filter can send, and some that it cannot.
MESSAGES = (
    *(b"a", b"c", b"r", b"t", b"d", b"f", b"s"),
    *(b"y550 5.7.1 no\0", b"y450 later\0", b"y250 yes\0", b"y\0"),
    *(b"hX\0v\0", b"i\0\0\0\0X\0v\0", b"m\0\0\0\1X\0\0", b"qwhy\0"),
    *(b"Ca\0U", b"Hx\0", b"M<a@b>\0", b"R<a@b>\0", b"T", b"LX\0v\0", b"N", b"Bx", b"E", b"A"),
    *(b"Q", b"Ux", b"DCj\0x\0", b"p"),
    *(b"bbody", b"+<a@b>\0", b"-<a@b>\0", b"2<a@b>\0", b"e<a@b>\0"),
    negotiate(),
)


def read(data: bytes) -> Message:
    (message,) = Packets().feed(packet(data))
    return message


def letters(data: bytes) -> str:
    """
    The letters of the messages in what is sent.
    """
    found = ""
    while data:
        (size,) = struct.unpack(">L", data[:4])
        found += chr(data[4])
        data = data[4 + size :]
    return found


def play(dialogue: Any, answers: list[bytes]) -> tuple[Any, str]:
    """
    @param answers: one for each that is waited for; then C{c}.
    @return: what comes of it, and the letters of all that was sent.
    """
    told, answer, left = "", None, iter(answers)
    while True:
        try:
            tell = dialogue.send(answer)
        except StopIteration as end:
            return end.value, told
        told += letters(tell.octets)
        answer = read(next(left, b"c")) if tell.isAnswered else None


def whole(talk: MilterTalk, isGreeted: bool = False) -> Any:
    """
    A conversation about a message with two fields and two pieces.
    """
    found = yield from talk.envelope(isGreeted)
    if found is not None:
        return found
    return (yield from talk.content([("A", b" 1"), ("B", b" 2")], lambda: [b"x", b"y"]))


def converse(answers: list[bytes], filter: Negotiated = ALL, **more: Any) -> tuple[Outcome, str]:
    recipients = [makeRecipient("a@x.example"), makeRecipient("b@x.example")]
    told = toldOf(makeEnvelope(), recipients, "mx", "v", {})
    found: tuple[Outcome, str] = play(whole(MilterTalk(filter, told), **more), answers)
    return found


class NegotiationTests(SynchronousTestCase):
    """
    L{negotiation}.
    """

    def negotiate(self, answer: bytes, offered: int = 0x11) -> Negotiated:
        found: Negotiated = play(negotiation(ActionFlags(offered)), [answer])[0]
        return found

    def test_versions(self) -> None:
        """Those from 2 to 6, and no others."""
        for version in range(2, 7):
            self.assertEqual(self.negotiate(negotiate(version)).version, version)
        for answer in (negotiate(1), negotiate(7), b"c", b"a"):
            self.assertRaises(StageError, self.negotiate, answer)

    def test_steps(self) -> None:
        """What it does not want, and does not answer; nothing that is not offered."""
        found = self.negotiate(negotiate(steps=0x1 | 0x20 | 0x8000 | 0x10000000))
        self.assertRaises(StageError, self.negotiate, negotiate(steps=0x800))
        answers, sent = converse([], found)
        self.assertNotIn("C", sent)
        self.assertNotIn("L", sent)
        self.assertIn("RDR", sent)
        self.assertEqual(answers.said, Said("continue"))

    def test_actions(self) -> None:
        """What it wants more counts for nothing, until it does it."""
        found = self.negotiate(negotiate(actions=0x3F))
        self.assertEqual(int(found.actions), 0x11)
        ends = [b"c"] * 11
        self.assertRaisesRegex(StageError, "the body", converse, [*ends, b"bx"], found)
        self.assertRaisesRegex(StageError, "quarantine", converse, [*ends, b"qx\0"], found)

    def test_macros(self) -> None:
        """The macros that it asks for, at the steps that it says."""
        rest = struct.pack(">L", 0) + b"j {client_name}\0" + struct.pack(">L", 5) + b"\0"
        found = self.negotiate(negotiate(actions=0x111, rest=rest))
        self.assertEqual(found.macros[Stage.CONNECT], ("j", "{client_name}"))
        self.assertEqual(found.macros[Stage.END_MESSAGE], ())
        self.assertEqual(converse([], found)[1], "DCHDMDRDRDTLLDNBBE")

    def test_old(self) -> None:
        """Version 2 knows no step for DATA."""
        found = self.negotiate(negotiate(2))
        self.assertEqual(converse([], found)[1], "DCHDMDRDRLLNBBDE")


class ConversationTests(SynchronousTestCase):
    """
    L{MilterTalk}.
    """

    def test_greeted(self) -> None:
        """A session that the filter knows is not told again."""
        self.assertEqual(converse([], isGreeted=True)[1], "DMDRDRDTLLDNBBDE")

    def test_ends(self) -> None:
        """Whatever decides ends it; what the filter has not said is none."""
        sent = "CHMRRTLLNBBE"
        for number in range(len(sent)):
            for word, kind in ((b"a", "accept"), (b"r", "reject"), (b"t", "tempfail")):
                outcome, told = converse([*[b"c"] * number, word])
                isRecipient = sent[number] == "R" and kind != "accept"
                self.assertEqual(outcome.said.kind, "continue" if isRecipient else kind)
                self.assertEqual(len(told.replace("D", "")), 12 if isRecipient else number + 1)
                self.assertEqual(outcome.isGreeted, number > 1)

    def test_apart(self) -> None:
        """A recipient that is refused; and all of them: then there is no data."""
        outcome, told = converse([b"c", b"c", b"c", b"r", b"c"])
        self.assertEqual(outcome.apart, {0: Said("reject")})
        outcome, told = converse([b"c", b"c", b"c", b"r", b"t"])
        self.assertEqual(outcome.apart, {0: Said("reject"), 1: Said("tempfail")})
        self.assertEqual(told.replace("D", ""), "CHMRR")

    def test_skip(self) -> None:
        """The rest of a body need not be told where that was agreed on."""
        skips = Negotiated(6, ActionFlags.ALL, ProtocolFlags.SKIP)
        self.assertEqual(converse([b"c"] * 9 + [b"s"], skips)[1].count("B"), 1)
        self.assertRaises(StageError, converse, [b"c"] * 9 + [b"s"])
        self.assertRaises(StageError, converse, [b"s"], skips)

    def test_bounded(self) -> None:
        """So many changes, and so long ones; names that can be."""
        ends = [b"c"] * 11
        self.assertRaises(StageError, converse, [*ends, *[b"hX\0v\0"] * (MAX_EDITS + 1)])
        self.assertEqual(len(converse([*ends, *[b"hX\0v\0"] * MAX_EDITS])[0].edits), MAX_EDITS)
        long = b"hX\0" + b"v" * 60_000 + b"\0"
        self.assertRaises(StageError, converse, [*ends, *[long] * 5])
        self.assertRaises(StageError, converse, [*ends, b"hX Y\0v\0"])

    @given(st.lists(st.sampled_from(MESSAGES), max_size=30), st.integers(0, 0x1FFFFF))
    def test_anything(self, answers: list[bytes], steps: int) -> None:
        """
        Whatever a filter says, in or out of order: an end, and no acceptance that it has
        not said.
        """
        filter = Negotiated(6, ActionFlags(0x31), ProtocolFlags(steps & ~0x800))
        heard: list[bytes] = []

        def said() -> Any:
            for answer in [*answers, *[b"t"] * 100]:
                heard.append(answer)
                yield answer

        recipients = [makeRecipient("a@x.example"), makeRecipient("b@x.example")]
        told = toldOf(makeEnvelope(), recipients, "mx", "v", {})
        dialogue, left, answer = whole(MilterTalk(filter, told)), said(), None
        try:
            while True:
                tell = dialogue.send(answer)
                answer = read(next(left)) if tell.isAnswered else None
        except StageError:
            return
        except StopIteration as end:
            outcome: Outcome = end.value
        if outcome.said.kind == "accept":
            self.assertEqual(heard[-1], b"a")
        elif outcome.said.kind == "continue":
            self.assertEqual(heard[-1], b"c")
        for edit in outcome.edits:
            self.assertIn(edit.name, "X")

    def test_replies(self) -> None:
        """Cleaned, and of codes that recipients can have."""
        for text, wanted in (
            (b"550 5.7.1 no\0more", "550 5.7.1 no"),
            (b"554-5.7.1 a\n554 5.7.1 b\x1b[0m", "550 5.7.1 a / b\\x{1B}[0m"),
            (b"551 5.1.6 <a@b>", "550 5.1.6 <a@b>"),
            (b"421 4.3.2 later", "451 4.3.2 later"),
            (b"451 5.7.1 odd", "451 4.0.0 5.7.1 odd"),
            (b"450", "450 4.0.0"),
        ):
            self.assertEqual(str(replyOf(text)), wanted)
        self.assertLess(len(str(replyOf(b"550 " + b"x" * 100_000))), 1100)
        for text in (b"", b"250 ok", b"55", b"550x", b"550 a\n250 b", b"no"):
            self.assertRaises(StageError, replyOf, text)
