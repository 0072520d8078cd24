"""
An alias: an address that stands for others, its I{members}, each of which is a
recipient with a policy and a delivery of its own.  The sender named the alias, and
gets one answer for it; this module makes that answer of the members' answers.

  - One that accepts is enough.  Those that refuse meanwhile are filed or dropped,
    and no sender is told: this one was told that the alias takes the message.
  - One that refuses for now delays the alias so often as the alias says; then it
    counts as one that refuses.
  - What is said of a refusal has a member's code, and never its words: they could
    name it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import attrs

from deferrals.model.address import Mailbox
from deferrals.model.envelope import Recipient
from deferrals.model.reply import R451_MEMBERS, R550_MEMBERS, R550_UNKNOWN_RECIPIENT
from deferrals.model.verdict import (
    ACCEPT,
    NOWHERE,
    Accept,
    ContentVerdict,
    Defer,
    EnvelopeVerdict,
    Refuse,
)

#: What becomes of a copy for a member that refuses what the alias has accepted.
Refusers = Literal["file", "drop"]


@attrs.frozen
class Member:
    """
    One of the addresses that an alias stands for.

    @ivar recipient: with its route, if a rule has given it one.
    @ivar verdict: what the envelope says of it.
    @ivar cohort: its cohort, unless it is refused.
    """

    recipient: Recipient
    verdict: EnvelopeVerdict
    cohort: Hashable = None

    @property
    def policy(self) -> str:
        """
        The name of its policy; empty where no rule has given it one.
        """
        if isinstance(self.verdict, Refuse):
            return self.verdict.policy
        return "" if self.recipient.route is None else self.recipient.route.policy

    @property
    def known(self) -> ContentVerdict | None:
        """
        Its answer, where the content does not count; C{None} where it does.
        """
        if isinstance(self.verdict, Defer):
            return None
        if isinstance(self.verdict, Refuse):
            return self.verdict
        return NOWHERE if self.verdict.nowhere else ACCEPT


@attrs.frozen
class Alias:
    """
    An alias that RCPT TO has named, with all that it stands for in the end.

    @ivar refusers: what becomes of the copies of members that refuse.
    @ivar later: so often it is refused for now, because a member refuses for now.
    """

    members: Sequence[Member]
    refusers: Refusers = "file"
    later: int = 3

    @property
    def verdict(self) -> EnvelopeVerdict:
        """
        What RCPT TO is answered.
        """
        if not self.members:
            return Refuse(R550_UNKNOWN_RECIPIENT, why="an alias without members")
        verdicts = [member.verdict for member in self.members]
        for kind in (Accept, Defer):
            if any(isinstance(one, kind) for one in verdicts):
                return kind(why=f"an alias of {len(verdicts)}")
        return refusedByAll([one for one in verdicts if isinstance(one, Refuse)])

    @property
    def isOpen(self) -> bool:
        """
        Whether the answer is not settled before the data: not all of them accept.
        """
        return not all(isinstance(member.verdict, Accept) for member in self.members)

    @property
    def cohort(self) -> Hashable:
        """
        Equal for aliases, and for recipients, whose answer must be the same for any
        message.
        """
        if not self.isOpen:
            return ()
        found = frozenset(_answerKey(member) for member in self.members)
        first = self.members[0]
        if len(found) == 1 and isinstance(first.verdict, Defer):
            return first.cohort
        return found, self.later


def _answerKey(member: Member) -> Hashable:
    """
    What a member's answer depends on.
    """
    if isinstance(member.verdict, Defer):
        return member.cohort
    known = member.known
    return known.reply if isinstance(known, Refuse) else None


def answer(
    members: Sequence[ContentVerdict], later: int, delays: int, isPromised: bool = False
) -> ContentVerdict:
    """
    What is said of an alias after the data.

    @param members: what its members say, at least one.
    @param later: so often it is refused for now, because one of them is.
    @param delays: so often it has been, for this message.
    @param isPromised: whether the sender has been told 250 for it, which stands
        (DEFERRALS).
    """
    refusals = [one for one in members if isinstance(one, Refuse)]
    isTaken = len(refusals) < len(members)
    if isPromised or (isTaken and not (delays < later and isDelaying(members))):
        return ACCEPT
    return refusedByAll(refusals)


def isDelaying(members: Sequence[ContentVerdict]) -> bool:
    """
    Whether some accept, and some refuse for now: then it counts how often it was so
    before.
    """
    refusals = [one for one in members if isinstance(one, Refuse)]
    return len(refusals) < len(members) and any(one.reply.isTemporary for one in refusals)


def refusedByAll(refusals: Sequence[Refuse]) -> Refuse:
    """
    One refusal for an alias: for now as soon as one of them is (D-19), otherwise with
    the first one's code.

    @param refusals: at least one.
    """
    temporary = [one for one in refusals if one.reply.isTemporary]
    chosen = (temporary or refusals)[0]
    reply = chosen.reply.forRecipient()
    code = 550 if reply.code == 551 else reply.code  # a 551 names where else to send it
    said = R451_MEMBERS if temporary else R550_MEMBERS
    said = attrs.evolve(said, code=code, enhanced=reply.enhanced)
    return Refuse(said, why=f"a member: {chosen.reply}")


def memberOf(named: Recipient, address: Mailbox, aliases: tuple[Mailbox, ...]) -> Recipient:
    """
    A member as a recipient: what RFC 3461 §5.2.7 makes of the alias' parameters.

    @param named: the alias, as RCPT TO has named it.
    @param aliases: on the way from that one to this address.
    """
    notify = named.notify
    if notify is not None and "SUCCESS" in notify:
        notify = notify - {"SUCCESS"} or frozenset({"NEVER"})
    orcpt = named.orcpt
    if orcpt is None:
        kind = "rfc822" if str(named).isascii() else "utf-8"
        orcpt = f"{kind};{named}"
    return Recipient(address, notify, orcpt, None, aliases)
