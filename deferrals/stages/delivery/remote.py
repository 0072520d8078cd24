"""
Delivery to other servers: what C{lmtp}, C{smtp} and C{mx} have in common.

Servers are tried one after the other.  A recipient that was taken, or refused
for good, is done with.  One that was refused for now, met no server at all, or one
that lacks an extension which the message needs, is offered to the next server.
Where a server was given the message and its answer was lost, it may have taken the
message: its recipients are not offered to another one at once (D-21).  Outcomes are
what L{deferrals.model.answers} says.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import quoteStringArgument

from deferrals.errors import HopError
from deferrals.interfaces import IMessage, IServices
from deferrals.logger import Logger
from deferrals.model.answers import Answer
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Form, Recipient
from deferrals.model.outgoing import (
    PREFERENCE,
    Hop,
    Outgoing,
    Security,
    Sent,
    Timeouts,
    mailParameters,
    recipientParameters,
    wireAddress,
)
from deferrals.model.reply import R554_ROUTING_LOOP, Reply
from deferrals.model.sending import (
    R550_NO_REQUIRETLS,
    R554_COMES_BACK,
    foreseen,
    isLack,
    noSession,
    unfit,
)
from deferrals.model.settings import Seconds, checked, positive
from deferrals.model.verdict import Delivered, Details, Failed, Outcome, Retry
from deferrals.stages.delivery.copies import Report, deliverApart
from deferrals.stages.delivery.copy import Copy, byMarks, relayed
from deferrals.stages.delivery.sevenbit import MOST_OCTETS, sevenBit
from deferrals.threads import Threads
from deferrals.tls import isTLS

_log = Logger(namespace="deferrals.delivery")

#: A message of at most this size is read through in the reactor thread.
_SMALL_OCTETS = 64 * 1024

#: So many messages are converted at once.
_CONVERTING = 2

#: What L{HopError} says of a server that calls itself as we do.
_OURSELVES = "4.4.6"

#: The extensions that give each recipient an answer, as settings name them.
FORMS = {form.value: form for form in PREFERENCE}

Outcomes = dict[Addressee, Outcome]


def forms(names: tuple[str, ...]) -> tuple[Form, ...]:
    """
    The extensions that a setting names.

    @raise ValueError: there is no such extension.
    """
    if not set(names) <= set(FORMS):
        raise ValueError(f"some of {', '.join(FORMS)}")
    return tuple(FORMS[name] for name in names)


@attrs.frozen(kw_only=True)
class ConnectionSettings:
    """
    @ivar connections: to one server at once; the next message waits.
    @ivar messages: over one connection, before it is closed.
    @ivar recipients: in one transaction; more make another one.
    @ivar idle_timeout: how long a connection that is not used is kept.
    @ivar timeout: for each reply in the envelope; behind the data it is always
        10 minutes (D-24).
    """

    connections: int = attrs.field(default=5, validator=checked(positive))
    messages: int = attrs.field(default=100, validator=checked(positive))
    recipients: int = attrs.field(default=100, validator=checked(positive))
    idle_timeout: Seconds = attrs.field(default=Seconds(30), validator=checked(positive))
    timeout: Seconds = attrs.field(default=Seconds(300), validator=checked(positive))

    def limiting(self, hop: Hop) -> Hop:
        """
        @return: the same server, spoken to within these limits.
        """
        return attrs.evolve(
            hop,
            connections=self.connections,
            messages=self.messages,
            recipients=self.recipients,
            idleSeconds=self.idle_timeout,
            timeouts=Timeouts(self.timeout),
        )


def hopTo(
    services: IServices, endpoint: str, security: Security, name: str | None, ca: str | None
) -> Hop:
    """
    The server at an endpoint.

    @param name: what its certificate must say; C{None} for the endpoint's host.
    @param ca: a file of certificates (PEM), relative to the configuration.
    @raise ValueError: this is no client endpoint.
    """
    services.connect(endpoint)
    path = None if ca is None else os.path.join(services.baseDir, ca)
    host = name or hostOf(endpoint)
    return Hop(_pinned(endpoint, name, path), endpoint, host, security=security, ca=path)


def _pinned(endpoint: str, name: str | None, ca: str | None) -> str:
    """
    An endpoint whose C{tls:} asks for the same name and the same issuers as
    STARTTLS would.
    """
    if isTLS(endpoint):
        for key, value in (("name", name), ("trustRoots", ca)):
            if value is not None:
                endpoint += f":{key}={quoteStringArgument(value)}"
    return endpoint


def hostOf(endpoint: str) -> str:
    """
    The host in a client endpoint string; empty, where it has none.
    """
    kind, *words = re.split(r"(?<!\\):", endpoint)
    if kind.lower() not in ("tcp", "tls", "ssl"):
        return ""
    named = [word.removeprefix("host=") for word in words if word.startswith("host=")]
    host = named[0] if named else words[0] if words and "=" not in words[0] else ""
    return re.sub(r"\\(.)", r"\1", host)


def isLoopback(host: str) -> bool:
    """
    Whether a host is this machine, so that no other is on the way.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@attrs.frozen
