"""
What a recipient makes of where a message comes from
(L{deferrals.model.authentication}): whom it believes, and what it refuses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import attrs

from deferrals.model.address import AddressError, normalDomain
from deferrals.model.authentication import DMARC, Authentication, vouches
from deferrals.model.networks import Networks, limited
from deferrals.model.reply import Reply
from deferrals.model.settings import template
from deferrals.model.spfrecord import SPFResult

DMARCMeans = Literal["enforce", "mark", "ignore"]
SPFMeans = Literal["enforce", "ignore"]


def oneOf(words: object) -> Callable[[str], str]:
    """
    @param words: a C{Literal}.
    @return: reads one of them, or raises C{ValueError} with what was expected.
    """
    known = get_args(words)

    def read(text: str) -> str:
        if text not in known:
            raise ValueError(f"one of {', '.join(known)}, not {text!r}")
        return text

    return read


def refusalFor(text: str) -> None:
    """
    @raise ValueError: it is no reply in which C{{domain}} may stand.
    """
    template(text, "domain")
    Reply.parseRefusal(text.format(domain="example.org"))


#: What becomes of a message: it is accepted, as junk, or not; or that cannot be known now.
Action = Literal["accept", "junk", "refuse", "unsure"]

#: What stands for a message's author in a reply, where that is not one domain.
NO_ONE = "its author"


@attrs.frozen
class Domains:
    """
    Domains that are trusted.

    @ivar names: these themselves.
    @ivar above: all below these.
    """

    names: frozenset[str] = frozenset()
    above: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, words: Iterable[str]) -> Domains:
        """
        @param words: C{example.org}, C{*.example.org}.
        @raise ValueError: one of them is none.
        """
        names, above = set[str](), set[str]()
        for word in words:
            try:
                name = normalDomain(word.removeprefix("*."))
            except AddressError:
                name = ""
            if "." not in name or name.startswith("[") or _isNetwork(name):
                raise ValueError(f"domains such as example.org or *.example.org; not {word!r}")
            (above if word.startswith("*.") else names).add(name)
        return cls(frozenset(names), frozenset(above))

    def __contains__(self, domain: str) -> bool:
        return domain in self.names or any(domain.endswith(f".{one}") for one in self.above)

    def __bool__(self) -> bool:
        return bool(self.names or self.above)


@attrs.frozen
class Forwarders:
    """
    Who may hand on what others have written.

    @ivar networks: clients from there.
    @ivar domains: those that SPF proves.
    """

    networks: Networks = Networks()
    domains: Domains = Domains()

    @classmethod
    def parse(cls, words: Iterable[str]) -> Forwarders:
        """
        @raise ValueError: one of them is neither, or they are everybody.
        """
        networks, domains = list[str](), list[str]()
        for word in words:
            (networks if _isNetwork(word) else domains).append(word)
        try:
            found = Domains.parse(domains)
        except ValueError as error:
            raise ValueError(f"networks such as 192.0.2.0/24, {error}") from None
        limited(networks)
        return cls(Networks.parse(networks), found)


def _isNetwork(word: str) -> bool:
    try:
        ipaddress.ip_network(word, strict=False)
    except ValueError:
        return False
    return True


@attrs.frozen(cache_hash=True)
class AuthPolicy:
    """
    What one recipient wants; recipients with equal ones are alike.

    @ivar dmarc: what a failure means where the author's domain wants it refused.
    @ivar spf: whether a failure of SPF alone refuses.
    @ivar forwarders: whose failures are not held against them.
    @ivar sealers: whose results count as ours.
    @ivar reply: what it refuses with.
    """

    dmarc: DMARCMeans = "mark"
    spf: SPFMeans = "ignore"
    forwarders: Forwarders = Forwarders()
    sealers: Domains = Domains()
    reply: str = ""


@attrs.frozen
class AuthDecision:
    """
    What becomes of one recipient's copy.

    @ivar why: what decided, in a few words.
    @ivar reply: what is refused with, where it is refused.
    @ivar trusted: on whose word a failure is forgiven; else empty.
    @ivar isJunk: whether it is junk in any case, although something is not known.
    """

    action: Action
    why: str = ""
    reply: Reply | None = None
    trusted: str = ""
    isJunk: bool = False


def decide(found: Authentication, client: str, policy: AuthPolicy) -> AuthDecision:
    """
    @param client: the client's address.
    """
    bySPF, byDMARC = _ofSPF(found, client, policy), _ofDMARC(found, policy)
    decided = next(
        (one for action in _WORST for one in (bySPF, byDMARC) if one.action == action), bySPF
    )
    if decided.action == "accept":
        return byDMARC
    trusted = _trusted(found, client, policy)
    if trusted:
        return AuthDecision("accept", f"{decided.why}; {trusted}", trusted=trusted)
    return attrs.evolve(decided, isJunk="junk" in (bySPF.action, byDMARC.action))


#: A refusal that is certain needs nothing that is not known.
_WORST: tuple[Action, ...] = ("refuse", "unsure", "junk")


def _ofSPF(found: Authentication, client: str, policy: AuthPolicy) -> AuthDecision:
    if policy.spf == "ignore" or found.spf is None:
        return AuthDecision("accept")
    if found.spf.result is SPFResult.TEMPERROR:
        return AuthDecision("unsure", f"SPF of {found.spf.domain}: {found.spf.problem}")
    if found.spf.result is not SPFResult.FAIL:
        return AuthDecision("accept")
    text = f"refused: {client} may not send for {found.spf.domain} (SPF)"
    why = f"spf=fail ({found.spf.domain}), spf enforce"
    return AuthDecision("refuse", why, Reply(550, "5.7.23", text))  # RFC 7372 §3.2


def _ofDMARC(found: Authentication, policy: AuthPolicy) -> AuthDecision:
    judged = found.dmarc
    if policy.dmarc == "ignore" or judged is None:
        return AuthDecision("accept")
    why = f"dmarc={judged.result} (p={judged.policy}), dmarc {policy.dmarc}"
    if judged.result == "temperror":
        return AuthDecision("unsure", f"DMARC of {judged.domain}: {judged.problem}")
    action = _action(judged, policy.dmarc, bool(found.unchecked and found.dkim))
    if action != "refuse":
        return AuthDecision(action, why if judged.result != "none" else "")
    reply = Reply.parseRefusal(policy.reply.format(domain=judged.domain or NO_ONE))
    return AuthDecision("refuse", why, reply)


def _action(judged: DMARC, means: DMARCMeans, isUnchecked: bool) -> Action:
    """
    @param isUnchecked: whether there are signatures that were too much to be checked: the
        message may be its author's.
    """
    if judged.result not in ("fail", "permerror") or judged.policy == "none":
        return "accept"
    if judged.policy == "reject" and means == "enforce" and not isUnchecked:
        return "refuse"
    return "junk"


def _trusted(found: Authentication, client: str, policy: AuthPolicy) -> str:
    """
    @return: the forwarder or sealer whose word counts for more than a failure; empty
        where there is none.
    """
    if client in policy.forwarders.networks:
        return f"trusted forwarder {client}"
    spf = found.spf
    if spf is not None and spf.result is SPFResult.PASS and spf.domain in policy.forwarders.domains:
        return f"trusted forwarder {spf.domain}"
    sealer = _sealer(found, policy.sealers)
    return f"trusted sealer {sealer}" if sealer else ""


def _sealer(found: Authentication, sealers: Domains) -> str:
    """
    Who of those that are trusted has found the author proved.  Behind it there may only
    be others that are trusted: any other may have changed the message, and sealed that.
    """
    author = "" if found.dmarc is None else found.dmarc.domain
    if found.arc.result != "pass" or not author:
        return ""
    for seal in reversed(found.arc.seals):
        if seal.domain not in sealers:
            return ""
        if vouches(seal.results, author):
            return seal.domain
    return ""
