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

from deferrals.config.everysetting import everySetting, settingsOf
from deferrals.config.forwarding import forwardProblems
from deferrals.config.patterns import patternRemarks
from deferrals.config.store import storeProblems
from deferrals.config.workers import endpointProblems
from deferrals.interfaces import IOutwardPlugin
from deferrals.model.address import normalDomain
from deferrals.model.aliasfile import Format
from deferrals.model.mixed import Mixed
from deferrals.model.networks import Networks, normalAddress
from deferrals.model.settings import TableName
from deferrals.stages.content.sieve import SieveSettings
from deferrals.stages.content.sieveprogram import findProgram
from deferrals.stages.delivery.maildir import MaildirSettings
from deferrals.stages.delivery.pipe import PipeSettings
from deferrals.stages.envelope.aliasbook import load
from deferrals.stages.envelope.aliases import MAX_FAULTS, AliasesSettings
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

_RULE = re.compile(r"recipients\[(\d+)\]")

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
    problems += endpointProblems(config)
    problems += _endpointProblems(config)
    problems += _mixedProblems(config)
    problems += _aliasProblems(config)
    problems += _quarantineProblems(config)
    for index, listener in enumerate(config.listen):
        problems += _securityProblems(config, listener, f"listen[{index}].tls")
    problems += _signingProblems(config)
    problems += _bounceProblems(config)
    problems += forwardProblems(config)
    problems += storeProblems(config)
    problems += _tableProblems(config)
    problems += _scoreProblems(config)
    for index, rule in enumerate(config.recipients):
        problems += _ruleProblems(config, rule, f"recipients[{index}]")
    return problems + _relayProblems(config)


def _quarantineProblems(config: Config) -> Iterator[Problem]:
    """
    Filters that may file what their policy has no place for.
    """
    for name, policy in config.policies.items():
        for number, stage in enumerate(policy.content):
            if policy.quarantine is None and "quarantine" in getattr(stage.settings, "may", ()):
                why = f"expected a quarantine for this policy: {stage.plugin.name} may quarantine"
                yield f"policies.{name}.content[{number}]", why


