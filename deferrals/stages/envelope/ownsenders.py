"""
The senders that a login may use: its own address, and what lists of patterns
say.  C{{user}} in a pattern stands for the login.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import attrs

from deferrals.model.address import AddressError, Mailbox
from deferrals.model.taggedsenders import itself
from deferrals.stages.envelope.rules import Pattern, isNamed

_USER = "{user}"

_EXPECTED = '"own", "any", or a list of patterns: user@domain, *@domain, *, {user}@domain'


@attrs.frozen
class Senders:
    """
    What a configuration, or a table, says of the senders of logins.

    @ivar others: patterns, for senders beside the login's own address;
        C{"any"} for all senders.
    """

    others: tuple[str, ...] | Literal["any"] = ()

    def allow(self, sender: Mailbox, user: str) -> bool:
        """
        Whether the login C{user} may use C{sender}, its own address aside.
        """
        if self.others == "any":
            return True
        patterns = {_pattern(text, user) for text in self.others}
        return isNamed(itself(sender), patterns)


OWN = Senders()
ANY = Senders("any")


def parseSenders(value: object) -> Senders:
    """
    @raise ValueError: it says nothing of senders.
    """
    if value == "own":
        return OWN
    if value == "any":
        return ANY
    if not isinstance(value, list | tuple):
        raise ValueError(_EXPECTED)
    return listedSenders(value)


def listedSenders(words: Iterable[object]) -> Senders:
    """
    @raise ValueError: one of them is no pattern.
    """
    found = []
    for word in words:
        if not isinstance(word, str):
            raise ValueError(_EXPECTED)
        example = word.replace(_USER, "user@example.net" if word == _USER else "user")
        try:
            if "{" in example:
                raise ValueError(word)
            Pattern.parse(example)
        except ValueError:
            raise ValueError(_EXPECTED) from None
        found.append(word)
    return Senders(tuple(found))


def _pattern(text: str, user: str) -> Pattern | None:
    """
    @return: C{None} where the login makes none of it.
    """
    if _USER not in text:
        return Pattern.parse(text)
    if "*" in user:
        return None  # a name, and not a pattern
    try:
        return Pattern.parse(text.replace(_USER, user))
    except ValueError:
        return None


def ownAddress(user: str, hostname: str) -> Mailbox | None:
    """
    A login's own address: the login itself; one without a domain is an address
    at this server's name.

    @return: C{None} where it makes none.
    """
    try:
        return Mailbox.parse(user if "@" in user else f"{user}@{hostname}")
    except AddressError:
        return None
