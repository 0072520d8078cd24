"""
Return paths that are written anew for each message: one place knows their forms,
and all that compares senders asks it.

BATV signs an address (C{prvs=0123456789=me@example.org}); who it is stays in the
local part, and the domain is the same.  SRS is what a forwarder makes of the path
(C{SRS0=HHH=TT=example.org=me@forwarder.example}): whose mail it was is what the
forwarder says.
"""

from __future__ import annotations

import re

from deferrals.model.address import AddressError, Mailbox, normalDomain

_TAG = "[0-9a-z_-]{6,20}"

#: The draft's form, Message Systems' and Barracuda's; and the draft's first one.
_BATV = re.compile(rf"(?:(?:ms)?prvs1?={_TAG}=|btv1=={_TAG}==)(.+)", re.I | re.S)
_OLD_BATV = re.compile(r"prvs=(.+)/[0-9a-f]{10}", re.I | re.S)

_SRS0 = re.compile(r"srs0[=+-][^=]+=[^=]+=([^=]+)=(.+)", re.I | re.S)
_SRS1 = re.compile(r"srs1[=+-][^=]+=[^=]+=[=+-][^=]+=[^=]+=([^=]+)=(.+)", re.I | re.S)


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
    local = untagged(sender).local
    found = _SRS0.fullmatch(local) or _SRS1.fullmatch(local)
    if found is None:
        return None
    try:
        return untagged(Mailbox(found[2], normalDomain(found[1])))
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