def _signingProblems(config: Config) -> list[Problem]:
    """
    Two keys in one place of DNS.
    """
    problems: list[Problem] = []
    places: dict[str, int] = {}
    for index, table in enumerate(config.dkim):
        other = places.setdefault(table.place, index)
        if other != index:
            why = f"another one than that of dkim[{other}], which has {table.place}"
            problems.append((f"dkim[{index}].selector", why))
    return problems


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
        one mailbox for many recipients, notices that no key signs, patterns that are
        taken literally.
    """
    found = []
    before: dict[Pattern, int] = {}
    for index, rule in enumerate(config.recipients):
        pattern = Pattern.parse(rule.match)
        reached = min((before[one] for one in pattern.covering() if one in before), default=None)
        if reached is not None:
            what = f"recipients[{reached}] is for all of these already: this rule is never asked"
            found.append((f"recipients[{index}].match", what))
        if rule.allow is None:
            before.setdefault(pattern, index)
    used = {rule.policy for rule in config.recipients}
    found += [
        (f"policies.{name}", "no rule has it") for name in config.policies if name not in used
    ]
    found += patternRemarks(config)
    return [*found, *_unjudged(config), *_signingRemarks(config), *_stageRemarks(config)]


def _unjudged(config: Config) -> Iterator[Problem]:
    """
    Content stages that are never asked, since their policy accepts in the envelope.
    """
    if not any(rule.check for rule in config.recipients):
        for name, policy in config.policies.items():
            if policy.envelope == "accept" and policy.content:
                why = "no rule has a check that could leave it to the content: it is never asked"
                yield f"policies.{name}.content", why


def _signingRemarks(config: Config) -> list[Problem]:
    """
    Keys for notices, whose domain none of them has.
    """
    domains = {normalDomain(one.domain) for one in config.dkim if "notices" in one.sign}
    own = normalDomain(config.hostname)
    if not domains or own in domains or config.bounces in (None, NO_BOUNCES):
        return []
    return [("dkim", f"notices are not signed: they are from {own}, which has no key here")]


def aliasRemarks(config: Config) -> Iterator[Problem]:
    """
    @return: what is wrong with lines of files of aliases.  Reads the files: not for a
        server that runs.
    """
    for key, settings in settingsOf(config, AliasesSettings):
        if settings.file is not None:
            for problem in _aliasFaults(config, settings.file, settings.form):
                yield f"{key}.file", problem


def _aliasFaults(config: Config, file: str, form: Format) -> Iterator[str]:
    try:
        problems = load(os.path.join(config.baseDir, file), form).book.problems
    except FileNotFoundError:
        return  # a remark of its own
    except (OSError, ValueError) as error:
        yield f"{file} cannot be read: {error}"
        return
    for line, problem in problems[:MAX_FAULTS]:
        yield f"{file}, line {line}: {problem}" if line else f"{file}: {problem}"
    if len(problems) > MAX_FAULTS:
        yield f"{file}: {len(problems) - MAX_FAULTS} more faults"


def _stageRemarks(config: Config) -> Iterator[Problem]:
    for key, settings in everySetting(config):
        refuse, mark = (getattr(settings, name, None) for name in _SCORES)
        if refuse is not None and mark is not None and refuse <= mark < float("inf"):
            yield f"{key}.mark_score", f"refuse_score is {refuse:g}: no mail is marked"
        if isinstance(settings, PipeSettings) and not os.path.exists(settings.command[0]):
            yield f"{key}.command", f"{settings.command[0]} is not there"
        if isinstance(settings, SieveSettings) and findProgram(settings.program) is None:
            yield (
                f"{key}.program",
                f"{settings.program} is not there: scripts are left to the store",
            )
        yield from _fileRemarks(config, settings, key, ("sqlite", "file", "password_file"))
    for name, table in config.tables.items():
        yield from _fileRemarks(config, table, f"tables.{name}", ("path",))
    yield from _mailboxRemarks(config)


def _fileRemarks(
    config: Config, settings: object, key: str, names: Iterable[str]
) -> Iterator[Problem]:
    """
    @param names: settings that name a file.
    """
    for name in names:
        path = getattr(settings, name, None)
        if path and not os.path.exists(os.path.join(config.baseDir, path)):
            yield f"{key}.{name}", f"{path} is not there"


def _mailboxRemarks(config: Config) -> Iterator[Problem]:
    """
    One mailbox for many recipients; where refused mail is filed, that is meant.
    """
    for key, settings in settingsOf(config, MaildirSettings):
        rule = _RULE.match(key)
        isMany = rule is None or Pattern.parse(config.recipients[int(rule[1])].match).local == "*"
        if isMany and not key.startswith("policies.") and "{local}" not in settings.path:
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


def _tableProblems(config: Config) -> Iterator[Problem]:
    """
    Settings that name a table that is not there.
    """
    for key, settings in everySetting(config):
        kind = type(settings)
        for name in attrs.fields_dict(kind) if attrs.has(kind) else ():
            value = getattr(settings, name, None)
            if isinstance(value, TableName) and value not in config.tables:
                yield f"{key}.{name}", _named("table", config.tables)


def _scoreProblems(config: Config) -> Iterator[Problem]:
    """
    Stages that go by the score of one that is not before them.
    """
    for name, policy in config.policies.items():
        before: list[str] = []
        for index, stage in enumerate(policy.content):
            settings = stage.settings
            if isinstance(settings, SieveSettings) and settings.score not in (None, *before):
                what = f"the use of a stage before this one ({', '.join(before) or 'none there'})"
                yield f"policies.{name}.content[{index}].score", what
            if any(hasattr(settings, key) for key in _SCORES):
                before.append(stage.plugin.name)


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


def _aliasProblems(config: Config) -> Iterator[Problem]:
    """
    What aliases need whose members may have to be filed.
    """
    aliases = settingsOf(config, AliasesSettings)
    filing = next((key for key, settings in aliases if settings.refusers == "file"), "")
    for name, policy in config.policies.items() if filing else ():
        if policy.mayJudge and policy.quarantine is None:
            why = f'{filing} may have to file what members refuse; or refusers = "drop" there'
            yield f"policies.{name}.quarantine", f"a delivery: {why}"


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
        if filing and policy.mayJudge and policy.quarantine is None:
            problems.append((key, f"a delivery: {filing} may have to file what is refused"))
    return problems
