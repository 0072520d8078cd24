"""
One message on its way in: from MAIL FROM to the end of the data.

A transaction goes through the phases below.  Which command may come when is
one table; everything that is decided before the data about a recipient is in
L{Transaction.admit}.  What comes after the data is L{deferrals.model.block}.

::

    START --EHLO--> READY --MAIL--> SENDER --RCPT 2xx/352--> RECIPIENTS --DATA--> (block)
                      ^                                        |  BDAT
                      +---------------- RSET, end -------------+--> CHUNKS --LAST--> (block)
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Hashable, Iterator, Sequence

import attrs

from deferrals.model.alias import Alias, Member
from deferrals.model.envelope import Envelope, Form, Recipient
from deferrals.model.mixed import Plan, led, letsIn
from deferrals.model.reply import (
    R250_RECIPIENT,
    R352_DEFERRED,
    R452_OTHER_COHORT,
    R452_OTHERS_FIRST,
    R452_TOO_MANY_RECIPIENTS,
    R503_HELO_FIRST,
    R503_NO_RECIPIENT,
    R503_SEQUENCE,
    Reply,
)
from deferrals.model.verdict import Accept, Defer, EnvelopeVerdict, Refuse


class Phase(enum.Enum):
    """
    Where a session stands.
    """

    START = "no greeting yet"
    READY = "no transaction"
    SENDER = "a sender, no recipient"
    RECIPIENTS = "recipients"
    CHUNKS = "between chunks"


_ALLOWED = {
    "MAIL": (Phase.READY,),
    "RCPT": (Phase.RECIPIENTS, Phase.SENDER),
    "DATA": (Phase.RECIPIENTS,),
    "BDAT": (Phase.RECIPIENTS, Phase.CHUNKS),
    "AUTH": (Phase.READY,),
    "STARTTLS": (Phase.READY,),
}


def outOfSequence(verb: str, phase: Phase) -> Reply | None:
    """
    The 503 that C{verb} gets in this phase, or C{None} where it may come.
    Verbs that are not in the table may always come.
    """
    allowed = _ALLOWED.get(verb)
    if allowed is None or phase in allowed:
        return None
    if phase is Phase.START:
        return R503_HELO_FIRST
    if phase is Phase.SENDER and verb in ("DATA", "BDAT"):
        return R503_NO_RECIPIENT
    return R503_SEQUENCE


@attrs.frozen(eq=False)
class Candidate:
    """
    A recipient that the envelope has let in: one for each RCPT TO that was
    answered 2xx or 352.  The same address given twice is two of them.

    @ivar recipient: with its route.
    @ivar reply: what its RCPT TO was answered.
    @ivar deferred: whether the content decides.
    @ivar cohort: equal for recipients whose answer must be the same for any
        message.
    @ivar alias: what it stands for, where it is an alias.
    @ivar isPromised: whether the 250 to its RCPT TO was the sender's answer for it,
        although the content decides who of its members gets the message.
    @ivar nowhere: whether the message is thrown away for it, whatever the content says.
    """

    recipient: Recipient
    reply: Reply
    deferred: bool
    cohort: Hashable
    alias: Alias | None = None
    isPromised: bool = False
    nowhere: bool = False


class Transaction:
    """
    The state of one transaction before its data has ended.

    @ivar envelope: what MAIL FROM said.
    @ivar began: when, by the clock of timers, which is never set.
    @ivar form: how its sender can be told one answer per recipient.
    @ivar candidates: the recipients that are in, in RCPT order.
    @ivar answers: the recipients that RCPT TO was answered for, each with that
        reply; of refused ones, not more than there may be recipients.
    @ivar sentAway: keys of the recipients that got 452, to bring them apart
        from the others (L{deferrals.model.mixed}).  Not more of them than there
        may be recipients.
    @ivar plan: how recipients come apart; C{None} where they do not.
    @ivar hasAliases: whether one of the candidates is an alias.
    @ivar expanded: so many members its aliases had in all, let in or not.
    @ivar isToldFull: whether the log has it that there were too many recipients.
    @ivar messageId: its message's, once the data is there.
    @ivar sentAwayBefore: C{sentAway} of the transaction before, if it went on to
        its data on the same connection.
    """

    def __init__(self, envelope: Envelope, form: Form, maxRecipients: int, began: float) -> None:
        self.envelope = envelope
        self.began = began
        self.form = form
        self.isToldFull = False
        self.hasAliases = False
        self.expanded = 0
        self.candidates: list[Candidate] = []
        self.answers: list[tuple[Recipient, Reply]] = []
        self.sentAway: list[str] = []
        self.plan: Plan | None = None
        self.messageId = ""
        self.sentAwayBefore: Collection[str] = ()
        self._cohorts: dict[Hashable, int] = {}
        self._maxRecipients = maxRecipients

    @property
    def isUnled(self) -> bool:
        """
        Whether recipients that come in one piece are to be judged together, and
        then named by L{lead}.
        """
        return self.plan is not None and self.plan.isUnled

    @property
    def isFull(self) -> bool:
        """
        Whether no further recipient is let in: none needs to be asked about.
        """
        return len(self.candidates) >= self._maxRecipients

    def lead(self, piece: Sequence[tuple[Recipient, Hashable]]) -> None:
        """
        These recipients are let in by the envelope, and came in one piece.

        @param piece: each with its cohort, in RCPT order.
        """
        if self.plan is None:
            return
        named = [(one.address.key, cohort) for one, cohort in piece]
        if any(key in self.sentAwayBefore for key, _ in named):
            self.takesRefusalForAll()
        self.plan = led(self.plan, named)

    def takesRefusalForAll(self) -> None:
        """
        The client behaves as one that takes a refusal of the message for that
        of every recipient which it named.
        """
        if self.plan is not None:
            self.plan = attrs.evolve(self.plan, forAll=True)

    @property
    def letIn(self) -> Collection[str]:
        """
        The keys of the candidates.
        """
        return dict.fromkeys(one.recipient.address.key for one in self.candidates)

    def admit(
        self,
        recipient: Recipient,
        verdict: EnvelopeVerdict,
        cohort: Hashable,
        alias: Alias | None = None,
    ) -> Reply:
        """
        Apply the envelope's verdict on the next recipient, in RCPT order.

        @param recipient: with its route, unless it is refused.
        @param cohort: its cohort; meaningless for a refused one.
        @param alias: what it stands for, where it is an alias.
        @return: the reply to its RCPT TO (D-4, D-5, P-3).
        """
        reply = self._admit(recipient, verdict, cohort, alias)
        if reply.code >= 400:
            reply = reply.referring(self.envelope.reference)
        refused = len(self.answers) - len(self.candidates)
        if reply.code < 400 or refused < self._maxRecipients:
            self.answers.append((recipient, reply))
        return reply

    def _admit(
        self,
        recipient: Recipient,
        verdict: EnvelopeVerdict,
        cohort: Hashable,
        alias: Alias | None,
    ) -> Reply:
        if self.isFull:
            return R452_TOO_MANY_RECIPIENTS
        if isinstance(verdict, Refuse):
            return verdict.reply.forRecipient().addressed(str(recipient))
        if self.plan is not None and (self.sentAwayBefore or not self.plan.isIdle):
            self.lead([(recipient, cohort)])
            key = recipient.address.key
            if not letsIn(self.plan, key, cohort):
                isKnown = key in self.plan.record.states
                return self._sendAway(
                    recipient, R452_OTHERS_FIRST if isKnown else R452_OTHER_COHORT
                )
        deferred = isinstance(verdict, Defer)  # S-1
        # D-4, D-5, P-3
        reply = R352_DEFERRED if deferred and self.form is Form.DEFERRALS else R250_RECIPIENT
        reply = reply.addressed(str(recipient))
        if alias is None:
            nowhere = isinstance(verdict, Accept) and verdict.nowhere
            one = Candidate(recipient, reply, deferred, cohort, nowhere=nowhere)
            self.candidates.append(one)
        else:
            self.hasAliases = True
            isPromised = alias.isOpen and not deferred and self.form is Form.DEFERRALS
            one = Candidate(recipient, reply, alias.isOpen, cohort, alias, isPromised)
            self.candidates.append(one)
        return reply

    def members(self) -> Iterator[tuple[int, int, Member]]:
        """
        All members of all aliases, each with the index of the alias and its own number
        there.
        """
        for index, candidate in enumerate(self.candidates if self.hasAliases else ()):
            if candidate.alias is not None:
                for number, member in enumerate(candidate.alias.members):
                    yield index, number, member

    def answersWith(self, replies: Sequence[Reply]) -> list[tuple[Recipient, Reply]]:
        """
        C{answers}, where the candidates have got other replies since.

        @param replies: one for each candidate, in their order.
        """
        found, following = [], iter(zip(self.candidates, replies, strict=True))
        for recipient, reply in self.answers:
            if reply.code < 400:
                candidate, reply = next(following)
                recipient = candidate.recipient
            found.append((recipient, reply))
        return found

    def _sendAway(self, recipient: Recipient, reply: Reply) -> Reply:
        if len(self.sentAway) < self._maxRecipients:
            self.sentAway.append(recipient.address.key)
        return reply.addressed(str(recipient))

    def cohortName(self, index: int) -> str:
        """
        A short name of a candidate's cohort within this transaction, for the
        log: its policy, and a number that its members have in common.  An alias has
        its members' policies, and is called one.
        """
        candidate = self.candidates[index]
        if candidate.alias is not None:
            return self._numbered("alias", candidate.cohort)
        return self.nameOf(candidate.recipient, candidate.cohort)

    def nameOf(self, recipient: Recipient, cohort: Hashable) -> str:
        """
        The same of a recipient that is no alias, and its cohort.
        """
        return self._numbered("" if recipient.route is None else recipient.route.policy, cohort)

    def _numbered(self, name: str, cohort: Hashable) -> str:
        return f"{name}/{self._cohorts.setdefault(cohort, len(self._cohorts) + 1)}"
