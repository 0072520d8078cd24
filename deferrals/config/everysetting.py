"""
The settings of all stages that a configuration names, each with its key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from deferrals.config.tables import Config, Stage

_T = TypeVar("_T")


def everySetting(config: Config) -> Iterator[tuple[str, object]]:
    """
    @return: the key of each stage, such as C{recipients[0].check[1]}, and its
        settings; those of C{[submission]} first.
    """
    yield "submission", config.submission
    for key, stage in _stages(config):
        if not (stage is None or isinstance(stage, str)):
            yield key, stage.settings


def settingsOf(config: Config, kind: type[_T]) -> Iterator[tuple[str, _T]]:
    """
    @return: the keys and settings of the stages of one kind.
    """
    for key, settings in everySetting(config):
        if isinstance(settings, kind):
            yield key, settings


def _stages(config: Config) -> Iterator[tuple[str, Stage | str | None]]:
    """
    @return: a stage, or the name of a delivery, or none.
    """
    for name, policy in config.policies.items():
        for number, one in enumerate(policy.content):
            yield f"policies.{name}.content[{number}]", one
        yield f"policies.{name}.quarantine", policy.quarantine
    for name, delivery in config.deliveries.items():
        yield f"deliveries.{name}", delivery
    for index, rule in enumerate(config.recipients):
        for number, check in enumerate(rule.check):
            yield f"recipients[{index}].check[{number}]", check
        yield f"recipients[{index}].deliver", rule.deliver
