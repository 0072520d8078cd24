"""
One fault of a next hop at a time, at each step, and exactly what comes of it: which
message is tried again, and over how many connections.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import attrs
from twisted.logger import LogEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.hopfaults.faults import Fault
from tests.hopfaults.world import Case, World

#: What each recipient's attempts come to where all is well, and where the first one of
#: the first message is given up.
WELL = {one: ["delivered"] for one in ("a@x.example", "b@x.example")}
WELL |= {one: ["delivered"] for one in ("a2@x.example", "b2@x.example")}
AGAIN = WELL | {one: ["retry", "delivered"] for one in ("a@x.example", "b@x.example")}

#: How a next hop is spoken to, what it offers, and the steps at which it answers.
_Dialogue = tuple[str, tuple[str, ...], tuple[str, ...]]

DIALOGUES: tuple[_Dialogue, ...] = (
    ("lmtp", (), ("MAIL", "RCPT", "DATA", "own")),
    ("smtp", (), ("MAIL", "RCPT", "DATA", "final")),
    ("smtp", ("CHUNKING",), ("MAIL", "RCPT", "final")),
    ("smtp", ("XEXDATA",), ("MAIL", "RCPT", "DATA", "final")),
    ("smtp", ("PRDR",), ("MAIL", "RCPT", "DATA", "own", "final")),
    ("smtp", ("PIPELINING",), ("MAIL", "RCPT", "DATA", "final")),
    ("smtp", ("PIPELINING", "PRDR", "CHUNKING"), ("MAIL", "RCPT", "own", "final")),
)


class _Told(World):
    """
    A world whose log is kept.
    """

    def _judged(self, logged: list[LogEvent]) -> list[str]:  # type: ignore[override]
        self.attempts: dict[str, list[str]] = defaultdict(list)
        for one in logged:
            if one.get("event") == "delivery":
                self.attempts[one["recipient"]].append(one["outcome"])
        return super()._judged(logged)


class ExactTests(SynchronousTestCase):
    """
    Two messages to two recipients each, one after the other over one connection.
    """

    def run_(
        self, dialogue: _Dialogue, *faults: Fault, **more: Any
    ) -> tuple[dict[str, list[str]], int]:
        """
        @param more: of the case.
        @return: the outcomes of each recipient's attempts, and the connections.
        """
        use, keywords, _ = dialogue
        case = Case(use=use, keywords=keywords, recipients=2, messages=2, connections=1)
        world = _Told(attrs.evolve(case, faults=faults, **more))
        self.assertEqual(world.run(), [], faults)
        return dict(world.attempts), len(world.peer.sessions)

    def eachStep(self, kind: str, number: int = 0, code: str = "250") -> None:
        """
        What a fault that is none comes to.
        """
        for dialogue in DIALOGUES:
            for step in ("greeting", "EHLO", *dialogue[2]):
                found = self.run_(dialogue, Fault(step, 0, kind, code, number))
                self.assertEqual(found, (WELL, 1), (dialogue, step))

    def test_well(self) -> None:
        """Nothing goes wrong, however small the pieces are in which it is said."""
        for dialogue in DIALOGUES:
            for octets in (0, 1, 2, 7):
                self.assertEqual(self.run_(dialogue, octets=octets), (WELL, 1), dialogue)

    def test_split(self) -> None:
        """A reply may be cut at each octet, and go on later."""
        for number in (0, 1, 3, 4, 9):
            self.eachStep("split", number)

    def test_longest(self) -> None:
        """A reply may be as long as may be."""
        for kind in ("line", "lines", "octets"):
            self.eachStep(kind, 0)

    def test_tooLong(self) -> None:
        """One octet, or one line, more is no reply: the connection is given up."""
        for kind in ("line", "lines", "octets"):
            for dialogue in DIALOGUES:
                for step in dialogue[2]:
                    found = self.run_(dialogue, Fault(step, 0, kind, "250", 1))
                    self.assertEqual(found, (AGAIN, 2), (dialogue, step, kind))

    def test_unasked(self) -> None:
        """
        A reply and one that was not asked for, together: no command is taken for its
        question.  The message that is under way is tried again, unless it had all its
        answers; the next one has a connection of its own.
        """
        for dialogue in DIALOGUES:
            if "PIPELINING" in dialogue[1]:
                continue  # it is matched with what was asked already
            *before, last = dialogue[2]
            for code in ("250", "354", "550"):
                for step in before[: before.index("RCPT") + 1]:
                    found = self.run_(dialogue, Fault(step, 0, "early", code))
                    self.assertEqual(found, (AGAIN, 2), (dialogue, step, code))
                time = 1 if last == "own" else 0
                found = self.run_(dialogue, Fault(last, time, "early", code))
                self.assertEqual(found, (WELL, 2), (dialogue, last, code))

    def test_answeredBeforeItsEnd(self) -> None:
        """
        A message that is taken before it was sent, or while it is, has not been read:
        the connection is given up.
        """
        for dialogue in DIALOGUES:
            if "DATA" in dialogue[2] and "PIPELINING" not in dialogue[1]:
                found = self.run_(dialogue, Fault("DATA", 0, "early", "250"))
                self.assertEqual(found, (AGAIN, 2), dialogue)
            if "CHUNKING" in dialogue[1]:
                continue  # the chunk is there as a whole
            for code in ("250", "354"):
                found = self.run_(dialogue, Fault("during", 0, "reply", code), isLarge=True)
                self.assertEqual(found, (AGAIN, 2), (dialogue, code))

    def test_refusedBeforeItsEnd(self) -> None:
        """
        A refusal behind the 354 is, with LMTP, that of all recipients: no later answer is
        taken for that of another one.
        """
        never = WELL | {one: ["failed"] for one in ("a@x.example", "b@x.example")}
        for code, wanted in (("452 4.3.1", AGAIN), ("550 5.6.0", never)):
            outcomes, connections = self.run_(DIALOGUES[0], Fault("DATA", 0, "early", code))
            self.assertEqual((outcomes, connections), (wanted, 2), code)

    def test_unaskedAtFirst(self) -> None:
        """The same behind the greeting or EHLO: there is no session."""
        for dialogue in DIALOGUES:
            for step in ("greeting", "EHLO"):
                outcomes, connections = self.run_(dialogue, Fault(step, 0, "early", "250"))
                self.assertEqual(outcomes["a@x.example"], ["retry", "delivered"], dialogue)
                self.assertEqual(connections, 2, dialogue)

    def test_idle(self) -> None:
        """What is said between two messages ends the connection, and costs neither."""
        for dialogue in DIALOGUES:
            for code in ("250", "421", "550"):
                found = self.run_(dialogue, Fault("idle", 0, "reply", code), isApart=True)
                self.assertEqual(found, (WELL, 2), (dialogue, code))
