"""
What one configuration makes of the stages.
"""

from __future__ import annotations

from collections.abc import Sequence

from deferrals.config.crosscheck import NO_BOUNCES
from deferrals.config.tables import (
    Config,
    DeliveryStage,
    Policy,
    RecipientRule,
    Stage,
)
from deferrals.errors import ConfigError
from deferrals.interfaces import (
    IContentStage,
    IDeliveryStage,
    IEnvelopeStage,
    IOnwardDelivery,
    IOutwardPlugin,
    IServices,
    IStagePlugin,
)
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.disposition import NOT_TOLD
from deferrals.model.reply import R550_UNKNOWN_RECIPIENT, Reply
from deferrals.model.schedule import Schedule
from deferrals.model.verdict import Accept, Defer, EnvelopeVerdict, Refuse, Route
from deferrals.plugins.finding import build
from deferrals.stages.envelope.foreseen import Foreseen
from deferrals.stages.envelope.rules import Allowed, Onward, Pattern, Rule, RuleTable

_log = Logger(namespace="deferrals")

Built = dict[tuple[IStagePlugin, object], object]


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
    @ivar policies: the content stages of each policy.
    @ivar deliveries: delivery stages by name.
    @ivar schedules: when what they could not deliver is tried again, by name.
    @ivar quarantines: for policies that have one: the name of the delivery that
        gets what they refuse of a message that had to be accepted.
    @param former: the stages before a reload: those with equal settings are
        taken over, with their connections.
    """

    def __init__(self, config: Config, services: IServices, former: StageSet | None = None) -> None:
        self._config = config
        self._services = services
        self._former: Built = former.built if former is not None else {}
        self.built: Built = {}
        self.policies = {name: self._contentStages(name) for name in config.policies}
        self.deliveries: dict[str, IDeliveryStage] = {}
        self.schedules: dict[str, Schedule] = {}
        self._onward: set[str] = set()
        for name, delivery in config.deliveries.items():
            self._addDelivery(name, delivery, f"deliveries.{name}")
        self.quarantines = dict(self._quarantineNames())
        names = deliveryNames(config.recipients)
        rules = [self._rule(index, name) for index, name in enumerate(names)]
        verdicts = {
            name: _verdict(policy, Route(name, "")) for name, policy in config.policies.items()
        }
        onward = Onward(self._onward, self.quarantines)
        foreseen = Foreseen(self.deliveries)
        self.envelope = RuleTable(
            rules, services.hostname, verdicts, self.deliveries, onward, foreseen
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
        self.schedules[name] = table.schedule

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
        if isinstance(rule.deliver, DeliveryStage):
            self._addDelivery(name, rule.deliver, f"{key}.deliver")
        checks = [
            IEnvelopeStage(self._build(table, f"{key}.check[{number}]"))
            for number, table in enumerate(rule.check)
        ]
        delivery = self.deliveries.get(name)
        if IEnvelopeStage.providedBy(delivery):
            checks.append(delivery)
        verdict = _verdict(self._config.policies[rule.policy], Route(rule.policy, name))
        allow = None if rule.allow is None else Allowed.parse(rule.allow)
        return Rule(Pattern.parse(rule.match), verdict, checks, allow, rule.sender_routing)

    def _build(self, table: Stage, key: str) -> object:
        """
        A stage's object; one for all tables that say the same.
        """
        same = (table.plugin, table.settings)
        if same not in self.built:
            try:
                self.built[same] = self._former.get(same) or build(
                    table.plugin, table.settings, self._services
                )
            except ValueError as error:
                raise ConfigError(self._config.path, [(key, f"expected {error}")]) from None
        return self.built[same]


def _verdict(policy: Policy, route: Route) -> EnvelopeVerdict:
    if policy.envelope == "refuse":
        return Refuse(Reply.parseRefusal(policy.reply) if policy.reply else R550_UNKNOWN_RECIPIENT)
    return Accept(route=route) if policy.envelope == "accept" else Defer(route)
