"""
What one configuration makes of the stages.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from deferrals.app.services import Services
from deferrals.config.tables import Config, DeliveryStage, Policy, RecipientRule, Stage
from deferrals.errors import ConfigError
from deferrals.interfaces import IEnvelopeStage
from deferrals.model.address import Mailbox
from deferrals.model.reply import R550_UNKNOWN_RECIPIENT, Reply
from deferrals.model.verdict import Accept, Defer, EnvelopeVerdict, Refuse, Route
from deferrals.stages.content.judge import ContentJudge
from deferrals.stages.envelope.rules import Allowed, Pattern, Rule, RuleTable

_log = Logger(namespace="deferrals")


def deliveryNames(rules: tuple[RecipientRule, ...]) -> list[str]:
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

    @ivar envelope: the first envelope stage.
    @ivar content: the judge over all policies.
    @ivar deliveries: delivery stages by name.
    @ivar schedules: when what they could not deliver is tried again, by name.
    @param former: the house before a reload: stages with equal settings are
        taken over, with their connections.
    """

    def __init__(self, config: Config, services: Services, former: StageSet | None = None) -> None:
        self._services = services
        self._former = former.built if former is not None else {}
        self.built: dict[tuple[Any, Any], Any] = {}
        policies = {
            name: [
                self._build(stage, config, f"policies.{name}.content[{place}]")
                for place, stage in enumerate(policy.content)
            ]
            for name, policy in config.policies.items()
        }
        self.content = ContentJudge(policies, config.max_judging)
        self.deliveries = {
            name: self._build(stage, config, f"deliveries.{name}")
            for name, stage in config.deliveries.items()
        }
        self.schedules = {name: stage.schedule for name, stage in config.deliveries.items()}
        self.bounces = config.bounces
        self._quarantines = {
            name: self._named(policy.quarantine, f"policies.{name}.quarantine", config)
            for name, policy in config.policies.items()
            if policy.quarantine is not None
        }
        rules = []
        names = deliveryNames(config.recipients)
        for place, (rule, name) in enumerate(zip(config.recipients, names, strict=True)):
            key = f"recipients[{place}]"
            if isinstance(rule.deliver, Stage):
                self.deliveries[name] = self._build(rule.deliver, config, f"{key}.deliver")
                self.schedules[name] = rule.deliver.schedule
            verdict = _verdict(config.policies[rule.policy], Route(rule.policy, name))
            checks = [
                self._build(stage, config, f"{key}.check[{number}]")
                for number, stage in enumerate(rule.check)
            ]
            delivery = self.deliveries.get(name)
            if IEnvelopeStage.providedBy(delivery):
                checks.append(delivery)
            allow = None if rule.allow is None else Allowed.parse(rule.allow)
            rules.append(Rule(Pattern.parse(rule.match), verdict, checks, allow))
        verdicts = {
            name: _verdict(policy, Route(name, "")) for name, policy in config.policies.items()
        }
        self.envelope = RuleTable(rules, services.hostname, verdicts, self.deliveries)
        #: Whether BODY=BINARYMIME can go everywhere as it is.
        self.takesBinary = all(
            getattr(stage, "takesBinary", False) for stage in self.deliveries.values()
        )

    def quarantine(self, policy: str) -> str | None:
        """
        The name of the delivery that gets what a policy refuses of a message
        that had to be accepted; L{None} for none.
        """
        return self._quarantines.get(policy)

    def _named(self, delivery: DeliveryStage | str, key: str, config: Config) -> str:
        """
        A delivery's own name; that of its place, where it has none.
        """
        if isinstance(delivery, str):
            return delivery
        self.deliveries[key] = self._build(delivery, config, key)
        self.schedules[key] = delivery.schedule
        return key

    def routeBack(self, sender: Mailbox) -> Route | None:
        """
        Where notices for a sender go: as the rules say for one of our own, and
        for all others to the delivery C{bounces}.
        """
        if self.envelope.isOurs(sender):
            return self.envelope.route(sender)
        return None if self.bounces is None else Route("", self.bounces)

    def _build(self, stage: Stage, config: Config, key: str) -> Any:
        """
        A stage's object; one for all tables that say the same.
        """
        same = (stage.plugin, stage.settings)
        if same not in self.built:
            try:
                self.built[same] = self._former.get(same) or stage.plugin.build(
                    stage.settings, self._services
                )
            except ValueError as error:
                raise ConfigError(config.path, [(key, f"expected {error}")]) from None
        return self.built[same]


def _verdict(policy: Policy, route: Route) -> EnvelopeVerdict:
    if policy.envelope == "refuse":
        return Refuse(Reply.parseRefusal(policy.reply) if policy.reply else R550_UNKNOWN_RECIPIENT)
    return Accept(route=route) if policy.envelope == "accept" else Defer(route)
