"""
What one configuration makes of the stages.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

import attrs

from deferrals.app.srs import secretsIn
from deferrals.config.crosscheck import NO_BOUNCES
from deferrals.config.tables import (
    Config,
    DeliveryStage,
    LookUpTable,
    Policy,
    RecipientRule,
    Stage,
)
from deferrals.deferreds import timeOfDay
from deferrals.errors import ConfigError
from deferrals.interfaces import (
    IContentStage,
    IDeliveryStage,
    IEnvelopeStage,
    INamedPlugin,
    IOnwardDelivery,
    IOutwardPlugin,
    ISharingDelivery,
    ITable,
)
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.disposition import NOT_TOLD
from deferrals.model.reply import R550_UNKNOWN_RECIPIENT, Reply
from deferrals.model.schedule import CONCURRENCY, Schedule
from deferrals.model.settings import BadSetting
from deferrals.model.srs import SRS
from deferrals.model.status import Parts
from deferrals.model.verdict import Accept, Defer, EnvelopeVerdict, Refuse, Route
from deferrals.plugins.finding import build
from deferrals.server.services import Services
from deferrals.stages.delivery.returned import ReturnDelivery
from deferrals.stages.envelope.chain import Pardons
from deferrals.stages.envelope.foreseen import Foreseen
from deferrals.stages.envelope.returns import Returns
from deferrals.stages.envelope.rules import Allowed, Onward, Pattern, Rule, RuleTable
from deferrals.stages.tables.frame import Table

_log = Logger(namespace="deferrals")

#: The delivery of mail for reverse paths that were rewritten: no table of C{[deliveries]}
#: can have this name.
SRS_DELIVERY = "[srs]"

Built = dict[tuple[INamedPlugin, object], object]


def deliveryNames(rules: Sequence[RecipientRule]) -> list[str]:
    """
    The names under which the spool remembers the deliveries of rules: the
    delivery's own, where it has one; otherwise what the rule matches, numbered
    where several match the same.  So queued mail follows its rule when the
    configuration changes.
    """
    seen: dict[str, int] = {}
    names = []
    for rule in rules:
        if isinstance(rule.deliver, str):
            names.append(rule.deliver)
            continue
        count = seen[rule.match] = seen.get(rule.match, 0) + 1
        names.append(rule.match if count == 1 else f"{rule.match}#{count}")
    return names


class StageSet:
    """
    What one configuration makes of the stages.

    @ivar envelope: the rules for recipients.
    @ivar tables: what stages look up, by name.
    @ivar policies: the content stages of each policy.
    @ivar deliveries: delivery stages by name.
    @ivar schedules: when what they could not deliver is tried again, by name.
    @ivar quarantines: for policies that have one: the name of the delivery that
        gets what they refuse of a message that had to be accepted.
    @param former: the stages before a reload: those with equal settings are
        taken over, with their connections.
    """

    def __init__(self, config: Config, services: Services, former: StageSet | None = None) -> None:
        self._config = config
        self._services = services
        self._former: Built = former.built if former is not None else {}
        self._formerlyShown = former._shownBy if former is not None else {}
        self.built: Built = {}
        self._shownBy: dict[tuple[INamedPlugin, object], Parts] = {}
        self.tables = {name: self._table(name, one) for name, one in config.tables.items()}
        self.policies = {name: self._contentStages(name) for name in config.policies}
        self.deliveries: dict[str, IDeliveryStage] = {}
        self.schedules: dict[str, Schedule] = {}
        self._onward: set[str] = set()
        for name, delivery in config.deliveries.items():
            self._addDelivery(name, delivery, f"deliveries.{name}")
        self.quarantines = dict(self._quarantineNames())
        self._returns = self._makeReturns()
        names = deliveryNames(config.recipients)
        rules = [self._rule(index, name) for index, name in enumerate(names)]
        verdicts = {
            name: _verdict(policy, Route(name, "")) for name, policy in config.policies.items()
        }
        onward = Onward(self._onward, self.quarantines)
        foreseen = Foreseen(self.deliveries)
        self.envelope = RuleTable(
            rules,
            services.hostname,
            verdicts,
            self.deliveries,
            onward,
            foreseen,
            self._returns,
            Pardons(services.admissions.pardons, services.status.useOf),
        )

    def routeBack(self, sender: Mailbox) -> Route | None:
        """
        Where notices for a sender go: as the rules say for one of our own, and
        for all others to the delivery C{bounces}.
        """
        if self.envelope.isOurs(sender):
            return self.envelope.route(sender)
        bounces = self._config.bounces
        if bounces == NO_BOUNCES:
            return NOT_TOLD
        return None if bounces is None else Route("", bounces)

    def reversePath(self, sender: Mailbox) -> Mailbox:
        """
        The one under which mail of a sender is forwarded.
        """
        return sender if self._returns is None else self._returns.reversePath(sender)

    def _makeReturns(self) -> Returns | None:
        """
        What knows reverse paths that are rewritten, with the delivery that leads back.
        """
        settings, services = self._config.srs, self._services
        if settings is None:
            return None
        try:
            secrets = secretsIn(os.path.join(self._config.baseDir, settings.secret_file))
        except ValueError as error:
            problem = ("srs.secret_file", f"expected {error}")
            raise ConfigError(self._config.path, [problem]) from None
        srs = SRS.make(settings, secrets)
        self.deliveries[SRS_DELIVERY] = back = ReturnDelivery(srs, services, self.routeBack)
        services.status.named(back, "srs")
        bounces = self._config.bounces
        assert bounces is not None  # checked, where there is [srs]
        self.schedules[SRS_DELIVERY] = self.schedules[bounces]
        return Returns(
            srs,
            partial(timeOfDay, services.reactor),
            lambda sender: self.envelope.isOurs(sender),
            Route("", SRS_DELIVERY),
            settings.any_sender,
        )

    def _table(self, name: str, table: LookUpTable) -> Table:
        """
        A table in its frame; the one from before the reload, where that says the same.
        """
        source = ITable(self._build(table, f"tables.{name}"))
        same = (table.plugin, (name, table.settings, table.frame))
        kept = self._kept(same, lambda: Table(name, source, table.frame, self._services))
        assert isinstance(kept, Table)
        return kept

    def show(self) -> None:
        """
        They are in force: what names a table finds these, and what is known of their
        rows may have changed.
        """
        self._services.tables.now = self.tables
        policies = self._config.policies.items()
        self._services.admissions.lifted = {name: frozenset(one.admits) for name, one in policies}
        self._services.status.ofStages = self.shown
        for table in self.tables.values():
            table.renew()

    def _contentStages(self, policy: str) -> list[IContentStage]:
        tables = self._config.policies[policy].content
        return [
            IContentStage(self._build(table, f"policies.{policy}.content[{index}]"))
            for index, table in enumerate(tables)
        ]

    def _addDelivery(self, name: str, table: DeliveryStage, key: str) -> None:
        self.deliveries[name] = built = IDeliveryStage(self._build(table, key))
        if IOnwardDelivery.providedBy(built) or IOutwardPlugin.providedBy(table.plugin):
            self._onward.add(name)
        limit = None if ISharingDelivery.providedBy(built) else CONCURRENCY
        self.schedules[name] = _divided(table.schedule, self._config.sharers, limit)

    def _quarantineNames(self) -> list[tuple[str, str]]:
        """
        The policies that have a quarantine, with the name of its delivery: its
        own, or that of the key where its table stands.
        """
        found = []
        for policy, table in self._config.policies.items():
            key, delivery = f"policies.{policy}.quarantine", table.quarantine
            if isinstance(delivery, DeliveryStage):
                self._addDelivery(key, delivery, key)
                delivery = key
            if delivery is not None:
                found.append((policy, delivery))
        return found

    def _rule(self, index: int, name: str) -> Rule:
        """
        One C{[[recipients]]} table.

        @param name: its delivery's.
        """
        rule, key = self._config.recipients[index], f"recipients[{index}]"
        mark = self._config.subaddress if rule.subaddress is None else rule.subaddress
        if isinstance(rule.deliver, DeliveryStage):
            self._addDelivery(name, rule.deliver, f"{key}.deliver")
        checks = [
            IEnvelopeStage(self._build(table, f"{key}.check[{number}]"))
            for number, table in enumerate(rule.check)
        ]
        delivery = self.deliveries.get(name)
        if IEnvelopeStage.providedBy(delivery):
            checks.append(delivery)
        why = f'{key} "{rule.match}"'
        route = Route(rule.policy, name, subaddress=mark)
        verdict = _verdict(self._config.policies[rule.policy], route, why)
        allow = None if rule.allow is None else Allowed.parse(rule.allow)
        pattern = Pattern.parse(rule.match)
        return Rule(pattern, verdict, checks, allow, rule.sender_routing, mark)

    def _build(self, table: Stage, key: str) -> object:
        """
        A stage's object; one for all tables that say the same.
        """
        plugin, settings = table.plugin, table.settings
        try:
            return self._kept((plugin, settings), lambda: build(plugin, settings, self._services))
        except ValueError as error:
            if isinstance(error, BadSetting):
                key = f"{key}.{error.key}"
            raise ConfigError(self._config.path, [(key, f"expected {error}")]) from None

    def _kept(self, same: tuple[INamedPlugin, object], make: Callable[[], object]) -> object:
        """
        What all that says the same has in common; from before the reload, where it was
        there.
        """
        if same not in self.built:
            with self._services.status.collecting() as parts:
                self.built[same] = self._former.get(same) or make()
            self._shownBy[same] = {**self._formerlyShown.get(same, {}), **parts}
        return self.built[same]

    @property
    def shown(self) -> Parts:
        """
        What they show of themselves in the status.
        """
        return {part: one for parts in self._shownBy.values() for part, one in parts.items()}


def _divided(schedule: Schedule, count: int, limit: int | None) -> Schedule:
    """
    @param limit: what stands for its C{concurrency} by default.
    @return: what one of so many processes goes by.
    """
    limit = schedule.concurrency or limit
    if count == 1 or limit is None:
        return schedule
    return attrs.evolve(schedule, concurrency=max(1, limit // count))


def _verdict(policy: Policy, route: Route, why: str = "") -> EnvelopeVerdict:
    """
    @param why: which rule has the policy.
    """
    if policy.envelope == "refuse":
        reply = Reply.parseRefusal(policy.reply) if policy.reply else R550_UNKNOWN_RECIPIENT
        return Refuse(reply, why=why)
    return Accept(route=route, why=why) if policy.envelope == "accept" else Defer(route, why=why)
