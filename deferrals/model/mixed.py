"""
How the recipients of one message are brought apart, where its sender can be told
only one thing in a transaction and they differ.  Pure functions; time is an
argument; what is remembered is handed in and out.

The rule in one sentence: whatever is remembered only decides I{who comes
together}; the reply is made of the verdicts on the data in hand.  So an error of
the memory costs attempts, never an answer.

B{What is remembered.}  Nothing of mail whose recipients agree.  Otherwise a
L{Record} for each message, under the I{group} of its sender
(L{deferrals.model.mixedgroup}); in it, for each recipient, a L{State}.

B{At RCPT} (L{led}, L{letsIn}).  One kind of recipients takes part in a transaction: it
I{leads}.  The others of the record are sent away (452), and come again:

====================  ======  =====================================================
state                 rank
====================  ======  =====================================================
ACCEPTS               1       or has not been asked; with C{split}: one cohort of them
OWED                  1       has it, and is brought with others that refuse
REFUSES               2       5 where a refusal would be taken for that of all
AGAIN                 3       has what looks the same, and is brought with others
LATER                 4       refuses for now
SERVED, SETTLED, TOLD any     has its answer: let in beside any other
not in the record     any     with C{split}: 1
====================  ======  =====================================================

The lowest rank leads of those that are named, or that are still to be named: where
RCPTs come one by one, the first must be answered before the others are seen.
A kind that was sent away in vain goes first the next time (C{waited}).

No record is used, and all are let in, where none of several kinds knows all that
are named, with about that SIZE; and where the sender is proved to make one thing
of the message.

B{After the data} (L{conclude}, L{learn}):

=====================  ================================  ===========================
verdicts               reply                             learnt
=====================  ================================  ===========================
all accept             250                               SERVED; SETTLED, if OWED
all refuse for now     4xx                               LATER
all refuse for good    5xx                               TOLD
the same, but it would be taken for the refusal of some
that were sent away    451                               REFUSES
the same, beside SERVED
or OWED                451                               REFUSES, LATER; OWED
they differ            451, that names who refuses       ACCEPTS, REFUSES, LATER
the same, one thing    5xx; 4xx with a LATER among them
the same, too often    250, the refusers filed or told   SERVED, TOLD
=====================  ================================  ===========================

I{It would be taken for the refusal of some that were sent away}: they may accept
this message; or the client is one of those (Exim without PRDR) that take a refusal
for that of all which they named.

I{Beside SERVED or OWED}: the 250 may have been lost.  So who has the message is told
it once more, apart from those that refuse it; a client that brings it even then
(SETTLED) brings all again at each call, and needs an end.

B{Without data} (L{gaveUp}): some were let in and some sent away, and the client
then gives up: it makes one thing of this message, and from now on all are let in.
A lost connection looks the same, so a close counts half.
"""

from __future__ import annotations

import enum
import hashlib
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence

import attrs

from deferrals.model.mixedgroup import Group
from deferrals.model.mixedrecord import (
    HAVE,
    NOTHING,
    PROOF,
    SPLITS,
    UNSURE,
    Fingerprint,
    Record,
    State,
)

#: How many records a group has.
RECORDS = 8

#: How many recipients a record has.
MEMBERS = 2000

#: MAIL's SIZE may differ by so many octets: trace fields of other hosts.
SIZE_OCTETS = 256

#: From so many addresses on, a record of an unproved sender is its network's.
ADDRESSES = 3


class Mixed(enum.Enum):
    """
    What a plain sender gets when its recipients differ: a listener's choice.
    """

    SPLIT = "split"
    RETRY = "retry"
    NOTIFY = "notify"
    FILE = "file"
    STRICTEST = "strictest"


_RANKS = {State.ACCEPTS: 1, State.OWED: 1, State.REFUSES: 2, State.AGAIN: 3, State.LATER: 4}
_LAST = 5


