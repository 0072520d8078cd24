"""
A configuration in sentences: what a server would do, for the operator who wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deferrals.config.crosscheck import NO_BOUNCES, mayFail
from deferrals.config.tables import (
    Config,
    ContentStage,
    DeliveryStage,
    EnvelopeStage,
    Listener,
    Policy,
    RecipientRule,
)

_ENVELOPE = {
    "accept": "accepted in the envelope, without a look at the content",
    "refuse": "refused",
    "defer": "decided after the data",
}


def explained(config: Config) -> Iterator[str]:
    """
    @return: lines: listeners, rules in their order, and who is told of what fails.
    """
    yield f"{config.hostname}, state in {config.stateDir}"
    for listener in config.listen:
        yield f"listens on {listener.endpoint}: {_listener(config, listener)}"
    for index, rule in enumerate(config.recipients):
        yield f"rule {index}: {rule.match}: {_rule(config, rule)}"
    yield "any other recipient: 550 5.1.1 in a domain that a rule names, 550 5.7.1 elsewhere"
    if config.srs is not None:
        domain, back = config.srs.domain, config.bounces
        yield f"reports to reverse paths rewritten at {domain}: back to their senders by {back}"
    yield _failing(config)


def _listener(config: Config, listener: Listener) -> str:
    hasTLS = listener.tls != "none" and config.certificateOf(listener) is not None
    words = [
        listener.protocol,
        "with TLS" if hasTLS else "without TLS",
        f"logins: {listener.authentication}",
        f"recipients that differ: {listener.mixedChoice.value}",
    ]
    return ", ".join(words)


def _rule(config: Config, rule: RecipientRule) -> str:
    policy = config.policies[rule.policy]
    parts = [f"policy {rule.policy}: {_policy(policy)}"]
    if rule.allow is not None:
        parts.insert(0, f"only from {', '.join(rule.allow)}")
    if rule.check:
        parts.append(f"first asked: {_uses(rule.check)}")
    if rule.deliver is not None and policy.envelope != "refuse":
        parts.append(f"delivered by {_delivery(config, rule.deliver)}")
    return "; ".join(parts)


def _policy(policy: Policy) -> str:
    what = _ENVELOPE[policy.envelope]
    if policy.envelope == "defer":
        what += f" by {_uses(policy.content) or 'no stage: accepted'}"
    elif policy.content:
        what += f"; where a check leaves it to the content: decided by {_uses(policy.content)}"
    return what


def _uses(stages: Sequence[EnvelopeStage | ContentStage]) -> str:
    return ", ".join(str(one.plugin.name) for one in stages)


def _delivery(config: Config, deliver: DeliveryStage | str) -> str:
    if isinstance(deliver, DeliveryStage):
        return str(deliver.plugin.name)
    return f"{deliver} ({config.deliveries[deliver].plugin.name})"


def _failing(config: Config) -> str:
    """
    What becomes of mail that was accepted and cannot be delivered.
    """
    failing = [rule.match for rule in config.recipients if mayFail(config, rule)]
    if not failing:
        return "no accepted mail can fail"
    what = f"mail that was accepted for {', '.join(failing)} may fail later: "
    if config.bounces == NO_BOUNCES:
        return f"{what}senders elsewhere are not told"
    return f"{what}senders are told, elsewhere by {config.bounces or 'no delivery'}"
