"""
Everything a server says after the data: one reply for the message; or 353, one
reply for each recipient, and a final one; or one 558 that has a reply for each
recipient in it.  Rules without I/O: the caller has the clock, the stages and the
spool.

L{nextReplies} is all of it.  It is a pure function of what is known (the
attributes of a L{Block}) and of how many replies have been said.  What has been
said is never taken back: whatever becomes known later, the replies from the
first one on begin with those that were said.

  - Verdicts come in any order, replies leave in the order of RCPT TO (D-10, P-6).
  - A verdict is a latch.  A recipient's first one counts, whether its stages
    gave it or it was made because they were late (D-25).
  - A positive end waits until the message is durable (D-20, D-23, X-10).

A caller does this, until C{block.over}::

    block.foreseen(replies)            some cannot be delivered, whatever stages say
    block.verdict(index, verdict)      a stage has decided
    block.windowOver()                 a unanimous answer is not waited for any longer
    if block.dilemma:                  resolve it first: block.resolve(resolution)
    replies = block.take()             say these
    if block.needsCommit:              store the message for block.accepted(), then
                                       block.committed(), or block.uncommitted(reply)
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence

import attrs

from deferrals.model.address import Mailbox
from deferrals.model.envelope import Form, Recipient
from deferrals.model.exdata import extendedReply
from deferrals.model.reply import (
    R250_CONTENT,
    R250_RECIPIENT,
    R352_DEFERRED,
    R353_ENUMERATE,
    R450_SOME_TEMPORARY,
    R451_MIXED,
    R550_REFUSED_BY_ALL,
    Reply,
)
from deferrals.model.transaction import Candidate
from deferrals.model.verdict import ACCEPT, NOWHERE, Accept, ContentVerdict, Refuse

__all__ = ["Block", "Candidate", "Resolution", "nextReplies", "repliesFor"]

#: How many refusals one reply for a message tells; and so many characters of each.
MAX_REASONS, MAX_REASON = 20, 200

_ENUMERATING = {Form.DEFERRALS, Form.PRDR}


class Resolution(enum.Enum):
    """
    How a dilemma ends.
    """

    STRICTEST = "one refusal refuses all"
    LATER = "refused for now"
    ACCEPT = "accepted; what becomes of the recipients that refuse is said elsewhere"


class Block:
    """
    The answers to one message: what is known, and how much has been said.

    The attributes are facts.  They only grow, and only by the methods.

    @ivar form: how the sender can be told.
    @ivar candidates: the recipients that the envelope has let in, in the order
        of RCPT TO.
    @ivar listed: the indexes of those that a block enumerates.
    @ivar taken: the text of a positive final reply.
    @ivar reference: what ends each refusal, in parentheses.
    @ivar isWatched: whether a plain sender's reply waits for L{resolve} even where
        its recipients agree: others were sent away, or something is remembered.
    @ivar verdicts: each candidate's; C{None} while it has none.
    @ivar undecided: how many have none.
    @ivar answers: what the verdicts say to the sender, each once: the replies of
        refusals, and C{None} for an acceptance.  Marks are not for the sender.
    @ivar isOverdue: whether the window ended before all verdicts were in.
    @ivar resolution: how a dilemma ended.
    @ivar has: the indexes of those that have the message already.
    @ivar reached: how many have it, from attempts before.
    @ivar isDurable: whether the message is stored for those who accept it.
    @ivar results: replies of recipients whose delivery was tried already (S-6).
    @ivar lines: the same, as lines of a positive final reply.
    @ivar veto: the reply that ends it, where the message as a whole cannot be
        taken (P-9).
    @ivar saidBeforeVeto: how many replies had been said when it came.
    @ivar over: whether the last reply has been taken.
    @ivar final: the reply for the message as a whole, once C{over}.  LMTP has
        no such reply on the wire, and EXDATA none besides a 558.
    """

    def __init__(
        self,
        form: Form,
        candidates: Sequence[Candidate],
        taken: str,
        isWatched: bool = False,
        reference: str = "",
    ) -> None:
        if not candidates:
            raise ValueError("a message without recipients")
        self.form = form
        self.candidates = candidates
        self.listed: Sequence[int] = range(len(candidates))  # P-3; RFC 2033 §4.2
        if form is Form.DEFERRALS:  # D-10
            self.listed = [i for i, one in enumerate(candidates) if isAsked(one)]
        self.taken = taken
        self.reference = reference
        self.isWatched = isWatched
        self.verdicts: list[ContentVerdict | None] = [
            NOWHERE if one.nowhere else None if one.deferred else ACCEPT for one in candidates
        ]
        self.undecided = self.verdicts.count(None)
        isTaken = self.undecided < len(candidates) or len(self.listed) < self.undecided
        self.answers: set[Reply | None] = {None} if isTaken else set()
        self.isOverdue = False
        self.resolution: Resolution | None = None
        self.has: Collection[int] = ()
        self.reached = 0
        self.isDurable = False
        self.results: Mapping[int, Reply] = {}
        self.lines: Sequence[str] = ()
        self.veto: Reply | None = None
        self.saidBeforeVeto = 0
        self.over = False
        self.final: Reply | None = None
        self._said = 0

    # What becomes known.

    def verdict(self, index: int, verdict: ContentVerdict) -> bool:
        """
        A stage has decided.

        @return: whether it counts: C{False} where another one was first.
        @raise TypeError: it is neither L{Accept} nor L{Refuse}.
        """
        answer = None
        if isinstance(verdict, Refuse):
            answer = verdict.reply.forRecipient()  # D-12, P-8
            verdict = verdict if answer is verdict.reply else attrs.evolve(verdict, reply=answer)
        elif not isinstance(verdict, Accept):
            raise TypeError(f"Accept or Refuse, not {verdict!r}")
        if self.verdicts[index] is not None:
            return False
        self.verdicts[index] = verdict
        self.answers.add(answer)
        self.undecided -= 1
        return True

    def foreseen(self, replies: Mapping[int, Reply]) -> None:
        """
        Some recipients' deliveries can never carry this message.  To be called before
        anything else is known.

        A DEFERRALS client that was answered 250 in the envelope reads nothing more
        about that recipient: where the message is taken for another one, it is taken
        for this one, too (D-17), and a notice says the rest.

        @param replies: how they refuse, by index.
        """
        if self.form is Form.DEFERRALS and len(replies) < len(self.candidates):  # D-17
            candidates = self.candidates
            replies = {i: reply for i, reply in replies.items() if candidates[i].deferred}
        for index, reply in replies.items():
            self.verdicts[index] = Refuse(reply.forRecipient(), why="its delivery")  # D-12, P-8
        self.undecided = self.verdicts.count(None)
        known = [verdict for verdict in self.verdicts if verdict is not None]
        known += [ACCEPT for candidate in self.candidates if candidate.isPromised]
        self.answers = {one.reply if isinstance(one, Refuse) else None for one in known}

    def windowOver(self) -> None:
        """
        A unanimous answer is not waited for any longer.
        """
        self.isOverdue = self.isOverdue or self.undecided > 0

    def resolve(self, resolution: Resolution, has: Collection[int] = (), reached: int = 0) -> None:
        """
        End the dilemma.

        @param has: the indexes of those that have this message already, from an
            attempt before: they get no second copy, and their verdicts do not
            count any longer.
        @param reached: how many have it, from attempts before.
        @raise RuntimeError: there is none.
        """
        if not self.dilemma:
            raise RuntimeError("there is no dilemma")
        self.resolution, self.has, self.reached = resolution, has, reached
        self.isDurable = resolution is Resolution.ACCEPT and len(has) == len(self.candidates)

    def committed(
        self, results: Mapping[int, Reply] | None = None, lines: Sequence[str] = ()
    ) -> None:
        """
        The message is durable for those who accept it.

        @param results: what became of it for recipients that accept it, where
            its delivery has been tried already (S-6): their replies under LMTP.
        @param lines: the same, as lines of a positive final reply.
        """
        self.isDurable = True
        self.results, self.lines = results or {}, lines

    def uncommitted(self, reply: Reply) -> None:
        """
        The message as a whole cannot be taken: C{reply} ends it (P-9).
        Recipients that have not been answered yet get it, too.
        """
        self.veto, self.saidBeforeVeto = reply, self._said

    # What follows from it.

    def take(self) -> list[Reply]:
        """
        The replies that can be said now, in order; each is handed out once.

        @raise RuntimeError: there is a dilemma: L{resolve} it first.
        """
        if self.over:
            return []
        if self.dilemma:
            raise RuntimeError("there is a dilemma")
        replies, self.over = nextReplies(self, self._said)
        self._said += len(replies)
        if self.over:
            self.final = finalReply(self) if self.enumerated else replies[-1]
        return replies

    @property
    def isPending(self) -> bool:
        """Whether nothing more can be said, or done, before another verdict is in."""
        return self.undecided > 0 and self.veto is None and not enumerates(self)

    @property
    def enumerated(self) -> bool:
        """Whether each recipient got a reply of its own after the data."""
        return self._said > 1 or (self.over and (self.form is Form.LMTP or extends(self)))

    @property
    def takes(self) -> bool:
        """
        Whether, by what is known, at least one recipient takes the message.
        """
        if self.resolution is not None:
            return self.resolution is Resolution.ACCEPT
        isExact = len(self.answers) == 1 and not self.isWatched
        isExact = isExact or self.form is not Form.PLAIN
        return None in self.answers and isExact

    @property
    def needsCommit(self) -> bool:
        """
        Whether all verdicts are in, at least one recipient accepts, and the
        message has to become durable before the end can be said.
        """
        return (
            not self.undecided
            and not self.isDurable
            and self.veto is None
            and not self.over
            and self.takes
        )

    @property
    def dilemma(self) -> bool:
        """
        Whether all verdicts are in, and no one reply is exact: of a plain sender's
        recipients, some accept and some refuse, or some refuse for good and some
        for now; or it is watched (L{deferrals.model.mixed}).  It waits for
        L{resolve}.
        """
        if self.form is not Form.PLAIN or self.undecided or self.veto is not None:
            return False
        if self.resolution is not None:
            return False
        if self.isWatched or len(self.answers) < 2:
            return self.isWatched
        kinds = {None if answer is None else answer.isTemporary for answer in self.answers}
        return len(kinds) > 1

    def accepted(self) -> list[int]:
        """
        The recipients that take the message: indexes into the candidates.  None
        of them, once the message as a whole cannot be taken.
        """
        if self.veto is not None or not self.takes:
            return []
        found = enumerate(self.verdicts)
        return [i for i, one in found if isinstance(one, Accept) and i not in self.has]

    @property
    def acceptedInTheEnd(self) -> int:
        """
        How many recipients the sender has been told to take the message: those
        that accept it, but for the ones whose delivery has failed before their
        own reply (S-6).
        """
        found = self.accepted()
        if not self.form.takesEach:
            return len(found)
        return sum(i not in self.results or self.results[i].isPositive for i in found)

    def diverted(self) -> list[tuple[int, Reply]]:
        """
        The recipients that refuse a message which is accepted for all: indexes
        into the candidates, each with its reply.
        """
        if self.resolution is not Resolution.ACCEPT or self.veto is not None:
            return []
        return refusers(self)

    def late(self) -> list[int]:
        """
        The recipients whose verdicts are overdue (D-25).  Before the block has
        begun, all that are undecided.  Within it, the next one to be answered,
        and with it the undecided ones of its cohort, whose answer is the same.
        """
        undecided = [i for i, verdict in enumerate(self.verdicts) if verdict is None]
        if not self._said or not undecided:
            return undecided
        due = [i for i in undecided if not self.candidates[i].isPromised] or undecided
        cohort = self.candidates[due[0]].cohort
        return [i for i in undecided if self.candidates[i].cohort == cohort]


def nextReplies(block: Block, said: int) -> tuple[list[Reply], bool]:
    """
    What can be said now.

    @param said: how many replies have been said.
    @return: the replies behind those, and whether the last of them is the last
        reply to this message.
    """
    if block.form is Form.LMTP:
        return _lmtpReplies(block)
    if not enumerates(block):
        only = extendedAnswer(block) if extends(block) else onlyReply(block)
        return ([], False) if only is None else ([only], True)
    replies = [] if said else [R353_ENUMERATE]  # D-7, D-8, P-5
    for position in range(max(said - 1, 0), len(block.listed)):  # D-10, P-3, P-6
        own = ownReply(block, position)
        if own is None:
            return replies, False
        replies.append(own)
    final = finalReply(block)  # D-14, D-22: behind all of them
    return (replies, False) if final is None else ([*replies, final], True)


def enumerates(block: Block) -> bool:
    """
    Whether the answer is a block: the sender can be told one answer for each
    recipient, there are several recipients, and either two answers differ or a
    unanimous answer is not waited for any longer (D-9, P-4).  Where the message
    as a whole cannot be taken, a block that has not begun never does.
    """
    if block.veto is not None and not block.saidBeforeVeto:
        return False
    if len(block.answers) < 2 and not block.isOverdue:  # D-9, P-4
        return False
    if not block.listed:  # aliases that were answered 250 wait for their members
        return False
    return block.form in _ENUMERATING and len(block.candidates) > 1


def isAsked(candidate: Candidate) -> bool:
    """
    Whether the content decides what the sender is told of it.
    """
    return candidate.deferred and not candidate.isPromised


def extends(block: Block) -> bool:
    """
    Whether the one reply is a 558: what is said to two recipients differs (X-9),
    and the message as a whole is not refused.
    """
    if block.form is not Form.EXDATA or block.veto is not None:
        return False
    return len(block.answers) > 1 or not all(reply.isPositive for reply in block.results.values())


def extendedAnswer(block: Block) -> Reply | None:
    """
    One 558 with the own reply of each recipient, all of them at once (X-4, X-5,
    X-6); C{None} while it is not known.  A client that reads one of its lines
    takes that recipient for settled, so it waits until the message is durable
    (X-10).
    """
    if finalReply(block) is None:
        return None
    own = [ownReply(block, position) for position in range(len(block.listed))]
    return extendedReply([reply for reply in own if reply is not None])


def ownReply(block: Block, position: int) -> Reply | None:
    """
    A listed recipient's own reply; C{None} while it is not known (D-13).

    @param position: in C{block.listed}.
    """
    index = block.listed[position]
    verdict = block.verdicts[index]
    if verdict is None and block.veto is None:
        return None
    candidate = block.candidates[index]
    address = str(candidate.recipient)
    if isinstance(verdict, Refuse):
        return _refusal(block, verdict.reply.addressed(address))  # D-13
    # The first reply was 353: the recipients before this one have C{position} of them.
    if block.veto is not None and position + 1 >= block.saidBeforeVeto:
        return _refusal(block, block.veto.forRecipient().addressed(address))  # P-8, P-9
    if index in block.results and block.form.takesEach:
        return _refusal(block, block.results[index].forRecipient().addressed(address))
    if candidate.reply.isPositive and not candidate.deferred:
        return candidate.reply  # P-7
    return R250_CONTENT.addressed(address)


def _refusal(block: Block, reply: Reply) -> Reply:
    """
    A reply as it is said: one that refuses has the reference.
    """
    return reply.referring(block.reference) if reply.code >= 400 else reply


def finalReply(block: Block) -> Reply | None:
    """
    The reply behind a block, about the message as a whole (D-16); C{None} while
    it is not known.
    """
    if block.veto is not None:
        return _refusal(block, block.veto)  # P-9
    if block.undecided:
        return None  # D-22
    if block.takes:
        return positive(block) if block.isDurable else None  # D-17, D-20, D-23
    reply = refusedByAll(refusals(block))  # D-18, D-19
    # D-16: a recipient's own text would reflect that recipient
    reply = reply if block.form.takesEach else attrs.evolve(reply, text=R550_REFUSED_BY_ALL.text)
    return _refusal(block, reply)


def onlyReply(block: Block) -> Reply | None:
    """
    The one reply where there is no block (D-9, P-4; a plain sender); C{None}
    while it is not known.
    """
    if block.veto is not None:
        return _refusal(block, block.veto)  # P-9
    if block.undecided or block.dilemma:
        return None
    if block.resolution is Resolution.LATER:
        return _refusal(block, _reasoned(block, R451_MIXED))
    if block.takes:
        return positive(block) if block.isDurable else None  # D-20, D-23
    reply = refusedByAll(refusals(block))  # D-18, D-19
    return _refusal(block, reply if len(block.answers) == 1 else _reasoned(block, reply))


def lastReplies(block: Block) -> list[Reply]:
    """
    When all is said: the last reply that was about each candidate.  Its own, if
    it had one after the data; the final one, if that was the only one; otherwise
    that to its RCPT TO.
    """
    if not block.enumerated:
        assert block.final is not None
        return [block.final] * len(block.candidates)
    replies = [candidate.reply for candidate in block.candidates]
    for position, index in enumerate(block.listed):
        replies[index] = ownReply(block, position) or replies[index]
    return replies


def positive(block: Block) -> Reply:
    """
    Positive as soon as one recipient accepts, and about the message as a whole
    (D-14, D-16, D-17).
    """
    accepted = len(block.accepted()) + len(block.diverted()) + len(block.has)
    all_ = len(block.candidates)
    some = "" if accepted == all_ else f" for {accepted} of {all_} recipients"
    taken = f", {block.taken}" if block.taken else ""
    # D-16, D-17
    return Reply(250, "2.6.0", "\n".join([f"message accepted{some}{taken}", *block.lines]))


def refusers(block: Block) -> list[tuple[int, Reply]]:
    """
    Who refuses, and how: indexes into the candidates, in the order of RCPT TO.
    """
    found = enumerate(block.verdicts)
    return [(i, one.reply) for i, one in found if isinstance(one, Refuse) and i not in block.has]


def refusals(block: Block) -> list[Reply]:
    """
    How recipients refuse, in the order of RCPT TO.
    """
    return [reply for _, reply in refusers(block)]


def refusedByAll(replies: Sequence[Reply]) -> Reply:
    """
    The one reply for a message that no recipient takes: what all refusals have
    in common (D-18), and 4xx as soon as one of the causes is temporary (D-19).

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


