"""
Return paths that are written anew for each message: all that compares senders asks
here whose they are.

BATV signs an address (C{prvs=0123456789=me@example.org}); who it is stays in the
local part, and the domain is the same.  SRS is what a forwarder makes of the path
(L{deferrals.model.srs}): whose mail it was is what the forwarder says.
"""

from __future__ import annotations

import re

from deferrals.model import srs
from deferrals.model.address import AddressError, Mailbox, normalDomain

_TAG = "[0-9a-z_-]{6,20}"

#: The draft's form, Message Systems' and Barracuda's; and the draft's first one.
_BATV = re.compile(rf"(?:(?:ms)?prvs1?={_TAG}=|btv1=={_TAG}==)(.+)", re.I | re.S)
_OLD_BATV = re.compile(r"prvs=(.+)/[0-9a-f]{10}", re.I | re.S)


def untagged(sender: Mailbox) -> Mailbox:
    """
    @return: the address that BATV has signed; C{sender} itself, where it is none
        of its forms.
    """
    found = _BATV.fullmatch(sender.local) or _OLD_BATV.fullmatch(sender.local)
    return sender if found is None else Mailbox(found[1], sender.domain, sender.shownDomain)


def forwarded(sender: Mailbox) -> Mailbox | None:
    """
    @return: whose mail it was, as a forwarder says by SRS; C{None} where it says
        nothing.
    """
    found = srs.parse(untagged(sender).local)
    if isinstance(found, srs.SRS1):
        found = srs.parse(found.local)
    if not isinstance(found, srs.SRS0):
        return None
    try:
        return untagged(Mailbox(found.local, normalDomain(found.domain)))
    except AddressError:
        return None


def itself(sender: Mailbox) -> list[Mailbox]:
    """
    @return: the forms of a sender that are its own to use: as it is written, and
        without a signature.  For what allows.
    """
    return list(dict.fromkeys((sender, untagged(sender))))


def everyForm(sender: Mailbox) -> list[Mailbox]:
    """
    @return: the same, and whose mail a forwarder says it was.  For what refuses:
        a forwarder may say what it likes, and what allows does not believe it.
    """
    origin = forwarded(sender)
    return itself(sender) if origin is None else [*itself(sender), origin]