class _Facts:
    """
    @ivar isASCII: whether there is no octet above 127.
    @ivar hops: Received fields.
    """

    isASCII: bool
    hops: int


def _factsOf(message: IMessage) -> _Facts:
    with message.open() as file:
        isASCII = all(chunk.isascii() for chunk in iter(lambda: file.read(1 << 16), b""))
    return _Facts(isASCII, sum(name.lower() == "received" for name, _ in message.fields()))


class RemoteDelivery:
    """
    @param services: L{IServices<deferrals.interfaces.IServices>}.
    @param maxHops: a message with more Received fields is in a loop; C{None}
        where it goes no further.
    @param action: what a sender that wants to know is told where the next hop
        does not tell (L{Delivered.action}).
    @param private: whether no other machine is on the way, so that REQUIRETLS
        asks for nothing.
    """

    def __init__(
        self, services: IServices, maxHops: int | None, action: str, private: bool = False
    ) -> None:
        self._services = services
        self._maxHops = maxHops
        self._action = action
        self._private = private

    def refusal(self, hop: Hop, envelope: Envelope, recipient: Recipient) -> Reply | None:
        """
        What is known at RCPT TO already: the server does not offer what a message of this
        envelope needs.
        """
        offered = self._services.nextHops.offered(hop)
        if offered is None:
            return None
        addresses = [wireAddress(recipient.address)]
        if envelope.sender is not None:
            addresses.append(wireAddress(envelope.sender))
        return foreseen(addresses, envelope.parameters.size or 0, offered)

    async def refusalOf(
        self, hop: Hop, message: IMessage, envelope: Envelope, recipient: Recipient
    ) -> Reply | None:
        """
        What is known when the message is there: the server does not offer what it needs,
        or takes none so large.
        """
        offered = self._services.nextHops.offered(hop)
        if offered is None:
            return None
        facts: _Facts = await message.shared((__name__, "facts"), self._facts)
        group = [Addressee(recipient)]
        copy = self._copy(message, envelope, group)
        outgoing = self._outgoing(message, envelope, facts, group, copy)
        outgoing = outgoing.fitting(offered)
        if outgoing.isConvertible and "8BITMIME" not in offered:
            size: int | None = await message.shared((__name__, "sevenBit"), self._sizeInSevenBits)
            if size is not None:
                outgoing = outgoing.asSevenBits(outgoing.size - message.size + size)
        # Whether a connection protects it is seen when there is one.
        return unfit(attrs.evolve(outgoing, requireTLS=False), offered, False)

    async def deliver(
        self,
        message: IMessage,
        envelope: Envelope,
        addressees: Sequence[Addressee],
        hops: Sequence[Hop],
        report: Report,
    ) -> Outcomes:
        """
        @param hops: the servers, in the order in which they are tried.
        @param report: is told each outcome as soon as it stands.
        @return: an outcome for each addressee.
        """
        facts: _Facts = await message.shared((__name__, "facts"), self._facts)
        if self._maxHops is not None and facts.hops > self._maxHops:
            return dict.fromkeys(addressees, Failed(R554_ROUTING_LOOP))

        async def send(group: Sequence[Addressee], heard: Report) -> Outcomes:
            copy = self._copy(message, envelope, group)
            copy.signature = await self._signature(message, envelope, group, "", copy.unsigned)
            outgoing = self._outgoing(message, envelope, facts, group, copy)
            return await self._inTurn(outgoing, group, hops, heard)

        return await deliverApart(envelope, byMarks(addressees), send, report)

    def _facts(self, message: IMessage) -> _Facts | Deferred[_Facts]:
        if message.size <= _SMALL_OCTETS:
            return _factsOf(message)
        return self._services.inThread(_factsOf, message)

    @property
    def _isFinal(self) -> bool:
        return self._action == "delivered"

    def _copy(self, message: IMessage, envelope: Envelope, group: Sequence[Addressee]) -> Copy:
        return relayed(message, envelope, self._services.hostname, group, self._isFinal)

    def _signature(
        self,
        message: IMessage,
        envelope: Envelope,
        group: Sequence[Addressee],
        form: str,
        chunks: Callable[[], Iterator[bytes]],
    ) -> Deferred[bytes]:
        """
        @param form: how this copy differs from those that are marked alike.
        @return: a Deferred of what signs a copy.
        """
        key = (form, self._isFinal, group[0].marks)
        return self._services.signer.sign(message, envelope, key, chunks)

    async def _converted(
        self, message: IMessage, envelope: Envelope, group: Sequence[Addressee], copy: Copy
    ) -> bytes | None:
        """
        A copy in 7-bit: in a thread, few at once, and in memory.  What the server signs
        is what leaves: it is signed anew.
        """
        if copy.size > MOST_OCTETS:
            return None
        octets = await self._threads.run(lambda: sevenBit(b"".join(copy.unsigned())))
        if octets is None:
            return None
        found = octets
        sign = self._signature(message, envelope, group, "7bit", lambda: iter([found]))
        return await sign + octets

    def _sizeInSevenBits(self, message: IMessage) -> Deferred[int | None]:
        """
        How large a message is in 7-bit; C{None} where it must stay as it is.
        """

        def size() -> int | None:
            with message.open() as file:
                octets = sevenBit(file.read())
            return None if octets is None else len(octets)

        return succeed(None) if message.size > MOST_OCTETS else self._threads.run(size)

    @property
    def _threads(self) -> Threads:
        """
        What converts.
        """
        return self._services.common(
            (__name__, "converting"), lambda: Threads(self._services.inThread, _CONVERTING)
        )

    def _outgoing(
        self,
        message: IMessage,
        envelope: Envelope,
        facts: _Facts,
        group: Sequence[Addressee],
        copy: Copy,
    ) -> Outgoing:
        parameters = envelope.parameters
        return Outgoing(
            "" if envelope.sender is None else wireAddress(envelope.sender),
            [wireAddress(addressee.recipient.address) for addressee in group],
            copy.size,
            copy.chunks,
            eightBit=not (facts.isASCII and copy.isASCII),
            binary=parameters.body == "BINARYMIME",
            utf8Header=parameters.smtputf8 and not message.header.isascii(),
            isFinal=self._isFinal,
            converted=functools.partial(self._converted, message, envelope, group, copy),
            requireTLS=parameters.requireTLS and not self._private,
            parameters=mailParameters(envelope),
            recipientParameters={
                index: recipientParameters(addressee.recipient)
                for index, addressee in enumerate(group)
            },
        )

    async def _inTurn(
        self,
        outgoing: Outgoing,
        group: Sequence[Addressee],
        hops: Iterable[Hop],
        report: Report,
    ) -> Outcomes:
        """
        One server after the other, for the recipients that are still to go.
        """
        outcomes: Outcomes = {}
        pending = list(range(len(group)))
        try:
            for hop in hops:
                if not pending:
                    break
                asked = [group[index] for index in pending]
                try:
                    again = await self._to(hop, outgoing.only(pending), asked, outcomes, report)
                except HopError as error:
                    if error.enhanced == _OURSELVES:
                        break  # a server behind this one would bring the message back here
                    continue
                pending = [index for index in pending if group[index] in again]
        except Exception:
            for addressee, outcome in outcomes.items():
                if not (_mayChange(outcome) and isinstance(outcome, Failed)):
                    report(addressee, outcome)  # the rest is tried again, at all servers
            raise
        return outcomes

    async def _to(
        self,
        hop: Hop,
        outgoing: Outgoing,
        asked: Sequence[Addressee],
        outcomes: Outcomes,
        report: Report,
    ) -> set[Addressee]:
        """
        One server.

        @param asked: the recipients of C{outgoing}.
        @param outcomes: gets theirs; what may yet change at another server is not
            reported.
        @return: the recipients that another server may take.
        @raise HopError: there was no session.
        """

        def heard(index: int, sent: Sent) -> None:
            ((answer, details),) = sent.each()
            outcome = self._outcome(answer, sent, details)
            _keep(outcomes, asked[index], outcome)
            if not _mayChange(outcome):
                report(asked[index], outcome)

        try:
            sent = await self._services.nextHops.send(hop, outgoing, heard)
        except HopError as error:
            for addressee in asked:
                # One that may work later counts for more than one that never will.
                if not isinstance(outcomes.get(addressee), Retry):
                    outcomes[addressee] = _noSession(error, outgoing)
            raise
        again = set()
        for addressee, (answer, details) in zip(asked, sent.each(), strict=True):
            outcome = self._outcome(answer, sent, details)
            _keep(outcomes, addressee, outcome)
            if _mayChange(outcome) and answer.stage != "none":
                again.add(addressee)
        return again

    def _outcome(self, answer: Answer, sent: Sent, details: Details) -> Outcome:
        """
        What an answer comes to.  The server is named where it has said it.
        """
        host = sent.host if answer.reply.byServer else ""
        if answer.accepted:
            action = "passed" if sent.knowsDSN else self._action
            return Delivered(answer.reply, host, action, details=details)
        if answer.temporary:
            return Retry(answer.reply, host, details=details)
        return Failed(answer.reply, host, details=details)


def _mayChange(outcome: Outcome) -> bool:
    """
    Whether another server of the same attempt may say something better.
    """
    return isinstance(outcome, Retry) or (isinstance(outcome, Failed) and isLack(outcome.reply))


def _keep(outcomes: Outcomes, addressee: Addressee, outcome: Outcome) -> None:
    """
    One more server has answered.  One that may work later counts for more than one that
    never will, if all that this one says is that it cannot carry the message.
    """
    isLacking = isinstance(outcome, Failed) and _mayChange(outcome)
    if not (isLacking and isinstance(outcomes.get(addressee), Retry)):
        outcomes[addressee] = outcome


def _noSession(error: HopError, outgoing: Outgoing) -> Outcome:
    """
    What it comes to that there was no session with a server.
    """
    details = Details.ofError(error)
    if outgoing.requireTLS and error.enhanced.startswith("4.7."):
        return Failed(R550_NO_REQUIRETLS, details=details)  # RFC 8689 §4.2.1
    if error.enhanced == _OURSELVES:
        return Failed(R554_COMES_BACK, details=details)
    return Retry(noSession(error.enhanced), details=details)