def _reasoned(block: Block, reply: Reply) -> Reply:
    """
    A sender that gets one reply for different verdicts is told each refusal, and
    what became of the message.  Programs show their users the first line only,
    or the last: each line says all of it.
    """
    have = "one recipient has it already" if block.reached == 1 else "no recipient has it"
    if block.reached > 1:
        have = f"{block.reached} recipients have it already"
    if reply.isTemporary:
        have += ", try again" if block.reached else " yet, try again"
    lines, found = [], refusers(block)
    more = len(found) - MAX_REASONS
    if more > 0:
        have = f"{more} more that are not named here refuse it; {have}"
    for index, refusal in found[:MAX_REASONS]:
        how = "for now" if refusal.isTemporary else "for good"
        why = " ".join(refusal.text.split("\n"))[:MAX_REASON]
        lines.append(f"<{block.candidates[index].recipient}> refuses it {how} ({why}); {have}")
    return attrs.evolve(reply, text="\n".join(lines)) if lines else reply


def _lmtpReplies(block: Block) -> tuple[list[Reply], bool]:
    """
    RFC 2033 §4.2: one reply for each recipient.  Each takes or refuses
    responsibility, so all of them wait until the message is durable.
    """
    if finalReply(block) is None:
        return [], False
    own = [ownReply(block, position) for position in range(len(block.listed))]
    return [reply for reply in own if reply is not None], True


