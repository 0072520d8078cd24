"""
What forwarding needs of a configuration, beside its own tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from deferrals.config.everysetting import settingsOf
from deferrals.interfaces import IOutwardPlugin
from deferrals.model.address import normalDomain
from deferrals.stages.delivery.forward import ForwardSettings
from deferrals.stages.delivery.lmtp import LMTPSettings
from deferrals.stages.envelope.callout import CalloutSettings
from deferrals.stages.envelope.rules import Pattern

if TYPE_CHECKING:
    from deferrals.config.tables import Config, DeliveryStage


def forwardProblems(config: Config) -> Iterator[tuple[str, str]]:
    """
    @return: keys, and what was expected there.
    """
    names = [name for name, one in config.deliveries.items() if _leadsOut(one)]
    for key, settings in settingsOf(config, ForwardSettings):
        if settings.through not in names:
            there = ", ".join(names) or "none there"
            yield f"{key}.through", f"the name of a delivery that leads out ({there})"
        if config.srs is None:
            yield "srs", f"a table: {key} rewrites reverse paths by it"
    yield from _calloutProblems(config)
    yield from _srsProblems(config)
    yield from _fileProblems(config)


def sealed(config: Config) -> list[str]:
    """
    @return: the keys that ask for a seal; what it is made with is in files.
    """
    return [f"{key}.arc" for key, settings in settingsOf(config, ForwardSettings) if settings.arc]


def _leadsOut(delivery: DeliveryStage) -> bool:
    isForward = isinstance(delivery.settings, ForwardSettings)
    return IOutwardPlugin.providedBy(delivery.plugin) and not isForward


def _calloutProblems(config: Config) -> Iterator[tuple[str, str]]:
    names = [name for name, one in config.deliveries.items() if _canBeAsked(one)]
    for key, settings in settingsOf(config, CalloutSettings):
        if settings.through is not None and settings.through not in names:
            there = ", ".join(names) or "none there"
            yield f"{key}.through", f"the name of a delivery whose servers can be asked ({there})"


def _canBeAsked(delivery: DeliveryStage) -> bool:
    isStore = isinstance(delivery.settings, LMTPSettings)
    return isStore or IOutwardPlugin.providedBy(delivery.plugin)


def _srsProblems(config: Config) -> Iterator[tuple[str, str]]:
    srs = config.srs
    if srs is None:
        return
    domain = normalDomain(srs.domain)
    patterns = [Pattern.parse(rule.match) for rule in config.recipients if rule.allow is None]
    isNamed = any(
        domain.endswith(f".{one.domain}") if one.below else domain == one.domain for one in patterns
    )
    if not isNamed and domain != normalDomain(config.hostname):
        yield (
            "srs.domain",
            "a domain that a rule for all names, or hostname: mail for it comes here",
        )
    if config.bounces not in config.deliveries:
        why = "what comes back to senders elsewhere goes by it"
        yield "bounces", f"the name of a delivery, since there is [srs]: {why}"


def _fileProblems(config: Config) -> Iterator[tuple[str, str]]:
    """
    Policies that have nowhere to file what is marked.
    """
    for rule in config.recipients:
        table = rule.deliver
        table = config.deliveries.get(table) if isinstance(table, str) else table
        policy = config.policies.get(rule.policy)
        if table is None or policy is None or not policy.mayJudge:
            continue
        settings = table.settings
        isFiling = isinstance(settings, ForwardSettings) and settings.marked == "file"
        if isFiling and policy.quarantine is None:
            why = 'a delivery: marked = "file" files there what is not forwarded'
            yield f"policies.{rule.policy}.quarantine", why
