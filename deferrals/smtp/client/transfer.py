"""
One message to one server: in as many transactions as the server's limits ask
for (RFC 9422).  Recipients that a server puts off with 452 while it takes
others come in the next transaction (RFC 5321 §4.5.3.1.10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from deferrals.errors import HopError
from deferrals.logger import Logger
from deferrals.model.answers import Answer, Result
from deferrals.model.outgoing import PREFERENCE, Heard, Hop, Outgoing, Sent
from deferrals.model.reply import Reply
from deferrals.model.sending import R451_NOT_ASKED
from deferrals.model.verdict import NO_DETAILS, Details
from deferrals.smtp.client.connections import HopConnections
from deferrals.smtp.client.describing import detailsOf, shownName
from deferrals.smtp.client.downgrades import Downgrades
from deferrals.smtp.client.session import ClientSession

_log = Logger(namespace="deferrals.hops")

#: A message is not cut into more transactions than this at a time.
MAX_TRANSACTIONS = 100

#: Replies to MAIL FROM that may mean the extension's parameter.
_PARAMETER_REFUSED = {500, 501, 503, 504, 555}

#: The ways of asking for each recipient's answer, as EHLO lists them.
_FORMS = {form.keyword for form in PREFERENCE}

#: Replies to BDAT that mean the command.
_COMMAND_REFUSED = {500, 501, 502, 503, 504}


class Transfer:
    """
    One message to one server.

    @param connections: to that server; one of their slots is the caller's.
    @param downgrades: the extensions that servers are used without.
    @param heard: is told the answers that stand before all of them are known.
    @ivar offered: what the server has listed; C{None} before.
    """

    def __init__(
        self,
        connections: HopConnections,
        downgrades: Downgrades,
        outgoing: Outgoing,
        heard: Heard | None = None,
    ) -> None:
        self._connections = connections
        self._hop = connections.hop
        self._downgrades = downgrades
        self._outgoing = outgoing
        self._heard = heard
        self._answers: dict[int, Answer] = {}
        self._details: dict[int, Details] = {}
        self._session: ClientSession | None = None
        self.offered: Mapping[str, list[str]] | None = None
        self._fresh = False
        self._host = shownName(self._hop, "")
        self._knowsDSN = False

    async def run(self) -> Sent:
        """
        @raise HopError: there was no session at all.
        """
        pending = list(range(len(self._outgoing.recipients)))
        try:
            for _ in range(MAX_TRANSACTIONS):
                if not pending:
                    break
                if self._session is None:
                    self._session, self._fresh = await self._connections.take()
                pending = await self._transaction(self._session, pending)
        except HopError as error:
            if not self._answers:
                raise
            self._details = {**dict.fromkeys(pending, Details.ofError(error)), **self._details}
        finally:
            if self._session is not None:
                self._connections.giveBack(self._session)
        answers = tuple(
            self._answers.get(index) or Answer(address, R451_NOT_ASKED, "envelope")
            for index, address in enumerate(self._outgoing.recipients)
        )
        return self._sent(answers, range(len(answers)))

    def _sent(self, answers: tuple[Answer, ...], indexes: Iterable[int]) -> Sent:
        details = tuple(self._details.get(index, NO_DETAILS) for index in indexes)
        return Sent(answers, self._host, self._knowsDSN, details)

    def _stands(self, index: int, answer: Answer) -> None:
        """
        A recipient's answer is known, and will not change.
        """
        self._answers[index] = answer
        if self._heard is not None:
            self._heard(index, self._sent((answer,), [index]))

    async def _transaction(self, session: ClientSession, pending: list[int]) -> list[int]:
        """
        @return: the recipients that are still to be sent to.
        """
        self._host = shownName(self._hop, session.serverName)
        self._knowsDSN = "DSN" in session.capabilities
        self.offered = session.capabilities
        batch = _batch(session, self._hop, self._outgoing, pending)

        def heard(index: int, answer: Answer) -> None:
            self._details[batch[index]] = detailsOf(session, answer)
            self._stands(batch[index], answer)

        session.without = await self._downgrades.without(self._hop.name)
        message = await self._fitting(session, self._outgoing.only(batch))
        result = await session.send(message, heard=heard)
        sender = result.sender
        if result.lost and not self._fresh and (sender is None or sender.code == 421):
            self._session = None  # the server had closed it: nothing was begun
            return pending
        self._learn(session, result)
        message, result = await self._plainly(session, message, result, heard)
        if _refusesChunk(result) and not message.binary:
            reason = f"BDAT was answered {result.final}"
            self._problem("CHUNKING", reason, isExcessive=True)
            session.abort()  # it may take the message for commands
            self._session = None
            return pending
        self._fresh = False
        again = _putOff(batch, result) if session.usable else []
        for index, answer in zip(batch, result.answers, strict=True):
            self._details[index] = detailsOf(session, answer, result.lost)
            if index in again:
                self._answers[index] = answer
            else:
                self._stands(index, answer)
        if not session.usable:
            self._session = None
            return [] if result.lost else pending[len(batch) :]
        if self._connections.isSpent(session):
            self._connections.giveBack(session)
            self._session = None
        return [*again, *pending[len(batch) :]]

    async def _fitting(self, session: ClientSession, message: Outgoing) -> Outgoing:
        """
        The message as the server can carry it: converted, where it is 8-bit, may be
        changed, and there is no 8BITMIME (RFC 6152 §3).
        """
        message = message.fitting(session.offered)
        if not message.isConvertible or "8BITMIME" in session.offered:
            return message
        assert message.converted is not None
        octets = await message.converted()
        return message if octets is None else message.inSevenBits(octets)

    # Extensions that go wrong (D-26).

    async def _plainly(
        self,
        session: ClientSession,
        message: Outgoing,
        result: Result,
        heard: Callable[[int, Answer], None],
    ) -> tuple[Outgoing, Result]:
        """
        The message once more without the parameters that may not be wanted, one after the
        other, as long as MAIL FROM is refused for them.

        @return: the message as it was sent in the end, and what came of it.
        """
        for keyword in _parametersOf(session, message, result):
            refused = result.sender
            if not (_refusesParameter(refused) and session.usable):
                break
            session.without |= {keyword} if keyword not in _FORMS else _FORMS
            message = await self._fitting(session, message)
            result = await session.send(message, heard=heard)
            if result.sender is not None and result.sender.isPositive:
                self._problem(keyword, f"MAIL FROM was answered {refused}")
        return message, result

    def _learn(self, session: ClientSession, result: Result) -> None:
        """
        Remember how a message went under the extensions that it used.
        """
        used = [result.form.keyword] if result.form in PREFERENCE else []
        if result.chunked:
            used.append("CHUNKING")
        pipelined = ["PIPELINING"] if "PIPELINING" in session.offered else []
        if not result.lost:
            for keyword in [*(used if result.handedOver else []), *pipelined]:
                self._downgrades.success(self._hop.name, keyword)
        elif result.handedOver and result.final is None:
            for keyword in used:
                self._problem(keyword, result.lost)
        elif not result.handedOver and not _isClosing(result):
            for keyword in pipelined:
                self._problem(keyword, result.lost)

    def _problem(self, keyword: str, reason: str, *, isExcessive: bool = False) -> None:
        """
        A message went wrong under an extension.
        """
        server = self._hop.name
        if self._downgrades.problem(server, keyword, reason, isExcessive=isExcessive):
            _log.warn(
                "{server} fails under {extension}, and is used without it from now on: {reason}",
                server=server,
                extension=keyword,
                reason=reason,
            )


def _batch(
    session: ClientSession, hop: Hop, outgoing: Outgoing, pending: Sequence[int]
) -> list[int]:
    """
    The recipients of the next transaction: as many as the server takes.
    """
    limit = min(hop.recipients, session.limit("RCPTMAX") or hop.recipients)
    domainLimit = session.limit("RCPTDOMAINMAX")
    batch: list[int] = []
    domains: set[str] = set()
    for index in pending[:limit]:
        domains.add(outgoing.recipients[index].rpartition("@")[2].lower())
        if domainLimit is not None and len(domains) > domainLimit:
            break
        batch.append(index)
    return batch


def _parametersOf(session: ClientSession, message: Outgoing, result: Result) -> list[str]:
    """
    The keywords of the extensions whose parameters MAIL FROM had, and that a message
    can do without.
    """
    found = [result.form.keyword] if result.form in PREFERENCE else []
    hasBody = "8BITMIME" in session.offered and (message.eightBit or message.needsUTF8)
    return [*found, "8BITMIME"] if hasBody and not message.binary else found


def _refusesParameter(sender: Reply | None) -> bool:
    """
    Whether it may be an extension's parameter that the server does not want.
    """
    return sender is not None and sender.code in _PARAMETER_REFUSED


def _refusesChunk(result: Result) -> bool:
    """
    Whether the server does not know BDAT, or does not take it.
    """
    return result.chunked and result.final is not None and result.final.code in _COMMAND_REFUSED


def _isClosing(result: Result) -> bool:
    """
    Whether the server has said that it closes the connection (RFC 5321 §3.8).
    """
    return any(answer.reply.code == 421 for answer in result.answers)


def _putOff(batch: Sequence[int], result: Result) -> list[int]:
    """
    The recipients that come again at once: the server has sent them away in
    the envelope with 452 while it let others in.  There are none where it
    cannot take mail now.
    """
    final = result.final
    if not result.handedOver or (final is not None and final.isTemporary):
        return []
    return [
        index
        for index, answer in zip(batch, result.answers, strict=True)
        if answer.stage == "envelope" and _isPutOff(answer.reply)
    ]


def _isPutOff(reply: Reply) -> bool:
    return reply.code == 452 and reply.enhanced in (None, "4.5.3")
