"""
The mixed rung: exact answers for senders that can be told only one thing per
transaction, although their recipients differ.  Pure rules; time is an argument.

What may happen to such a message is a listener's choice (L{Mixed}).  Two of the
choices, I{split} and I{retry}, bring the recipients apart by answering some of
them for now; L{Memory} is what is remembered of a message meanwhile, so that
each recipient gets its own answer in the end, and nothing goes on for ever.

A fact about senders decides much here.  Some (Exim without PRDR) take a refusal
of the message for that of every recipient which they named in the transaction,
those included that were told 452 to come again.  So a transaction from which
recipients were sent away is never refused for good.  It is refused for now, and
what was learnt is remembered.  The recipients that refuse get their answer when
no other recipient of the message is pending.
"""

from __future__ import annotations

import enum
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs

from deferrals.model.address import Mailbox

#: How long a message is remembered, in seconds.
LIFETIME_SECONDS = 6 * 3600.0

#: How many messages are remembered.
CAPACITY = 10000

#: How many recipients they may have together.
MEMBERS = 100000

#: How many messages from one sender to one recipient are found again.
MAX_FOUND = 20

_BATV = re.compile(r"prvs=[0-9a-z]{6,20}=(.+)", re.I)
_SRS0 = re.compile(r"srs0[=+-][^=]+=[^=]+=([^=]+)=(.+)", re.I)
_SRS1 = re.compile(r"srs1[=+-][^=]+=([^=]+)==[^=]+=[^=]+=([^=]+)=(.+)", re.I)
_VERP = re.compile(r"[+-][^+]*=[^=]+$")
_NUMBERS = re.compile(r"[0-9a-f]*[0-9]{3,}[0-9a-f]*", re.I)


class Mixed(enum.Enum):
    """
    What a plain sender gets when its recipients differ: a listener's choice
    (the design's section on the mixed rung).
    """

    SPLIT = "split"
    RETRY = "retry"
    NOTIFY = "notify"
    FILE = "file"
    STRICTEST = "strictest"


def stableSender(sender: Mailbox | None) -> str:
    """
    What a return path has in common with itself at the next attempt, although
    the sender signs it (BATV), rewrites it (SRS) or marks it (VERP) anew.

    @return: empty for the null path.
    """
    if sender is None:
        return ""
    local, domain = sender.local, sender.domain
    batv = _BATV.fullmatch(local)
    if batv is not None:
        local = batv[1]
    srs = _SRS0.fullmatch(local) or _SRS1.fullmatch(local)
    if srs is not None:
        domain, local = srs[srs.lastindex - 1 if srs.lastindex else 1], srs[srs.lastindex or 2]
    local = _NUMBERS.sub("0", _VERP.sub("", local))
    return f"{local}@{domain}".casefold()


class State(enum.Enum):
    """
    What is known of one recipient of a remembered message.
    """

    UNKNOWN = "sent away before its content was judged"
    ACCEPTS = "would take it"
    REFUSES = "would not take it"


@attrs.define
class Remembered:
    """
    A message that was refused for now, to bring its recipients apart.

    @ivar sender: see L{stableSender}.
    @ivar members: the recipients that have no final answer yet.
    @ivar created: when it came first, in seconds since the epoch.
    @ivar expires: when it is forgotten.
    @ivar times: how often it was refused for now; parts of it, for other
        recipients, are not counted by themselves.
    @ivar stuck: how often of these nothing was learnt.
    @ivar alone: how often recipients were told to wait for others, and none of
        these was named.
    """

    sender: str
    members: dict[str, State]
    created: float
    expires: float
    times: int = 0
    stuck: int = 0
    alone: int = 0

    def toJSON(self) -> dict[str, Any]:
        """
        What L{fromJSON} reads back.
        """
        members = {key: state.name for key, state in self.members.items()}
        return {**attrs.asdict(self, recurse=False), "members": members}

    @classmethod
    def fromJSON(cls, data: Mapping[str, Any]) -> Remembered:
        """
        The inverse of L{toJSON}.
        """
        members = {key: State[name] for key, name in data["members"].items()}
        return cls(**{**data, "members": members})

    @property
    def pending(self) -> bool:
        """
        Whether a recipient is left that may still take the message.
        """
        return any(state is not State.REFUSES for state in self.members.values())


