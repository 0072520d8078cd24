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
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Set

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.interfaces import IEnvelopeStage
from deferrals.model.address import (
    AddressError,
    Mailbox,
    comparable,
    isRouted,
    normalDomain,
    splitSubaddress,
)
from deferrals.model.envelope import Client, Envelope, Recipient
from deferrals.model.networks import Networks
from deferrals.model.reply import (
    R550_RELAYING_DENIED,
    R550_SENDER_ROUTING,
    R550_UNKNOWN_RECIPIENT,
    Reply,
)
from deferrals.model.verdict import (
    Accept,
    Defer,
    EnvelopeAnswer,
    EnvelopeVerdict,
    Expand,
    Refuse,
    Route,
)
from deferrals.stages.envelope.chain import NO_PARDONS, Pardons, askInTurn, routed
from deferrals.stages.envelope.foreseen import Foreseen
from deferrals.stages.envelope.returns import Returns

#: Rules by their places: see L{RuleTable._rulesAbout}.
_About = tuple[Sequence[int], Sequence[int], Sequence[int]]


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

    def covering(self) -> Iterator[Pattern]:
        """
        @return: every pattern that matches all that this one does.
        """
        yield self
        yield Pattern("*", self.domain, self.below)
        labels = self.domain.split(".")
        for first in range(1, len(labels)):
            yield Pattern("*", ".".join(labels[first:]), True)
        yield Pattern("*", "*")


def isTakenLiterally(text: str) -> bool:
    """
    Whether a C{*} of what L{Pattern} reads stands for itself, and is not quoted, as
    whoever means that would write it: C{"scored*"@example.net}.
    """
    local = text.rpartition("@")[0]
    return "*" in local and local != "*" and not local.startswith('"')


#: What C{allow} has besides addresses and networks.
_WORDS = ("authenticated", "members")


@attrs.frozen
class Allowed:
    """
    The clients that a rule is for.

    @ivar authenticated: whether it is for clients that have logged in.
    @ivar networks: it is for clients that come from there.
    @ivar members: whether it is for members of aliases, whoever sends to these.
    """

    authenticated: bool
    networks: Networks
    members: bool = False

    @classmethod
    def parse(cls, words: Iterable[str]) -> Allowed:
        """
        Read addresses and networks, and the words C{authenticated}, C{members} and
        C{unix}.

        @raise ValueError: one of them is none.
        """
        found = list(words)
        try:
            networks = Networks.parse(word for word in found if word not in _WORDS)
        except ValueError as error:
            raise ValueError(f'"authenticated", "members", {error}') from None
        return cls("authenticated" in found, networks, "members" in found)

    def lets(self, client: Client, isMember: bool = False) -> bool:
        """
        Whether it is for this client.

        @param isMember: whether the recipient is a member of an alias.
        """
        known = self.authenticated and client.user is not None
        return known or (self.members and isMember) or client.address in self.networks


