"""
Whose memory of messages it is: what their sender proves, or else its network.
"""

from __future__ import annotations

import functools
import ipaddress

import attrs

from deferrals.model.address import Mailbox
from deferrals.model.taggedsenders import forwarded, untagged


def stablePath(sender: Mailbox | None) -> str:
    """
    What a return path has in common with itself at the next attempt, although
    the sender signs it (BATV), rewrites it (SRS) or marks it (VERP) anew.
    Numbers stay: those of a mass mailer are its customers'.

    @return: empty for the null path.
    """
    if sender is None:
        return ""
    own = forwarded(sender) or untagged(sender)
    return attrs.evolve(own, local=_unmarked(own.local)).key


def _unmarked(local: str) -> str:
    """
    Without a recipient's address behind C{+}, or else behind the first C{-}, with C{=}
    for its C{@} (VERP).
    """
    before, mark, domain = local.rpartition("=")
    start = before.rfind("+") if "+" in before else before.find("-")
    return local[:start] if mark and domain and start >= 0 else local


@attrs.frozen
class Group:
    """
    Whose memory it is.

    @ivar owner: what is proved, or else the network: a login, a domain for which
        SPF passes, a /24 or /64.
    @ivar path: see L{stablePath}.
    @ivar address: the client's, where nothing is proved; else empty.
    @ivar key: as the store has it.
    """

    owner: str
    path: str
    address: str = ""
    key: str = attrs.field(init=False, eq=False, repr=False)

    @key.default
    def _key(self) -> str:
        return f"{self.owner} {self.path}"

    @property
    def isProved(self) -> bool:
        """Whether the client was allowed to use this path."""
        return not self.owner.startswith("net:")


def groupOf(path: str, address: str, user: str | None = None, spf: str | None = None) -> Group:
    """
    @param path: see L{stablePath}.
    @param address: the client's IP address.
    @param user: as whom it has authenticated.
    @param spf: the return path's domain, where SPF passes for it; HELO's for the
        null path.
    """
    if user:
        return Group(f"user:{user.replace(' ', '%20')}", path)
    if spf:
        return Group(f"spf:{spf.lower()}", path)
    return Group(f"net:{networkOf(address)}", path, address)


@functools.lru_cache(maxsize=4096)
def networkOf(address: str) -> str:
    """
    The network that an unproved sender is known by: the IPv4 /24, the IPv6 /64.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ipaddress.ip_network(f"{ip}/{24 if ip.version == 4 else 64}", strict=False))
