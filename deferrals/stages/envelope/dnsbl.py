"""
The envelope stage C{dnsbl}: ask DNS lists about the client, its name and its sender
(RFC 5782), at RCPT TO.

What lists say counts together, each with its weight: enough of it refuses; less of it
leaves a recipient to the content, even where its policy would accept in the envelope.
So of one message's recipients one may refuse a listed client, one may have its content
judged, and one takes it.

Clients that have logged in, and those that are not the Internet's, are not asked
about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
from cachetools import LRUCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel
from zope.interface import implementer

from deferrals.deferreds import SharedResult, together
from deferrals.interfaces import IEnvelopeStage, IServices
from deferrals.logger import Logger
from deferrals.model.dnslists import (
    MAX_NAME_OCTETS,
    DNSList,
    clientName,
    isOutside,
    listedNames,
    shownText,
)
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.networks import dnsServers
from deferrals.model.reply import Reply
from deferrals.model.settings import BadSetting, Seconds, checked, positive, template
from deferrals.model.verdict import Defer, Refuse, Route
from deferrals.stages.envelope.listzone import ListZone

_log = Logger(namespace="deferrals.stages.dnsbl")

#: So many transactions are remembered, each with what lists say of it.
MAX_JUDGED = 1000

R451_NO_LIST = Reply(451, "4.4.3", "whether the client is listed cannot be found out now")


def _reply(value: str) -> None:
    template(value, "client", "zone", "text")
    Reply.parseRefusal(value)


@attrs.frozen
class DNSBLSettings:
    """
    @ivar lists: the lists, each a table, see below.
    @ivar refuse_weight: the sum of weights from which on the client is refused; with
        less, but more than 0, the content decides.
    @ivar dns: the DNS servers that are asked, each perhaps with C{:PORT}; by default
        those of the whole configuration.
    @ivar timeout: how long one answer may take; all lists are asked at once.
    @ivar cache: how long an answer is remembered at most, also that a name is not
        listed; DNS may say less.
    @ivar on_error: what it means that a list does not answer: as if it were not there,
        C{"skip"}, or 451.
    @ivar reply: what the client is refused with; C{{client}} is what is listed, an
        address or a name, C{{zone}} the list, C{{text}} what that says of it (TXT).
    """

    lists: tuple[DNSList, ...]
    refuse_weight: float = 1.0
    dns: tuple[str, ...] = attrs.field(default=(), validator=checked(dnsServers))
    timeout: Seconds = attrs.field(default=Seconds(5), validator=checked(positive))
    cache: Seconds = attrs.field(default=Seconds(300), validator=checked(positive))
    on_error: Literal["refuse-temporarily", "skip"] = "skip"
    reply: str = attrs.field(
        default="550 5.7.1 {client} is listed by {zone}: {text}", validator=checked(_reply)
    )

    def __attrs_post_init__(self) -> None:
        if not self.lists:
            raise BadSetting("lists", "one list at least")
        if not self.refuse_weight > 0:
            raise BadSetting("refuse_weight", "more than 0")
        if all(one.weight < 0 for one in self.lists):
            raise BadSetting("lists", "one list at least whose weight is more than 0")


@attrs.frozen
class _Listing:
    """
    What one list says.

    @ivar list: the list.
    @ivar name: what it has listed, as DNS has it; empty where there is nothing.
    @ivar shown: that, for people.
    @ivar problem: why there is no answer; empty where there is one.
    """

    list: DNSList
    name: str = ""
    shown: str = ""
    problem: str = ""


@implementer(IEnvelopeStage)
class DNSBLStage:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: DNSBLSettings, services: IServices) -> None:
        self._settings = settings
        self._status = services.status
        self._found: LRUCache[int, SharedResult[list[_Listing]]] = LRUCache(MAX_JUDGED)
        self._zones = {one: self._zone(one, services) for one in settings.lists}

    def _zone(self, one: DNSList, services: IServices) -> ListZone:
        """
        One for all policies that ask a list in the same way.
        """
        servers, timeout = dnsServers(self._settings.dns), self._settings.timeout
        key = (__name__, one.domain, one.shown, servers, timeout, self._settings.cache)
        return services.common(
            key, lambda: ListZone(one.shown, services, servers, timeout, self._settings.cache)
        )

    def judgeRecipient(
        self, envelope: Envelope, recipient: Recipient
    ) -> Deferred[Refuse | Defer | None] | None:
        client = envelope.client
        if client.user is not None or not isOutside(client.address):
            return None
        return Deferred.fromCoroutine(self._judge(envelope, recipient))

    def _listings(self, envelope: Envelope) -> Deferred[list[_Listing]]:
        """
        What the lists say, found out once for all recipients of a transaction.
        """
        shared = self._found.get(envelope.transaction)
        if shared is None or shared.abandoned:
            asked = (self._ask(one, envelope) for one in self._settings.lists)
            shared = SharedResult(together(map(Deferred.fromCoroutine, asked)))
            self._found[envelope.transaction] = shared
        return shared.wait()

    async def _judge(self, envelope: Envelope, recipient: Recipient) -> Refuse | Defer | None:
        found = await self._listings(envelope)
        silent = [one for one in found if one.problem]
        listed = [one for one in found if one.name]
        weight = sum(one.list.weight for one in listed)
        why = ", ".join(f"{one.list.shown} {one.list.weight:g}" for one in listed)
        limit = self._limit(recipient)
        if weight >= limit:
            if weight + sum(min(0.0, one.list.weight) for one in silent) < limit:
                # A list that may speak for the client is silent: that is no end.
                return Refuse(R451_NO_LIST, why=f"dnsbl: {why}; {_names(silent)} silent")
            return Refuse(await self._refusal(listed), why=f"dnsbl: {why}")
        if silent and self._settings.on_error == "refuse-temporarily":
            return Refuse(R451_NO_LIST, why=f"dnsbl: {_names(silent)} silent")
        return Defer(why=f"dnsbl: {why}") if weight > 0 else None

    def _limit(self, recipient: Recipient) -> float:
        """
        The weight from which on a recipient refuses: its own, where a check before this
        one says so.
        """
        own = (recipient.route or Route("", "")).own("dnsbl", "refuse_weight")
        return float(own) if own is not None and float(own) > 0 else self._settings.refuse_weight

    async def _ask(self, one: DNSList, envelope: Envelope) -> _Listing:
        names = _namesFor(one, envelope)
        asked = [Deferred.fromCoroutine(self._askFor(one, *each, envelope)) for each in names]
        found = await together(asked)
        listed = [each for each in found if each.name]
        silent = [each for each in found if each.problem]
        return next(iter([*listed, *silent]), _Listing(one))

    async def _askFor(self, one: DNSList, name: str, shown: str, envelope: Envelope) -> _Listing:
        try:
            answers = await self._zones[one].addresses(name)
        except CancelledError:
            raise
        except Exception as error:
            return self._silent(one, envelope, error)
        isListed = one.means(answers)
        self._status.count("dnsbl", f"{one.shown} {'listed' if isListed else 'not listed'}")
        return _Listing(one, name, shown) if isListed else _Listing(one)

    def _silent(self, one: DNSList, envelope: Envelope, error: Exception) -> _Listing:
        problem = f"{type(error).__name__}: {error}"
        self._status.count("dnsbl", f"{one.shown} silent")
        if not self._zones[one].isToldNow():
            return _Listing(one, problem=problem)
        _log.tell(
            self._status,
            "{transaction}: not asked {list}, so {on_error}: {error}",
            event="no-list",
            level=LogLevel.warn,
            transaction=envelope.id,
            list=one.shown,
            on_error=self._settings.on_error,
            error=problem,
        )
        return _Listing(one, problem=problem)

    async def _refusal(self, listed: Sequence[_Listing]) -> Reply:
        """
        In the words of the list that counts most.
        """
        first = max(listed, key=lambda one: one.list.weight)
        text = shownText(await self._zones[first.list].text(first.name))
        reply = Reply.parseRefusal(self._settings.reply)
        said = reply.text.format(client=first.shown, zone=first.list.shown, text=text)
        return attrs.evolve(reply, text=said.rstrip(": "))


def _namesFor(one: DNSList, envelope: Envelope) -> Sequence[tuple[str, str]]:
    """
    What a list is asked about: names as DNS has them, and as people see them.
    """
    client, sender = envelope.client, envelope.sender
    if one.kind == "client":
        found = [(clientName(client.address), client.address)]
    else:
        domains = [client.helo] if sender is None else [client.helo, sender.domain]
        found = [(name, name) for name in listedNames(domains)]
    whole = [(f"{name}.{one.domain}", shown) for name, shown in found]
    return [(name, shown) for name, shown in whole if len(name) <= MAX_NAME_OCTETS]


def _names(silent: Sequence[_Listing]) -> str:
    return ", ".join(one.list.shown for one in silent)