def repliesFor(
    form: Form,
    answers: Sequence[tuple[str, Reply | None]],
    *,
    taken: str = "",
    reference: str = "",
    mixed: Resolution = Resolution.LATER,
) -> list[Reply]:
    """
    The whole dialogue after the data, where everything is known and the message
    is durable.

    @param answers: each recipient that the envelope has deferred, in the order
        of RCPT TO: its address without brackets, and the reply with which it
        refuses, or C{None} where it accepts.
    @param taken: the text of a positive final reply.
    @param reference: what ends each refusal, in parentheses.
    @param mixed: what a plain sender gets where its recipients differ.
    @raise ValueError: an address is none, a reply does not refuse, or there is
        no recipient.
    """
    rcpt = R352_DEFERRED if form is Form.DEFERRALS else R250_RECIPIENT
    block = Block(
        form,
        [
            Candidate(Recipient(Mailbox.parse(address)), rcpt.addressed(address), True, number)
            for number, (address, _) in enumerate(answers)
        ],
        taken,
        reference=reference,
    )
    for index, (_, reply) in enumerate(answers):
        block.verdict(index, ACCEPT if reply is None else Refuse(reply))
    if block.dilemma:
        block.resolve(mixed)
    if block.needsCommit:
        block.committed()
    return block.take()