@attrs.frozen
class Rules:
    """
    What of a listener's choice matters here.

    @ivar split: whether cohorts come apart before it is known that they differ.
    @ivar retryLimit: how many 451s there are before C{diverts}.
    @ivar diverts: whether refusers are then filed, or told by a DSN.
    """

    split: bool = False
    retryLimit: int = 2
    diverts: bool = False

    @classmethod
    def of(cls, choice: Mixed, fallback: Mixed, retryLimit: int) -> Rules | None:
        """
        @param fallback: what follows when a message was refused for now
            C{retryLimit} times.
        @return: C{None} where one refusal refuses all: nothing is brought apart.
        """
        if choice is Mixed.STRICTEST:
            return None
        diverting = (Mixed.NOTIFY, Mixed.FILE)
        if choice in diverting:
            return cls(retryLimit=0, diverts=True)
        return cls(choice is Mixed.SPLIT, retryLimit, fallback in diverting)

    @property
    def together(self) -> bool:
        """Whether refusers never come apart from those that accept."""
        return self.diverts and not self.retryLimit


@attrs.frozen
class Plan:
    """
    How the RCPTs of one transaction are answered.

    @ivar records: of its group.
    @ivar group: C{None} while it is not known, and there are no records.
    @ivar size: as MAIL declares it.
    @ivar forAll: whether the client behaves as one that takes a refusal for that
        of all it names: BDAT comes together with the RCPTs, or one that was sent
        away comes in the next transaction of the connection.
    @ivar lot: any number, another one for each transaction.
    @ivar used: the record in use; empty for none, C{None} before the first RCPT.
    @ivar lead: the rank that leads; C{None} while none does.
    @ivar cohort: with C{split}, the cohort that does.
    """

    rules: Rules
    group: Group | None = None
    records: Mapping[str, Record] = {}
    size: int | None = None
    forAll: bool = False
    lot: int = 0
    used: str | None = None
    lead: int | None = None
    cohort: Hashable = None

    @property
    def record(self) -> Record:
        """The one in use."""
        return self.records.get(self.used or "", NOTHING)

    @property
    def address(self) -> str:
        """The client's, where nothing is proved."""
        return "" if self.group is None else self.group.address

    @property
    def isIdle(self) -> bool:
        """Whether all are let in, whoever is named: as nearly always."""
        return not (self.records or self.rules.split)

    @property
    def isUnled(self) -> bool:
        """
        Whether what is named next may lead: then recipients that come in one
        piece are to be named together.
        """
        if self.rules.split and self.lead == 1:
            return self.cohort is None
        return self.lead is None and bool(self.records or self.rules.split)

    def rank(self, record: Record, key: str) -> int | None:
        """
        @return: C{None} for a recipient that has its answer.
        """
        state = record.states.get(key, State.ACCEPTS)
        if state is State.REFUSES:
            if self.rules.together:
                return _RANKS[State.ACCEPTS]
            if self.forAll or record.forAll:
                return _LAST
        return _RANKS.get(state)


def led(plan: Plan, piece: Sequence[tuple[str, Hashable]]) -> Plan:
    """
    Recipients are named; several where their RCPTs came in one piece.  The first
    ones decide what leads.

    @param piece: their keys, each with its cohort, in RCPT order.
    """
    if not (piece and plan.isUnled):
        return plan
    if plan.used is None:
        plan = attrs.evolve(plan, used=_recognised(plan, [key for key, _ in piece]))
    ranks = {key: plan.rank(plan.record, key) for key, _ in piece}
    named = [rank for rank in ranks.values() if rank is not None]
    if plan.lead is None and named:
        plan = attrs.evolve(plan, lead=_lead(plan, ranks, min(named)))
    if plan.rules.split and plan.cohort is None and plan.lead == 1:
        cohorts = [cohort for key, cohort in piece if ranks[key] == 1]
        if cohorts:
            plan = attrs.evolve(plan, cohort=Counter(cohorts).most_common(1)[0][0])
    return plan