@attrs.frozen
class Rule:
    """
    One C{[[recipients]]} table.

    @ivar pattern: the recipients that it matches.
    @ivar verdict: what it says of them, route included.
    @ivar checks: envelope stages that are asked afterwards.
    @ivar allow: the clients that it is for; C{None} for all.
    @ivar routing: whether senders may say where its mail goes on to.
    @ivar subaddress: what begins a subaddress: with it, an address matches as it
        would without; empty for none.
    """

    pattern: Pattern
    verdict: EnvelopeVerdict
    checks: Sequence[IEnvelopeStage] = ()
    allow: Allowed | None = None
    routing: bool = False
    subaddress: str = ""

    def isFor(self, client: Client, isMember: bool = False) -> bool:
        """
        Whether it is for this client.

        @param isMember: whether the recipient is a member of an alias.
        """
        return self.allow is None or self.allow.lets(client, isMember)


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
    @param returns: knows reverse paths that were rewritten; no rule is asked about one.
    @param pardons: lift refusals of senders that a recipient has let in.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        hostname: str,
        policies: Mapping[str, EnvelopeVerdict] | None = None,
        deliveries: Container[str] = (),
        onward: Onward = _NOWHERE,
        foreseen: Foreseen = _NONE,
        returns: Returns | None = None,
        pardons: Pardons = NO_PARDONS,
    ) -> None:
        self.stages = [stage for rule in rules for stage in rule.checks]
        self._rules = rules
        self._policies = policies or {}
        self._deliveries = deliveries
        self._onward = onward
        self._foreseen = foreseen
        self._returns = returns
        self._pardons = pardons
        self._indexes: dict[Pattern, list[int]] = {}
        # Remembered until these rules are not in use any longer.
        self._about = functools.lru_cache(maxsize=4096)(self._rulesAbout)
        self._asker: tuple[Client, bool] | None = None
        self._known: dict[int, bool] = {}  # whether a rule is for that client
        for index, rule in enumerate(rules):
            self._indexes.setdefault(rule.pattern, []).append(index)
        self._marks = {rule.subaddress for rule in rules} - {""}
        ours = [rule.pattern for rule in rules if rule.allow is None]
        found = [pattern.domain for pattern in ours if not pattern.below]
        self._domains = [hostname, *dict.fromkeys(found)]
        self._local = {domain for domain in found if domain != "*"}
        self._parents = {pattern.domain for pattern in ours if pattern.below}

    def judgeRecipient(
        self, envelope: Envelope, recipient: Recipient
    ) -> EnvelopeAnswer | Deferred[EnvelopeAnswer]:
        if not recipient.address.domain:
            recipient = self._postmaster(envelope.client, recipient)
        if self._returns is not None and self._returns.has(recipient.address):
            returned = self._returns.judge(envelope, recipient)
            return self._foreseen.judged(returned, envelope, recipient)
        rule = self._match(envelope.client, recipient.address, bool(recipient.aliases))
        if rule is None:
            return Refuse(self._unmatched(recipient.address), why="no rule matches")
        if isinstance(rule.verdict, Refuse):
            return rule.verdict
        if not rule.checks:
            verdict = self._unrouted(rule.verdict, rule, recipient.address)
            return self._foreseen.judged(verdict, envelope, recipient)
        return Deferred.fromCoroutine(self._ask(rule, rule.verdict, envelope, recipient))

    async def _ask(
        self, rule: Rule, ruled: Accept | Defer, envelope: Envelope, recipient: Recipient
    ) -> EnvelopeAnswer:
        """
        What a rule's checks make of its verdict.
        """
        asked = routed(recipient, ruled.route)
        opinion = attrs.evolve(ruled, asRuled=True) if isinstance(ruled, Defer) else ruled
        verdict = await askInTurn(rule.checks, envelope, asked, opinion, _withRule, self._pardons)
        if isinstance(verdict, Expand):
            return verdict
        verdict = _marked(self._settled(verdict, ruled.route), rule.subaddress)
        verdict = self._unrouted(verdict, rule, recipient.address)
        verdict = self._foreseen.judged(verdict, envelope, recipient)
        if isinstance(verdict, Refuse) and recipient.aliases and ruled.route is not None:
            return attrs.evolve(verdict, policy=ruled.route.policy)
        return verdict

    async def askSome(
        self, envelope: Envelope, recipient: Recipient, isAsked: Callable[[str], bool]
    ) -> EnvelopeAnswer:
        """
        What some of a rule's checks say of a recipient, beside a transaction.

        @param isAsked: by what a configuration calls a check, whether it is asked.
        """
        rule = self._match(envelope.client, recipient.address, bool(recipient.aliases))
        if rule is None:
            return Refuse(self._unmatched(recipient.address))
        if isinstance(rule.verdict, Refuse):
            return rule.verdict
        checks = [one for one in rule.checks if isAsked(self._pardons.useOf(one))]
        asked = routed(recipient, rule.verdict.route)
        return await askInTurn(checks, envelope, asked, rule.verdict)

    def _unrouted(self, verdict: EnvelopeVerdict, rule: Rule, address: Mailbox) -> EnvelopeVerdict:
        """
        What a rule and its checks say, unless the sender wants to say where the
        server behind this one sends it.
        """
        if isinstance(verdict, Refuse) or rule.routing:
            return verdict
        if not self._onward.refuses(address, verdict.route):
            return verdict
        return Refuse(R550_SENDER_ROUTING, why="sender_routing")

    def _settled(self, verdict: EnvelopeVerdict, ruled: Route | None) -> EnvelopeVerdict:
        """
        Where a check has put a recipient under another policy, that policy
        says what RCPT TO is answered; but one that accepts leaves it to the content
        where a check does.

        @raise StageError: there is no such policy, or no such delivery.
        """
        if isinstance(verdict, Refuse) or verdict.route is None or verdict.route == ruled:
            return verdict
        if isinstance(verdict, Accept) and verdict.nowhere:
            return verdict  # no policy takes that back
        route, ruled = verdict.route, ruled or Route("", "")
        if route.delivery != ruled.delivery and route.delivery not in self._deliveries:
            raise StageError(f"no delivery is named {route.delivery!r}")
        if route.policy == ruled.policy:
            return verdict
        if route.policy not in self._policies:
            raise StageError(f"no policy is named {route.policy!r}")
        settled = self._policies[route.policy]
        if isinstance(settled, Refuse):
            return settled
        if isinstance(settled, Accept) and isinstance(verdict, Defer) and not verdict.asRuled:
            return verdict
        return attrs.evolve(settled, route=route)

    def isOurs(self, address: Mailbox) -> bool:
        """
        Whether a rule, other than one for all addresses, is about its domain.
        """
        if self._returns is not None and self._returns.has(address):
            return True
        below = any(parent in self._parents for parent in _parents(address.domain))
        return below or address.domain in self._local

    def route(self, address: Mailbox) -> Route | None:
        """
        Where mail for an address of our own goes, checks aside; C{None} if no
        rule lets it in.
        """
        if self._returns is not None and self._returns.has(address):
            return self._returns.route
        rule = self._match(None, address)
        if rule is None:
            return None
        verdict = self._unrouted(rule.verdict, rule, address)
        return None if isinstance(verdict, Refuse) else verdict.route

    def _match(
        self, client: Client | None, address: Mailbox, isMember: bool = False
    ) -> Rule | None:
        named, user, wide = self._about(address)
        own = self._first(client, named, isMember)
        if own is None:
            own = self._first(client, user, isMember)
        other = self._first(client, wide, isMember)
        if own is None or (other is not None and other < own):
            own = other
        return None if own is None else self._rules[own]

    def _first(self, client: Client | None, indexes: Sequence[int], isMember: bool) -> int | None:
        """
        The first one of some rules that is for a client.
        """
        for index in indexes:
            if self._rules[index].allow is None or client is None:
                return index
            if self._lets(client, index, isMember):
                return index
        return None

    def _lets(self, client: Client, index: int, isMember: bool) -> bool:
        """
        Whether a rule is for a client: found out once for all that it names in a row.
        """
        if self._asker is None or self._asker[0] is not client or self._asker[1] is not isMember:
            self._asker, self._known = (client, isMember), {}
        found = self._known.get(index)
        if found is None:
            found = self._known[index] = self._rules[index].isFor(client, isMember)
        return found

    def _withoutDetail(self, address: Mailbox) -> Iterator[int]:
        """
        The rules that name an address without its subaddress.
        """
        for mark in self._marks:
            user, _ = splitSubaddress(address, mark)
            if user is not address:
                exact = Pattern(comparable(user.local), user.domain)
                found = self._indexes.get(exact, ())
                yield from (i for i in found if self._rules[i].subaddress == mark)

    def _rulesAbout(self, address: Mailbox) -> _About:
        """
        The rules that match an address: those that name it, that name its user, and
        that name more; each in their order.
        """
        exact, *wider = patternsOf(address)
        wide = sorted(index for key in wider for index in self._indexes.get(key, ()))
        return self._indexes.get(exact, ()), sorted(self._withoutDetail(address)), wide

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


def _withRule(
    opinion: EnvelopeVerdict, verdict: Accept | Defer, recipient: Recipient
) -> Accept | Defer:
    """
    A check that only says a route, or another policy, takes back nothing of what the
    rule and the checks before have said.
    """
    if isinstance(opinion, Refuse) or isinstance(verdict, Accept):
        return verdict
    route, ruled = verdict.route, recipient.route
    isMoved = route is not None and ruled is not None and route.policy != ruled.policy
    return opinion if verdict.asRuled or isMoved else verdict


def _marked(verdict: EnvelopeVerdict, subaddress: str) -> EnvelopeVerdict:
    """
    What checks say of a recipient does not change what a subaddress is.
    """
    if isinstance(verdict, Refuse) or verdict.route is None:
        return verdict
    if verdict.route.subaddress == subaddress:
        return verdict
    return attrs.evolve(verdict, route=attrs.evolve(verdict.route, subaddress=subaddress))


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
    if not patterns:
        return False
    return any(pattern in patterns for address in addresses for pattern in patternsOf(address))
