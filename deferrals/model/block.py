"""
Everything a server says after the data, and nothing else: one reply, or 353,
one reply per recipient and a final one.  Pure rules; the caller has the clock,
the stages and the spool.

Verdicts come in, in any order; replies go out, in RCPT order.  A verdict is a
latch: once a recipient has one, whether from its stages or because it came
late, no other takes its place, and only recipients that L{accepted} names may
ever be delivered.

::

    WAITING ----- one answer for all: D-9, P-4 ----------------------+
       |                                                             v
       +-- two differ, or the window is over: 353 --> ENUMERATING --> OVER
                                                       (prefix in order, then final)

A positive end waits for L{committed}: the message must be durable before the
reply that takes responsibility (D-20, D-23).  L{uncommitted} ends it with that
negative reply instead, whatever the recipients said (P-9).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import attrs

from deferrals.model.envelope import Form
from deferrals.model.reply import (
    R250_CONTENT,
    R353_ENUMERATE,
    R450_SOME_TEMPORARY,
    R451_MIXED,
    R550_REFUSED_BY_ALL,
    Reply,
)
from deferrals.model.transaction import Candidate
from deferrals.model.verdict import ACCEPT, Accept, ContentVerdict, Refuse

_ENUMERATING_FORMS = {Form.DEFERRALS, Form.PRDR}


class Resolution(enum.Enum):
    """
    How a dilemma ends.
    """

    STRICTEST = "one refusal refuses all"
    LATER = "refused for now"
    ACCEPT = "accepted; what becomes of the refusers is said elsewhere"


class _State(enum.Enum):
    WAITING = 1
    ENUMERATING = 2
    OVER = 3


def refusedByAll(replies: Sequence[Reply]) -> Reply:
    """
    The one reply for a message that nobody takes: what all have in common, and
    4xx as soon as one of the causes is temporary (D-18, D-19).

    @param replies: the refusals, at least one.
    """
    temporary = [reply for reply in replies if reply.isTemporary]
    causes = temporary or list(replies)
    if len(set(replies)) == 1:
        return replies[0]
    general = R450_SOME_TEMPORARY if temporary else R550_REFUSED_BY_ALL
    kinds = {(reply.code, reply.enhanced) for reply in causes}
    if len(kinds) == 1:
        return attrs.evolve(general, code=causes[0].code, enhanced=causes[0].enhanced)
    return general


class Block:
    """
    The answers to one message.

    @param form: how the sender can be told.
    @param candidates: who is in, in RCPT order; at least one.
    @param taken: the text of a positive final reply.
    @param sentAway: whether recipients got 452 in this transaction.
    """

    def __init__(
        self, form: Form, candidates: Sequence[Candidate], taken: str, sentAway: bool = False
    ) -> None:
        self._sentAway = sentAway
        self._resolution: Resolution | None = None
        self._form = form
        self._candidates = candidates
        self._taken = taken
        self._verdicts: list[ContentVerdict | None] = [
            None if candidate.deferred else ACCEPT for candidate in candidates
        ]
        self._open = self._verdicts.count(None)
        self._answers = {_answer(verdict) for verdict in self._verdicts if verdict is not None}
        self._listed = (
            [index for index, candidate in enumerate(candidates) if candidate.deferred]
            if form is Form.DEFERRALS
            else range(len(candidates))
        )
        self._state = _State.WAITING
        self._next = 0
        self._windowOver = False
        self._committed = False
        self._results: Mapping[int, Reply] = {}
        self._lines: Sequence[str] = ()
        self._veto: Reply | None = None
        self.final: Reply | None = None

    @property
    def over(self) -> bool:
        """Whether the last reply has been taken."""
        return self._state is _State.OVER

    @property
    def enumerated(self) -> bool:
        """Whether each recipient got a reply of its own after the data."""
        return self._next > 0

    @property
    def dilemma(self) -> bool:
        """
        Whether all verdicts are in, and no one reply is exact: a plain sender's
        recipients differ, or they refuse for good while others of the
        transaction were sent away (L{deferrals.model.mixed}).  It waits for
        L{resolve}.
        """
        if self._form is not Form.PLAIN or self._open or self._veto is not None:
            return False
        if self._resolution is not None:
            return False
        refusedForGood = not any(answer is None or answer.isTemporary for answer in self._answers)
        mixed = None in self._answers and len(self._answers) > 1
        return mixed or (refusedForGood and self._sentAway)

    def resolve(self, resolution: Resolution) -> None:
        """
        End the dilemma.
        """
        self._resolution = resolution

    @property
    def needsCommit(self) -> bool:
        """
        Whether all verdicts are in, somebody accepts, and the message has to
        become durable before the end can be said.
        """
        return (
            self._open == 0
            and not self._committed
            and self._veto is None
            and self._state is not _State.OVER
            and self._takes
        )

    @property
    def _takes(self) -> bool:
        """
        Whether, by what is known, somebody takes the message.
        """
        if None not in self._answers or self._resolution is Resolution.LATER:
            return False
        exact = self._form is not Form.PLAIN or len(self._answers) == 1
        return exact or self._resolution is Resolution.ACCEPT

    def accepted(self) -> list[int]:
        """
        Who takes the message: indexes into the candidates.  Nobody, once the
        message as a whole cannot be taken.
        """
        if self._veto is not None or not self._takes:
            return []
        return [i for i, verdict in enumerate(self._verdicts) if isinstance(verdict, Accept)]

    def diverted(self) -> list[tuple[int, Reply]]:
        """
        Who refuses a message that is accepted for all: indexes into the
        candidates, each with its reply.
        """
        if self._resolution is not Resolution.ACCEPT or not self.accepted():
            return []
        found = enumerate(self._verdicts)
        return [(i, verdict.reply) for i, verdict in found if isinstance(verdict, Refuse)]

    def verdictOf(self, index: int) -> ContentVerdict | None:
        """The latched verdict, or L{None}."""
        return self._verdicts[index]

    def verdict(self, index: int, verdict: ContentVerdict) -> bool:
        """
        A stage has decided.

        @return: whether it counts: L{False} where another one was first.
        """
        if self._verdicts[index] is not None:
            return False
        if isinstance(verdict, Refuse):
            verdict = Refuse(verdict.reply.forRecipient())
        self._verdicts[index] = verdict
        self._answers.add(_answer(verdict))
        self._open -= 1
        return True

    def windowOver(self) -> None:
        """
        A unanimous answer is not to be waited for any longer.
        """
        self._windowOver = True

    def late(self) -> list[int]:
        """
        Whose verdict is now overdue: once the block has begun, the recipient
        whose turn it is, and with it the undecided of its cohort, whose answer
        is the same (D-25); before that, everybody undecided.
        """
        undecided = [i for i, verdict in enumerate(self._verdicts) if verdict is None]
        if self._state is not _State.ENUMERATING or not undecided:
            return undecided
        head = self._candidates[undecided[0]].cohort
        return [i for i in undecided if self._candidates[i].cohort == head]

    def committed(
        self, results: Mapping[int, Reply] | None = None, lines: Sequence[str] = ()
    ) -> None:
        """
        The message is durable for those who accept it.

        @param results: what became of it for recipients that accept it, where
            its delivery has been tried already (S-6): their replies under LMTP.
        @param lines: the same, as lines of a positive final reply.
        """
        self._committed = True
        self._results, self._lines = results or {}, lines

    def uncommitted(self, reply: Reply) -> None:
        """
        The message as a whole cannot be taken: C{reply} ends it (P-9).  Who
        has not been answered yet gets it, too.
        """
        self._veto = reply

    def take(self) -> list[Reply]:
        """
        The replies that can be said now, in order; each is handed out once.
        """
        replies: list[Reply] = []
        if self._state is _State.WAITING:
            replies += self._begin()
        if self._state is _State.ENUMERATING:
            replies += self._continue()
        return replies

    def _begin(self) -> list[Reply]:
        differ = len(self._answers) > 1
        if self._form is Form.LMTP:
            return self._lmtp()
        if self._veto is not None:
            return self._end(self._veto)
        enumerates = self._form in _ENUMERATING_FORMS and len(self._candidates) > 1
        if enumerates and (differ or (self._windowOver and self._open)):
            self._state = _State.ENUMERATING  # D-7; somebody is listed: D-8
            return [R353_ENUMERATE]
        if self._open or self.dilemma:
            return []
        if self._resolution is Resolution.LATER:
            return self._end(R451_MIXED)
        if self._takes:
            return self._end(self._positive()) if self._committed else []
        return self._end(self._refusal(differ))

    def _refusal(self, differ: bool) -> Reply:
        """
        One reply for a message that is refused as a whole.  A plain sender
        whose recipients give different reasons is told each of them.
        """
        refusals = [
            (str(candidate.recipient), verdict.reply)
            for candidate, verdict in zip(self._candidates, self._verdicts, strict=True)
            if isinstance(verdict, Refuse)
        ]
        reply = refusedByAll([reply for _, reply in refusals])
        if not differ:
            return reply
        reasons = [f"<{address}> {reason.text}" for address, reason in refusals]
        return attrs.evolve(reply, text="\n".join([reply.text, *reasons]))

    def _continue(self) -> list[Reply]:
        replies: list[Reply] = []
        while self._next < len(self._listed):
            reply = self._answerFor(self._listed[self._next])
            if reply is None:
                return replies
            replies.append(reply)
            self._next += 1
        if self._veto is not None:
            return replies + self._end(self._veto)
        if self._open:
            return replies  # D-22
        if not self._takes:
            refusals = [v.reply for v in self._verdicts if isinstance(v, Refuse)]
            reply = refusedByAll(refusals)
            return replies + self._end(attrs.evolve(reply, text=R550_REFUSED_BY_ALL.text))
        return replies + self._end(self._positive()) if self._committed else replies

    def _answerFor(self, index: int) -> Reply | None:
        candidate, verdict = self._candidates[index], self._verdicts[index]
        address = str(candidate.recipient)
        if isinstance(verdict, Refuse):
            return verdict.reply.addressed(address)
        if self._veto is not None:
            return self._veto.forRecipient().addressed(address)
        if verdict is None:
            return None
        if self._form is Form.LMTP and index in self._results:
            return self._results[index].forRecipient().addressed(address)
        if candidate.reply.isPositive and not candidate.deferred:
            return candidate.reply  # P-7
        return R250_CONTENT.addressed(address)

    def _lmtp(self) -> list[Reply]:
        """
        RFC 2033 §4.2: one reply per recipient, each of which takes or refuses
        responsibility; so all of them wait until the message is durable.
        """
        if self._veto is None and (self._open or self.needsCommit):
            return []
        replies: list[Reply] = []
        for index in self._listed:
            reply = self._answerFor(index)
            assert reply is not None
            replies.append(reply)
        self._next = len(replies)
        self._state = _State.OVER
        self.final = self._veto or (self._positive() if self.accepted() else self._refusal(False))
        return replies

    def _positive(self) -> Reply:
        """
        Positive as soon as anybody accepts, and about the message as a whole
        (D-14, D-16, D-17).
        """
        accepted = len(self.accepted()) + len(self.diverted())
        all_ = len(self._candidates)
        some = "" if accepted == all_ else f" for {accepted} of {all_} recipients"
        text = f"message accepted{some}, {self._taken}"
        return Reply(250, "2.6.0", "\n".join([text, *self._lines]))

    def _end(self, reply: Reply) -> list[Reply]:
        self._state = _State.OVER
        self.final = reply
        return [reply]


def _answer(verdict: ContentVerdict) -> Reply | None:
    """
    What the sender is told of a verdict: marks are the recipient's own affair.
    """
    return verdict.reply if isinstance(verdict, Refuse) else None