def letsIn(plan: Plan, key: str, cohort: Hashable) -> bool:
    """
    Whether a recipient takes part in the transaction: 250 or 452.

    @param plan: see L{led}.
    """
    record = plan.record
    if record is NOTHING and not plan.rules.split:
        return True  # as nearly always
    rank = plan.rank(record, key)
    if record.isOneThing or rank is None:
        return True
    return rank == plan.lead and (rank != 1 or not plan.rules.split or cohort == plan.cohort)


def _recognised(plan: Plan, keys: Sequence[str]) -> str:
    """
    Which message may be coming; of several, by lot: so each is found in the end.
    """
    fitting = [key for key, record in plan.records.items() if _fits(plan, record, keys)]
    return sorted(fitting)[plan.lot % len(fitting)] if fitting else ""


def _fits(plan: Plan, record: Record, keys: Sequence[str]) -> bool:
    if record.wrong >= max(1, min(record.later, RECORDS)):
        return False
    if not (_near(plan.size, record.size) and _isBrought(plan, record)):
        return False
    ranks = {plan.rank(record, key) for key in record.states} - {None}
    matters = len(ranks) > 1 or record.gaveUp or plan.rules.split
    return bool(matters) and all(key in record.states for key in keys)


def _near(one: int | None, other: int | None) -> bool:
    if one is None or other is None:
        return one is other  # a program declares it always, or never
    return abs(one - other) <= SIZE_OCTETS


def _isBrought(plan: Plan, record: Record) -> bool:
    """
    Whether this client may be the one that brings it.
    """
    addresses = record.addresses
    return not plan.address or plan.address in addresses or len(addresses) >= ADDRESSES


def _lead(plan: Plan, named: Mapping[str, int | None], first: int) -> int:
    """
    @param first: the lowest rank of those that are named.
    @return: the lowest rank of those and of all that are still to be named; but
        what has waited longer than they goes before them.
    """
    record = plan.record
    waits: dict[int, int] = {}
    for key in [*record.states, *named]:
        rank = plan.rank(record, key)
        if rank is not None and rank <= first:
            waits[rank] = max(waits.get(rank, 0), record.waited.get(key, 0))
    return max(waits, key=lambda rank: (waits[rank], -rank))


class MixedReply(enum.Enum):
    """
    What the client is told after the data.
    """

    TAKEN = "accepted"
    REFUSED = "refused: for good, if all refusals are; for now otherwise"
    LATER = "refused for now: it is to come again, and each gets its own answer"


@attrs.frozen
class Conclusion:
    """
    @ivar reply: to the data.
    @ivar served: who gets a copy.
    @ivar diverted: who refuses, and is filed or told by a DSN.
    @ivar has: who of those that were let in has this very message already.
    @ivar reached: how many have it, or what looks the same, from attempts before.
    """

    reply: MixedReply
    served: Sequence[str] = ()
    diverted: Sequence[str] = ()
    has: Sequence[str] = ()
    reached: int = 0


def conclude(
    plan: Plan, message: Fingerprint, verdicts: Mapping[str, State], away: Collection[str]
) -> Conclusion:
    """
    The data has been judged.

    @param plan: its records are as they are now.
    @param verdicts: of those that were let in: ACCEPTS, REFUSES or LATER.
    @param away: who was sent away.
    """
    _, record = _own(plan, message, verdicts)
    has = _has(record, message)
    asked = {key: verdict for key, verdict in verdicts.items() if key not in has}
    had = [key for key in verdicts if key in has]
    reply = _reply(plan, message, record, asked, had, away)
    reached = sum(state in (*HAVE, State.AGAIN) for state in record.states.values())
    if reply is not MixedReply.TAKEN:
        return Conclusion(reply, has=had, reached=reached)
    served = [key for key, verdict in asked.items() if verdict is State.ACCEPTS]
    diverted = [key for key, verdict in asked.items() if verdict is not State.ACCEPTS]
    return Conclusion(reply, served, diverted, had, reached)


