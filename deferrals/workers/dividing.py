"""
What one worker has of what all have together: so much may be under way at once.
"""

from __future__ import annotations

from typing import Any, TypeVar

import attrs

from deferrals.config.tables import Config, Policy, RecipientRule, Stage

#: The settings of stages that say how much.
_AT_ONCE = ("concurrency", "connections")

_S = TypeVar("_S", bound=Stage)


def divided(config: Config, count: int) -> Config:
    """
    @param count: how many workers there are.
    @return: what one of them goes by: its part of each number, and 1 at least.  What
        people see of the server is its parent's.
    """
    found = attrs.evolve(
        config,
        web=None,
        max_judging=_part(config.max_judging, count),
        max_delivering=_part(config.max_delivering, count),
        deliveries={name: _stage(one, count) for name, one in config.deliveries.items()},
        policies={name: _policy(one, count) for name, one in config.policies.items()},
        recipients=tuple(_rule(one, count) for one in config.recipients),
    )
    found.cameFrom(config.path, config.text, count)
    return found


def _part(number: int, count: int) -> int:
    return max(1, number // count)


def _policy(policy: Policy, count: int) -> Policy:
    content = tuple(_stage(one, count) for one in policy.content)
    quarantine = policy.quarantine
    if isinstance(quarantine, Stage):
        quarantine = _stage(quarantine, count)
    return attrs.evolve(policy, content=content, quarantine=quarantine)


def _rule(rule: RecipientRule, count: int) -> RecipientRule:
    deliver = rule.deliver
    if isinstance(deliver, Stage):
        deliver = _stage(deliver, count)
    check = tuple(_stage(one, count) for one in rule.check)
    return attrs.evolve(rule, deliver=deliver, check=check)


def _stage(stage: _S, count: int) -> _S:
    settings: Any = stage.settings
    known = {field.name: getattr(settings, field.name) for field in attrs.fields(type(settings))}
    changes = {
        name: _part(known[name], count) for name in _AT_ONCE if isinstance(known.get(name), int)
    }
    return attrs.evolve(stage, settings=attrs.evolve(settings, **changes)) if changes else stage
