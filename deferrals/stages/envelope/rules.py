"""
The envelope stage by configuration: the C{[[recipients]]} rules.

The first rule that matches a recipient decides which policy and which delivery
apply.  Without one the recipient is refused: 550 5.1.1 in a domain that some
rule names, 550 5.7.1 elsewhere.  Nothing is relayed that no rule lets in.
A rule may be for some clients only; for the others it is not there, and it
makes no domain one of ours.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.interfaces import IEnvelopeStage
from deferrals.model.address import AddressError, Mailbox, comparable, isRouted, normalDomain
from deferrals.model.envelope import Client, Envelope, Recipient
from deferrals.model.networks import Networks
from deferrals.model.reply import (
    R550_RELAYING_DENIED,
    R550_SENDER_ROUTING,
    R550_UNKNOWN_RECIPIENT,
    Reply,
)
from deferrals.model.verdict import Accept, Defer, EnvelopeVerdict, Refuse, Route
from deferrals.stages.envelope.chain import askInTurn, routed
from deferrals.stages.envelope.foreseen import Foreseen


@attrs.frozen
class Pattern:
    """
    The addresses that a rule matches, one of

      - C{user@domain}: this address, its local part compared as L{comparable} has it;
      - C{*@domain}: all at this domain;
      - C{*@*.domain}: all at any domain below it;
      - C{*}: all.

    @ivar local: the local part as L{comparable} spells it; C{*} for all.
    @ivar domain: in its one spelling; C{*} for all.
    @ivar below: whether the domain stands for those below it.
    """

    local: str
    domain: str
    below: bool = False

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """
        @raise ValueError: it is none of the four.
        """
        if text == "*":
            return cls("*", "*")
        local, mark, domain = text.rpartition("@")
        try:
            if not mark:
                raise AddressError("no @")
            if local != "*":
                mailbox = Mailbox.parse(text)
                return cls(comparable(mailbox.local), mailbox.domain)
            if domain.startswith("*."):
                return cls("*", normalDomain(domain[2:]), True)
            return cls("*", normalDomain(domain))
        except AddressError:
            raise ValueError("user@domain, *@domain, *@*.domain or *") from None

    def covers(self, other: Pattern) -> bool:
        """
        Whether it matches all that another one does.
        """
        if self.local not in ("*", other.local):
            return False
        if self.domain == "*" or (self.domain, self.below) == (other.domain, other.below):
            return True
        return self.below and other.domain.endswith(f".{self.domain}")


@attrs.frozen
class Allowed:
    """
    The clients that a rule is for.

    @ivar authenticated: whether it is for clients that have logged in.
    @ivar networks: it is for clients that come from there.
    """

    authenticated: bool
    networks: Networks

    @classmethod
    def parse(cls, words: Iterable[str]) -> Allowed:
        """
        Read addresses and networks, and the words C{authenticated} and C{unix}.

        @raise ValueError: one of them is none.
        """
        found = list(words)
        try:
            networks = Networks.parse(word for word in found if word != "authenticated")
        except ValueError as error:
            raise ValueError(f'"authenticated", {error}') from None
        return cls("authenticated" in found, networks)

    def lets(self, client: Client) -> bool:
        """
        Whether it is for this client.
        """
        known = self.authenticated and client.user is not None
        return known or client.address in self.networks


@attrs.frozen
class Rule:
    """
    One C{[[recipients]]} table.

    @ivar pattern: the recipients that it matches.
    @ivar verdict: what it says of them, route included.
    @ivar checks: envelope stages that are asked afterwards.
    @ivar allow: the clients that it is for; C{None} for all.
    @ivar routing: whether senders may say where its mail goes on to.
    """

    pattern: Pattern
    verdict: EnvelopeVerdict
    checks: Sequence[IEnvelopeStage] = ()
    allow: Allowed | None = None
    routing: bool = False


class Onward:
    """
    Which routes lead to another mail server.

    @param names: the deliveries that do.
    @param quarantines: the delivery of what is refused too late, by policy.
    """

    def __init__(self, names: Container[str], quarantines: Mapping[str, str]) -> None:
        self._names = names
        self._quarantines = quarantines

    def refuses(self, address: Mailbox, route: Route | None) -> bool:
        """
        Whether a recipient could be sent on by the server behind this one to
        where its sender likes, and so is refused.
        """
        if route is None or not isRouted(address):
            return False
        return route.delivery in self._names or self._quarantines.get(route.policy) in self._names


#: Where no delivery is known to.
_NOWHERE = Onward((), {})

#: Where no delivery is known to foresee anything.
_NONE = Foreseen({})


@implementer(IEnvelopeStage)
class RuleTable:
    """
    All rules, found by address and by domain: what it costs to find one does
    not grow with their number.

    @ivar stages: the stages that rules ask.
    @param rules: in the order of the configuration.
    @param hostname: the domain of the bare C{postmaster}.
    @param policies: what each policy says in the envelope.
    @param deliveries: the names of the deliveries there are.
    @param onward: which of them lead to another mail server.
    @param foreseen: what they know that they can never deliver.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        hostname: str,
        policies: Mapping[str, EnvelopeVerdict] | None = None,
        deliveries: Container[str] = (),
        onward: Onward = _NOWHERE,
        foreseen: Foreseen = _NONE,
    ) -> None:
        self.stages = [stage for rule in rules for stage in rule.checks]
        self._rules = rules
        self._policies = policies or {}
        self._deliveries = deliveries
        self._onward = onward
        self._foreseen = foreseen
        self._indexes: dict[Pattern, list[int]] = {}
        # Remembered until these rules are not in use any longer.
        self._about = functools.lru_cache(maxsize=4096)(self._rulesAbout)
        for index, rule in enumerate(rules):
            self._indexes.setdefault(rule.pattern, []).append(index)
        ours = [rule.pattern for rule in rules if rule.allow is None]
        found = [pattern.domain for pattern in ours if not pattern.below]
        self._domains = [hostname, *dict.fromkeys(found)]
        self._local = {domain for domain in found if domain != "*"}
        self._parents = {pattern.domain for pattern in ours if pattern.below}

    def judgeRecipient(
        self, envelope: Envelope, recipient: Recipient
    ) -> EnvelopeVerdict | Deferred[EnvelopeVerdict]:
        if not recipient.address.domain:
            recipient = self._postmaster(envelope.client, recipient)
        rule = self._match(envelope.client, recipient.address)
        if rule is None:
            return Refuse(self._unmatched(recipient.address))
        if isinstance(rule.verdict, Refuse):
            return rule.verdict
        if not rule.checks:
            verdict = self._unrouted(rule.verdict, rule, recipient.address)
            return self._foreseen.judged(verdict, envelope, recipient)
        return Deferred.fromCoroutine(self._ask(rule, rule.verdict, envelope, recipient))

    async def _ask(
        self, rule: Rule, ruled: Accept | Defer, envelope: Envelope, recipient: Recipient
    ) -> EnvelopeVerdict:
        """
        What a rule's checks make of its verdict.
        """
        asked = routed(recipient, ruled.route)
        verdict = await askInTurn(rule.checks, envelope, asked, ruled)
        verdict = self._unrouted(self._settled(verdict, ruled.route), rule, recipient.address)
        return self._foreseen.judged(verdict, envelope, recipient)

    def _unrouted(self, verdict: EnvelopeVerdict, rule: Rule, address: Mailbox) -> EnvelopeVerdict:
        """
        What a rule and its checks say, unless the sender wants to say where the
        server behind this one sends it.
        """
        if isinstance(verdict, Refuse) or rule.routing:
            return verdict
        return (
            Refuse(R550_SENDER_ROUTING) if self._onward.refuses(address, verdict.route) else verdict
        )

    def _settled(self, verdict: EnvelopeVerdict, ruled: Route | None) -> EnvelopeVerdict:
        """
        Where a check has put a recipient under another policy, that policy
        says what RCPT TO is answered.

        @raise StageError: there is no such policy, or no such delivery.
        """
        if isinstance(verdict, Refuse) or verdict.route is None or verdict.route == ruled:
            return verdict
        route, ruled = verdict.route, ruled or Route("", "")
        if route.delivery != ruled.delivery and route.delivery not in self._deliveries:
            raise StageError(f"no delivery is named {route.delivery!r}")
        if route.policy == ruled.policy:
            return verdict
        if route.policy not in self._policies:
            raise StageError(f"no policy is named {route.policy!r}")
        settled = self._policies[route.policy]
        return settled if isinstance(settled, Refuse) else attrs.evolve(settled, route=route)

    def isOurs(self, address: Mailbox) -> bool:
        """
        Whether a rule, other than one for all addresses, is about its domain.
        """
        below = any(parent in self._parents for parent in _parents(address.domain))
        return below or address.domain in self._local

    def route(self, address: Mailbox) -> Route | None:
        """
        Where mail for an address of our own goes, checks aside; C{None} if no
        rule lets it in.
        """
        rule = self._match(None, address)
        if rule is None:
            return None
        verdict = self._unrouted(rule.verdict, rule, address)
        return None if isinstance(verdict, Refuse) else verdict.route

    def _match(self, client: Client | None, address: Mailbox) -> Rule | None:
        for rule in self._about(address):
            if client is None or rule.allow is None or rule.allow.lets(client):
                return rule
        return None

    def _rulesAbout(self, address: Mailbox) -> list[Rule]:
        """
        The rules whose patterns match an address, in their order.
        """
        found = [index for key in patternsOf(address) for index in self._indexes.get(key, ())]
        return [self._rules[index] for index in sorted(found)]

    def _postmaster(self, client: Client, recipient: Recipient) -> Recipient:
        """
        RFC 5321 §4.5.1: C{<postmaster>} without a domain is this server's, so
        the first of our domains that has one.
        """
        for domain in self._domains:
            address = Mailbox("postmaster", domain)
            if self._match(client, address) is not None:
                return attrs.evolve(recipient, address=address)
        return recipient

    def _unmatched(self, address: Mailbox) -> Reply:
        local = not address.domain or self.isOurs(address)
        return R550_UNKNOWN_RECIPIENT if local else R550_RELAYING_DENIED


def _parents(domain: str) -> Iterator[str]:
    _, dot, rest = domain.partition(".")
    while dot:
        yield rest
        _, dot, rest = rest.partition(".")


def patternsOf(address: Mailbox) -> Iterator[Pattern]:
    """
    All patterns that match an address.
    """
    yield Pattern(comparable(address.local), address.domain)
    yield Pattern("*", address.domain)
    for parent in _parents(address.domain):
        yield Pattern("*", parent, True)
    yield Pattern("*", "*")


def isNamed(addresses: Iterable[Mailbox], patterns: Set[Pattern | None]) -> bool:
    """
    Whether one of the patterns matches one of the addresses.
    """
    return any(pattern in patterns for address in addresses for pattern in patternsOf(address))