#: What is remembered now, by record; C{None}: it is forgotten.
Changes = Mapping[str, "Record | None"]


def learn(
    plan: Plan,
    message: Fingerprint,
    verdicts: Mapping[str, State],
    away: Collection[str],
    reply: MixedReply,
    now: float,
) -> Changes:
    """
    What is to be remembered of it: before the client reads C{reply}, where it is
    to come again; once it was said, where it is not.  The other arguments are
    those of L{conclude}.

    @param now: in seconds since the epoch.
    """
    name, record = _own(plan, message, verdicts)
    has = _has(record, message)
    asked = {key: verdict for key, verdict in verdicts.items() if key not in has}
    changes: dict[str, Record | None] = {}
    used = plan.record
    if used is not NOTHING and plan.used != name and (away or used.gaveUp > 0):
        changes[plan.used or ""] = attrs.evolve(used, wrong=used.wrong + bool(away), gaveUp=0)
    if away or record is not NOTHING or reply is MixedReply.LATER:
        had = verdicts.keys() & has
        learnt = _learnt(plan, message, record, reply, asked, had, away)
        changes[name] = attrs.evolve(learnt, began=record.began or now, seen=now)
        changes.update(_surplus(plan.records, changes, now))
    return changes


def _own(plan: Plan, message: Fingerprint, keys: Mapping[str, State]) -> tuple[str, Record]:
    """
    The record of this message, by its ident; else by its body, since some make a
    new Message-ID at each call; or the one in use, which had no data yet.

    @return: its name, and C{NOTHING} where there is none.
    """
    records = plan.records
    for name, record in records.items():
        if message.ident and record.ident == message.ident and record.digest == message.digest:
            return name, record
    for name, record in records.items():
        looksSame = record.digest == message.digest and _near(plan.size, record.size)
        isCommon = not keys.keys().isdisjoint(record.states)
        if looksSame and isCommon and _isBrought(plan, record):
            return name, record
    if plan.record is not NOTHING and not plan.record.digest:
        return plan.used or "", plan.record
    return _name(message.ident, message.digest, plan.address), NOTHING


