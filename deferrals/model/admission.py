"""
Senders that a recipient has let in although their mail was refused before.

An admission is of one sender, for one recipient, by something that a stranger cannot
show: a domain that DKIM or SPF proves, or the client's network.  A bare envelope
sender can be had, too, and proves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

import attrs

from deferrals.model.address import AddressError, Mailbox
from deferrals.model.envelope import Envelope
from deferrals.model.json import JSON, asNumber, asObject
from deferrals.model.mixedgroup import networkOf, stablePath
from deferrals.model.refusal import Refusal

#: Their kind among the notes (L{INotes<deferrals.interfaces.INotes>}).
KIND = "admission"

#: The group of notes that name those who have let in someone, by their keys.  No address is
#: called so.
OWNERS = "recipients"

#: By what a sender can be known again: what proves most comes first.
WAYS = ("dkim", "spf", "network", "sender")

#: Said of a sender that is admitted by its bare address.
WARNING = "anyone can write this sender's address: by it strangers are admitted, too"

#: So long an admission that is for one message is spoken for by one that has not ended, in
#: seconds; a transaction that was cut off by a crash gives it back so late.
RESERVED_SECONDS = 900.0


@attrs.frozen
class AdmissionWish:
    """
    Whom a recipient wants to let in, and how.

    @ivar reference: the id of the transaction in which the sender was refused.
    @ivar once: whether it is for one message.
    @ivar seconds: how long that counts; C{None} for as long as is configured.
    @ivar by: one of L{WAYS}; C{None} for the first that the message has proved.
    @ivar how: C{"link"} or C{"command"}.
    """

    reference: str
    once: bool = False
    seconds: float | None = None
    by: str | None = None
    how: str = "command"

    def toJSON(self) -> dict[str, JSON]:
        """
        As it is told to the server.
        """
        return {
            "reference": self.reference,
            "once": self.once,
            "seconds": self.seconds,
            "by": self.by,
            "how": self.how,
        }

    @classmethod
    def fromJSON(cls, told: JSON) -> AdmissionWish:
        """
        @param told: what L{toJSON} has made.
        """
        found = asObject(told)
        seconds, by = found.get("seconds"), found.get("by")
        return cls(
            str(found["reference"]),
            bool(found["once"]),
            None if seconds is None else asNumber(seconds),
            None if by is None else str(by),
            str(found["how"]),
        )


@attrs.frozen
class Admission:
    """
    What a recipient has said of a sender.

    @ivar identity: by what it is known: a way, a blank, and a domain, a network or an
        address: C{"dkim example.org"}, C{"network 192.0.2.0/24"}.
    @ivar path: the sender, as L{stablePath} has it; empty for the null path.
    @ivar once: whether it is for one message.
    @ivar until: when it ends, in seconds since the epoch.
    @ivar begun: when it was said.
    @ivar how: C{"link"} or C{"command"}.
    @ivar taker: the transaction that is about to use up one that is for one message.
    @ivar taken: when that began.
    """

    identity: str
    path: str
    once: bool
    until: float
    begun: float = 0.0
    how: str = "command"
    taker: str = ""
    taken: float = 0.0

    @property
    def way(self) -> str:
        """
        One of L{WAYS}.
        """
        return self.identity.partition(" ")[0]

    @property
    def name(self) -> str:
        """
        The domain, network or address.
        """
        return self.identity.partition(" ")[2]

    @property
    def key(self) -> str:
        """
        Where it is among the notes of its recipient.
        """
        return f"{self.identity} <{self.path}>"

    def isFree(self, transaction: str, now: float) -> bool:
        """
        Whether a transaction may use it.
        """
        if not self.once or self.taker in ("", transaction):
            return True
        return not 0 <= now - self.taken < RESERVED_SECONDS

    def mayBe(self, envelope: Envelope) -> bool:
        """
        Whether it could be for a transaction, as far as can be told before the content,
        and without asking DNS.
        """
        if stablePath(envelope.sender) != self.path:
            return False
        if self.way == "network":
            return networkOf(envelope.client.address) == self.name
        if self.way == "spf":
            return self.name == spfDomain(envelope)
        return True

    def toJSON(self) -> dict[str, JSON]:
        """
        As a note has it.
        """
        return {
            "identity": self.identity,
            "path": self.path,
            "once": self.once,
            "until": self.until,
            "begun": self.begun,
            "how": self.how,
            "taker": self.taker,
            "taken": self.taken,
        }

    @classmethod
    def fromJSON(cls, value: JSON) -> Admission | None:
        """
        The inverse of L{toJSON}; C{None} for what is none.
        """
        if not isinstance(value, dict):
            return None
        identity, path = value.get("identity"), value.get("path")
        if not isinstance(identity, str) or not isinstance(path, str):
            return None
        found = cls(
            identity,
            path,
            value.get("once") is True,
            _number(value.get("until")),
            _number(value.get("begun")),
            str(value.get("how", "")),
            str(value.get("taker", "")),
            _number(value.get("taken")),
        )
        return found if found.way in WAYS else None

    def shown(self, recipient: str) -> dict[str, JSON]:
        """
        As C{deferrals admissions list} shows it.
        """
        return {
            "recipient": recipient,
            "sender": self.path,
            "by": self.identity,
            "once": self.once,
            "until": round(self.until),
            "begun": round(self.begun),
            "how": self.how,
        }

    def told(self, recipient: str) -> dict[str, JSON]:
        """
        The same for who has just let the sender in, with a warning, where that means
        more than the sender.
        """
        warning = {"warning": WARNING} if self.way == "sender" else {}
        return {**self.shown(recipient), **warning}


@attrs.frozen
class Proofs:
    """
    What a message has proved of its sender.

    @ivar dkim: the domains that have signed it, and that are its author's.
    @ivar spf: the domain that lets its client send; empty where none does.
    """

    dkim: Collection[str] = ()
    spf: str = ""

    def prove(self, admission: Admission, envelope: Envelope) -> bool:
        """
        Whether a message is of the sender that is admitted.
        """
        if not admission.mayBe(envelope):
            return False
        if admission.way == "dkim":
            return admission.name in self.dkim
        if admission.way == "spf":
            return bool(self.spf) and admission.name == self.spf
        return True

    def admits(self, envelope: Envelope) -> tuple[str, ...]:
        """
        By what its sender can be admitted, what proves most first.
        """
        found = [f"dkim {domain}" for domain in sorted(self.dkim)]
        if self.spf:
            found.append(f"spf {self.spf}")
        network = networkOf(envelope.client.address)
        return (*found, *([f"network {network}"] if "/" in network else []))


def _number(value: JSON) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def spfDomain(envelope: Envelope) -> str:
    """
    The domain that SPF is asked about.
    """
    sender = envelope.sender
    return envelope.client.helo.lower() if sender is None else sender.domain


def admitted(refusal: Refusal, wish: AdmissionWish, now: float, seconds: float) -> Admission:
    """
    Let a sender in whose mail was refused.

    @param seconds: how long that counts, where the wish does not say it.
    @raise ValueError: it cannot be known by this.
    """
    path = pathOf(refusal.sender)
    identity = _identity(refusal.admits, path, wish.by)
    until = now + (seconds if wish.seconds is None else wish.seconds)
    return Admission(identity, path, wish.once, until, now, wish.how)


def _identity(proved: Sequence[str], path: str, by: str | None) -> str:
    if by is not None and by not in WAYS:
        raise ValueError(f"--by: expected one of {', '.join(WAYS)}, not {by!r}")
    for way in WAYS if by is None else (by,):
        for one in proved:
            if one.partition(" ")[0] == way:
                return one
    if by in (None, "sender") and path:
        return f"sender {path}"
    had = ", ".join(proved) or "nothing"
    raise ValueError(f"this sender cannot be known by {by or 'anything'}: it proved {had}")


def pathOf(sender: str) -> str:
    """
    The sender of a refusal that was kept, as L{stablePath} has it.
    """
    if not sender:
        return ""
    try:
        return stablePath(Mailbox.parse(sender))
    except AddressError:
        return sender.lower()


def keyOf(recipient: str) -> str:
    """
    A recipient as all that is kept for it is found.

    @raise ValueError: it is no address.
    """
    try:
        return Mailbox.parse(recipient).key
    except AddressError as error:
        raise ValueError(f"an address, not {recipient!r}: {error}") from None


def noteNames(recipient: str, admission: Admission) -> tuple[str, str]:
    """
    The names of an admission in a spool, and of the note that says who has some.
    """
    return json.dumps([KIND, recipient, admission.key]), json.dumps([KIND, OWNERS, recipient])


def noted(notes: Mapping[str, str]) -> dict[str, tuple[str, Admission]]:
    """
    The admissions among a spool's notes.

    @return: recipient and admission, by the note's name.
    """
    found: dict[str, tuple[str, Admission]] = {}
    for name, text in notes.items():
        try:
            kind, recipient, _ = json.loads(name)
            admission = Admission.fromJSON(json.loads(text)[0])
        except (ValueError, TypeError, IndexError, KeyError):
            continue
        if kind == KIND and admission is not None:
            found[name] = (str(recipient), admission)
    return found
