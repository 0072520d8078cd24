"""
What no single table of a configuration can know: problems that keep it from being
used, and remarks on what is allowed and hardly meant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from deferrals.interfaces import IOutwardPlugin
from deferrals.model.mixed import Mixed
from deferrals.model.networks import Networks, normalAddress
from deferrals.stages.delivery.maildir import MaildirSettings
from deferrals.stages.delivery.pipe import PipeSettings
from deferrals.stages.envelope.rules import Allowed, Pattern

if TYPE_CHECKING:
    from deferrals.config.tables import Config, DeliveryStage, Listener, RecipientRule

#: A key, and what was expected there.
Problem = tuple[str, str]

#: Senders elsewhere are not told, and that is meant.
NO_BOUNCES = "none"

_LAST_PORT = 65535

_SCORES = ("refuse_score", "mark_score")

_TCP = re.compile(r"(?:tcp6?|ssl):(?:port=)?(\d+)(?::|$)")

_INTERFACE = re.compile(r"tcp6?:.*?interface=((?:\\.|[^:\\])*)")

#: Endpoints that are known to have no TLS of their own.
_CLEAR = ("tcp:", "tcp6:", "unix:", "systemd:")


def crossCheck(config: Config) -> list[Problem]:
    """
    What no single table can know.
    """
    problems = []
    if not config.listen:
        problems.append(("listen", "at least one [[listen]] table"))
    if config.consolidation_window >= config.reply_deadline:
        problems.append(("consolidation_window", "less than reply_deadline"))
    problems += _endpointProblems(config)
    problems += _mixedProblems(config)
    for index, listener in enumerate(config.listen):
        problems += _securityProblems(config, listener, f"listen[{index}].tls")
    problems += _bounceProblems(config)
    for index, rule in enumerate(config.recipients):
        problems += _ruleProblems(config, rule, f"recipients[{index}]")
    return problems + _relayProblems(config)


def _endpointProblems(config: Config) -> list[Problem]:
    """
    What Twisted finds out when it listens, or never: a port that none has, and two
    listeners in one place.
    """
    problems = []
    before: list[_Place] = []
    for index, listener in enumerate(config.listen):
        key, place = f"listen[{index}].endpoint", _Place.of(listener.endpoint)
        if place.port is not None and place.port > _LAST_PORT:
            problems.append((key, f"a port up to {_LAST_PORT}"))
        interface = _INTERFACE.search(listener.endpoint)
        if interface is not None and not _isAddress(interface[1].replace("\\", "")):
            problems.append((key, "an address of this machine as interface, not a name"))
        for other, one in enumerate(before):
            if place.meets(one):
                why = "" if place.text == one.text else ": both have all addresses of that port"
                problems.append((key, f"another place than that of listen[{other}]{why}"))
                break
        before.append(place)
    return problems


def _isAddress(text: str) -> bool:
    try:
        normalAddress(text)
    except ValueError:
        return not text
    return True


@attrs.frozen
class _Place:
    """
    Where an endpoint listens.

    @ivar text: its description.
    @ivar port: C{None} where it has none, or any.
    @ivar isWhole: whether it has all addresses of the port.
    """

    text: str
    port: int | None
    isWhole: bool

    @classmethod
    def of(cls, endpoint: str) -> _Place:
        text = endpoint.removeprefix("haproxy:")
        found = _TCP.match(text)
        port = int(found[1]) or None if found else None
        return cls(text, port, port is not None and "interface=" not in text)

    def meets(self, other: _Place) -> bool:
        """
        Whether only one of the two can be.
        """
        if self.port is None:
            return self.text == other.text and _TCP.match(self.text) is None
        if self.port != other.port:
            return False
        if not (self.isWhole or other.isWhole):
            return self.text == other.text
        # All IPv6 addresses of a port are its IPv4 addresses, too; not the other way round.
        isSix, isFour = (
            [one for one in (self, other) if one.text.startswith("tcp6:") is six]
            for six in (True, False)
        )
        return not (isSix and isFour and isFour[0].isWhole and not isSix[0].isWhole)


def remarks(config: Config) -> list[Problem]:
    """
    @return: what can be, and is hardly meant: rules that no recipient reaches,
        policies that no rule names, files that are not there, marks that no mail gets,
        one mailbox for many recipients.
    """
    found = []
    before: list[tuple[int, Pattern]] = []
    for index, rule in enumerate(config.recipients):
        pattern = Pattern.parse(rule.match)
        reached = next((other for other, one in before if one.covers(pattern)), None)
        if reached is not None:
            what = f"recipients[{reached}] is for all of these already: this rule is never asked"
            found.append((f"recipients[{index}].match", what))
        if rule.allow is None:
            before.append((index, pattern))
    used = {rule.policy for rule in config.recipients}
    found += [
        (f"policies.{name}", "no rule has it") for name in config.policies if name not in used
    ]
    return [*found, *_stageRemarks(config)]


def _stageRemarks(config: Config) -> Iterator[Problem]:
    for name, policy in config.policies.items():
        for index, stage in enumerate(policy.content):
            refuse, mark = (getattr(stage.settings, key, None) for key in _SCORES)
            if refuse is not None and mark is not None and refuse <= mark < float("inf"):
                why = f"refuse_score is {refuse:g}: no mail is marked"
                yield f"policies.{name}.content[{index}].mark_score", why
    for name, delivery in config.deliveries.items():
        yield from _deliveryRemarks(config, delivery, f"deliveries.{name}", True)
    for index, rule in enumerate(config.recipients):
        key, isMany = f"recipients[{index}]", Pattern.parse(rule.match).local == "*"
        if rule.deliver is not None and not isinstance(rule.deliver, str):
            yield from _deliveryRemarks(config, rule.deliver, f"{key}.deliver", isMany)
        for number, check in enumerate(rule.check):
            path = getattr(check.settings, "sqlite", None)
            if path is not None and not os.path.exists(os.path.join(config.baseDir, path)):
                yield f"{key}.check[{number}].sqlite", f"{path} is not there"


def _deliveryRemarks(
    config: Config, delivery: DeliveryStage, key: str, isMany: bool
) -> Iterator[Problem]:
    """
    @param isMany: whether it may be for more than one recipient.
    """
    settings = delivery.settings
    if isinstance(settings, PipeSettings) and not os.path.exists(settings.command[0]):
        yield f"{key}.command", f"{settings.command[0]} is not there"
    if isMany and isinstance(settings, MaildirSettings) and "{local}" not in settings.path:
        yield f"{key}.path", "one mailbox for all recipients: {local} is missing"


def _bounceProblems(config: Config) -> list[Problem]:
    """
    Whether senders can be told of what fails, or it is said that they are not.
    """
    if NO_BOUNCES in config.deliveries:
        return [(f"deliveries.{NO_BOUNCES}", "another name: this word means that there is none")]
    if config.bounces == NO_BOUNCES:
        return []
    if config.bounces is None:
        if not any(mayFail(config, rule) for rule in config.recipients):
            return []
        names = [name for name, one in config.deliveries.items() if not _isNowhere(one)]
        what = (
            f'{_named("delivery", names)} that leads to senders elsewhere, such as {{ use = "mx" }}'
        )
        return [("bounces", f'{what}; or "{NO_BOUNCES}": they are not told when mail fails')]
    delivery = config.deliveries.get(config.bounces)
    if delivery is None:
        return [("bounces", f'{_named("delivery", config.deliveries)}, or "{NO_BOUNCES}"')]
    if _isNowhere(delivery):
        return [("bounces", f'a delivery that leads to senders, or "{NO_BOUNCES}"')]
    return []


def mayFail(config: Config, rule: RecipientRule) -> bool:
    """
    Whether mail that was accepted by a rule may never be delivered.
    """
    policy = config.policies.get(rule.policy)
    if policy is None or policy.envelope == "refuse":
        return False
    deliver = rule.deliver
    stage = config.deliveries.get(deliver) if isinstance(deliver, str) else deliver
    return stage is not None and not _isNowhere(stage)


def _isNowhere(delivery: DeliveryStage) -> bool:
    return delivery.plugin.name == "discard"


def _named(what: str, there: Iterable[str]) -> str:
    """
    What is expected where something is named.
    """
    return f"the name of a {what} ({', '.join(there) or 'none there'})"


def _securityProblems(config: Config, listener: Listener, key: str) -> list[Problem]:
    if (listener.tls or "none") != "none" and config.certificateOf(listener) is None:
        return [(key, "a certificate, here or in [tls]")]
    if _locksOut(config, listener):
        return [(key, "TLS, or auth_without_tls: no client could log in")]
    return []


def _ruleProblems(config: Config, rule: RecipientRule, key: str) -> list[Problem]:
    problems = []
    policy = config.policies.get(rule.policy)
    if policy is None:
        problems.append((f"{key}.policy", _named("policy", config.policies)))
    elif policy.envelope != "refuse" and rule.deliver is None:
        problems.append((f"{key}.deliver", "a delivery, since its policy may accept"))
    if isinstance(rule.deliver, str) and rule.deliver not in config.deliveries:
        problems.append((f"{key}.deliver", _named("delivery", config.deliveries)))
    return problems


def _locksOut(config: Config, listener: Listener) -> bool:
    """
    Whether clients have to log in, and never can: passwords go over TLS only,
    and there is none.
    """
    if listener.authentication != "required" or listener.auth_without_tls:
        return False
    hasTLS = listener.tls != "none" and config.certificateOf(listener) is not None
    return not hasTLS and listener.endpoint.removeprefix("haproxy:").startswith(_CLEAR)


def _relayProblems(config: Config) -> list[Problem]:
    """
    The rules by which strangers could send to strangers: each by itself, or
    together with those before it.
    """
    problems = []
    networks = Networks()
    for index, rule in enumerate(config.recipients):
        if not _relays(config, rule):
            continue
        if rule.allow is not None:
            networks = networks.plus(Allowed.parse(rule.allow).networks)
        if rule.allow is None or networks.isEverybody:
            why = (
                "the clients that may send to any address, such as authenticated: without"
                " them this would be an open relay"
            )
            problems.append((f"recipients[{index}].allow", why))
            networks = Networks()
    return problems


def _relays(config: Config, rule: RecipientRule) -> bool:
    """
    Whether clients could send to strangers by a rule.
    """
    policy = config.policies.get(rule.policy)
    if Pattern.parse(rule.match).domain != "*" or (policy and policy.envelope == "refuse"):
        return False
    deliver = rule.deliver
    stage = config.deliveries.get(deliver) if isinstance(deliver, str) else deliver
    return stage is not None and IOutwardPlugin.providedBy(stage.plugin)


def _mixedProblems(config: Config) -> list[Problem]:
    """
    What listeners may choose for mixed mail, and what they need for it.
    """
    problems = []
    filing = ""
    for index, listener in enumerate(config.listen):
        key = f"listen[{index}].mixed"
        mixed = listener.mixed
        if listener.protocol == "submission" and mixed in (Mixed.SPLIT, Mixed.RETRY):
            why = f"never {mixed.value} for submission: clients show a 4xx as a failure"
            problems.append((key, why))
        if listener.mayFile:
            name, choice = key, listener.mixedChoice
            if choice in (Mixed.RETRY, Mixed.SPLIT):
                name, choice = f"{key}_fallback", listener.mixed_fallback
            filing = filing or f'{name} = "{choice.value}"'
    for name, policy in config.policies.items():
        key = f"policies.{name}.quarantine"
        if isinstance(policy.quarantine, str) and policy.quarantine not in config.deliveries:
            problems.append((key, _named("delivery", config.deliveries)))
        if filing and policy.envelope == "defer" and policy.quarantine is None:
            problems.append((key, f"a delivery: {filing} may have to file what is refused"))
    return problems