def _name(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _has(record: Record, message: Fingerprint) -> set[str]:
    """
    Who has this very message; to look the same is not enough.
    """
    if not message.ident or record.ident != message.ident:
        return set()
    return {key for key, state in record.states.items() if state in HAVE}


def _reply(
    plan: Plan,
    message: Fingerprint,
    record: Record,
    verdicts: Mapping[str, State],
    had: Collection[str],
    away: Collection[str],
) -> MixedReply:
    kinds = set(verdicts.values())
    unsure = any(record.states[key] in UNSURE for key in had)
    if kinds <= {State.ACCEPTS}:
        return MixedReply.TAKEN
    if kinds == {State.REFUSES} and away:
        mayAccept = any(record.states.get(key, State.ACCEPTS) is State.ACCEPTS for key in away)
        forAll = plan.forAll or record.forAll or message.forAll
        return MixedReply.LATER if mayAccept or forAll or unsure else MixedReply.REFUSED
    if (len(kinds) == 1 and not unsure) or (record.isOneThing and not away):
        return MixedReply.REFUSED
    if plan.rules.diverts and record.later >= plan.rules.retryLimit and State.LATER not in kinds:
        return MixedReply.TAKEN
    return MixedReply.LATER


def _learnt(
    plan: Plan,
    message: Fingerprint,
    record: Record,
    reply: MixedReply,
    verdicts: Mapping[str, State],
    had: Collection[str],
    away: Collection[str],
) -> Record:
    """
    What is known of the message now.
    """
    states = dict(record.states)
    if record.ident != message.ident:  # what they have or were told was another's
        final = (*HAVE, State.TOLD)
        states = {key: state for key, state in states.items() if state not in final}
    for key in away:
        states.setdefault(key, State.ACCEPTS)
    for key, verdict in verdicts.items():
        states[key] = _state(record.states.get(key), verdict, reply)
    for key in had:
        if reply is MixedReply.LATER:
            states[key] = State.OWED if states[key] in UNSURE else State.SETTLED
        elif states[key] is State.OWED:
            states[key] = State.SETTLED
    if len(states) > MEMBERS:
        states = dict(list(states.items())[-MEMBERS:])
    forAll = record.forAll or plan.forAll or message.forAll
    address = plan.address
    addresses = dict.fromkeys([*record.addresses, *([address] if address else [])])
    return attrs.evolve(
        record,
        states=states,
        waited=_waited(plan, record, away) if plan.record is record else record.waited,
        ident=message.ident,
        digest=message.digest,
        size=plan.size,
        gaveUp=SPLITS if away or forAll else record.gaveUp,
        later=record.later + (reply is MixedReply.LATER),
        forAll=forAll,
        wrong=0,
        addresses=tuple(addresses)[:ADDRESSES],
    )


def _state(before: State | None, verdict: State, reply: MixedReply) -> State:
    if verdict is State.LATER:
        return verdict
    if verdict is State.REFUSES:
        return State.REFUSES if reply is MixedReply.LATER else State.TOLD
    if reply is MixedReply.TAKEN:
        return State.SERVED
    return State.AGAIN if before in (*HAVE, State.AGAIN) else State.ACCEPTS


def _waited(plan: Plan, record: Record, away: Collection[str]) -> dict[str, int]:
    """
    Who was sent away in vain: for the sake of a higher rank.  For the others
    it was right to wait, or they have been let in.
    """
    lead, sentAway = plan.lead or 0, frozenset(away)
    return {
        key: record.waited.get(key, 0) + (key in sentAway)
        for key in {*record.waited, *away}
        if (plan.rank(record, key) or _LAST) < lead
    }


class End(enum.Enum):
    """
    How a client leaves a transaction without data.
    """

    RSET = "rset"
    QUIT = "quit"
    CLOSE = "close"


def gaveUp(
    plan: Plan, letIn: Collection[str], away: Collection[str], end: End, now: float
) -> Changes:
    """
    The client ended the transaction where data was due.  Not to be asked where
    it was the server that ended it.

    @param now: in seconds since the epoch.
    """
    if not away:
        return {}
    record, address = plan.record, plan.address
    name = plan.used or _name(*sorted([*letIn, *away]), address)
    if record is NOTHING:
        states = dict.fromkeys([*letIn, *away], State.ACCEPTS)
        record = Record(states, size=plan.size, addresses=(address,) if address else (), began=now)
    if record.gaveUp < 0 or not record.states.keys() >= {*letIn, *away}:
        record = attrs.evolve(record, wrong=record.wrong + 1)
    elif letIn:
        gaveUp = record.gaveUp + (1 if end is End.CLOSE else PROOF)
        record = attrs.evolve(record, gaveUp=gaveUp)
    else:
        waited = {key: record.waited.get(key, 0) + 1 for key in away}
        record = attrs.evolve(record, waited={**record.waited, **waited})
    changes = {name: attrs.evolve(record, seen=now)}
    return {**changes, **_surplus(plan.records, changes, now)}


def _surplus(
    records: Mapping[str, Record], changes: Mapping[str, Record | None], now: float
) -> dict[str, None]:
    """
    What is forgotten where there are too many: the oldest of the address that
    has most, but nothing that has just come.  What was seen in the future is the
    oldest: the clock was wrong.
    """
    found = {name: record for name, record in {**records, **changes}.items() if record}
    if len(found) <= RECORDS:
        return {}
    owners = [record.addresses[:1] for record in found.values()]
    before = {name: record for name, record in found.items() if name not in changes}

    def place(name: str) -> tuple[int, bool, float, str]:
        record = before[name]
        return -owners.count(record.addresses[:1]), record.seen <= now, record.seen, name

    return {min(before, key=place): None}