class Memory:
    """
    What is remembered, by the message's fingerprint; found again at RCPT TO by
    sender and recipient, since the message is not known yet there.

    @param save: called with a fingerprint and what is remembered under it now,
        or C{None} when that is forgotten.
    """

    def __init__(
        self,
        save: Callable[[str, Remembered | None], None] = lambda fingerprint, remembered: None,
        capacity: int = CAPACITY,
        lifetimeSeconds: float = LIFETIME_SECONDS,
        members: int = MEMBERS,
    ) -> None:
        self._save = save
        self._capacity = capacity
        self._lifetimeSeconds = lifetimeSeconds
        self._maxMembers = members
        self._members = 0
        self._messages: OrderedDict[str, Remembered] = OrderedDict()
        self._fingerprints: dict[tuple[str, str], list[str]] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def load(self, fingerprint: str, remembered: Remembered) -> None:
        """
        Put back what was saved, unless more has been learnt since.
        """
        if fingerprint not in self._messages:
            self._link(fingerprint, remembered)

    def _link(self, fingerprint: str, remembered: Remembered) -> None:
        self._messages[fingerprint] = remembered
        self._members += len(remembered.members)
        for key in remembered.members:
            found = self._fingerprints.setdefault((remembered.sender, key), [])
            if len(found) < MAX_FOUND:
                found.append(fingerprint)

    def find(self, sender: str, key: str, now: float) -> list[str]:
        """
        The fingerprints of messages from this sender in which this recipient
        has no final answer yet.
        """
        found = self._fingerprints.get((sender, key))
        if not found:
            return []
        for fingerprint in [f for f in found if self._messages[f].expires <= now]:
            self._forget(fingerprint)
        return list(self._fingerprints.get((sender, key), ()))

    def holds(self, fingerprint: str, key: str) -> bool:
        """
        Whether this recipient has to wait: it would refuse, and others of this
        message may still take it.
        """
        remembered = self._messages[fingerprint]
        return remembered.members.get(key) is State.REFUSES and remembered.pending

    def waits(self, found: Sequence[str], key: str, waiting: dict[str, bool], limit: int) -> bool:
        """
        A recipient is named in a transaction: whether it has to wait for
        others.

        Whether a remembered message comes is not known yet.  It may be another
        one from the same sender.  The remembered one may have come from a
        stranger who has used that sender's name.  The other recipients may
        never be named again.  So a recipient that is named without the others
        waits C{limit} times only, whatever more is remembered meanwhile.

        @param found: what L{find} has found for it.
        @param waiting: for this method, of the transaction: the messages of
            which others have been named, or a recipient waits; of the latter,
            whether that was counted.
        """
        awaited = False
        for one in found:
            if not self.refuses(one, key) and waiting.get(one, True):
                awaited = awaited or one in waiting
                self._messages[one].alone -= one in waiting
                waiting[one] = False
        if awaited:
            return False  # otherwise, with two messages, all would wait for each other
        holding = [one for one in found if self.holds(one, key)]
        if any(one in waiting for one in holding):
            return True
        messages = self._messages
        isOver = any(messages[one].alone >= limit for one in found)
        holding = [one for one in holding if messages[one].alone < limit]
        if isOver:  # then only those count that have really been brought again
            holding = [one for one in holding if messages[one].stuck]
        for one in holding:
            messages[one].alone += 1
            waiting[one] = True
        return bool(holding)

    def refuses(self, fingerprint: str, key: str) -> bool:
        """
        Whether this recipient would refuse.
        """
        return self._messages[fingerprint].members.get(key) is State.REFUSES

    def learn(
        self,
        fingerprint: str,
        sender: str,
        accepts: Collection[str],
        refuses: Collection[str],
        sentAway: Collection[str],
        now: float,
    ) -> Remembered:
        """
        The message is about to be refused for now.

        @param accepts: keys of the recipients that would take it.
        @param refuses: of those that would not.
        @param sentAway: of those that got 452 in this transaction.
        @return: what is remembered now.
        """
        found = self._messages.get(fingerprint)
        if found is not None and found.expires <= now:
            self._forget(fingerprint)
            found = None
        if found is None:
            found = Remembered(sender, {}, now, now + self._lifetimeSeconds)
        else:
            self._unlink(fingerprint)
            self._messages.pop(fingerprint)
        before = dict(found.members)
        for key in sentAway:
            found.members.setdefault(key, State.UNKNOWN)
        found.members.update(dict.fromkeys(accepts, State.ACCEPTS))
        found.members.update(dict.fromkeys(refuses, State.REFUSES))
        if any(
            before.get(key, State.REFUSES) is not State.REFUSES for key in (*accepts, *sentAway)
        ):
            found.alone = 0  # it is this message, and the others come with it
        found.times += not before or any(key in before for key in (*accepts, *refuses))
        found.stuck += found.members == before
        found.sender = sender
        self._link(fingerprint, found)
        self._save(fingerprint, found)
        while len(self._messages) > self._capacity or (
            self._members > self._maxMembers and len(self._messages) > 1
        ):
            self._forget(next(iter(self._messages)))
        return found

    def answered(self, fingerprint: str, keys: Iterable[str]) -> Remembered | None:
        """
        These recipients have their final answer to this message.

        @return: the message, if these were the last of its recipients.
        """
        found = self._messages.get(fingerprint)
        if found is None:
            return None
        self._unlink(fingerprint)
        for key in keys:
            found.members.pop(key, None)
        self._link(fingerprint, found)
        if found.members:
            self._save(fingerprint, found)
            return None
        self._forget(fingerprint)
        return found

    def _unlink(self, fingerprint: str) -> None:
        found = self._messages[fingerprint]
        self._members -= len(found.members)
        for key in found.members:
            pair = found.sender, key
            known = self._fingerprints.get(pair, [])
            if fingerprint in known:
                known.remove(fingerprint)
                if not known:
                    del self._fingerprints[pair]

    def _forget(self, fingerprint: str) -> None:
        self._unlink(fingerprint)
        del self._messages[fingerprint]
        self._save(fingerprint, None)
