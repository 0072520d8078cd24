"""
Connections to other servers: made when they are needed, used again, and closed
when they are idle.

One L{Hop} has at most so many connections; who needs another one waits.  A
connection that the server has closed while it was idle is replaced by a fresh
one before anything is lost by it.  A message goes in as many transactions as
the server's limits ask for (RFC 9422); recipients that a server puts off with
452 while it takes others come in the next transaction (RFC 5321 §4.5.3.1.10).

Responsibility: L{NextHops.send} reports what the server has said, and tries
nothing again that the server might have taken.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from zope.interface import implementer

from deferrals.deferreds import CancelledError, Semaphore, TimeoutError, withDeadline
from deferrals.errors import HopError, PeerError
from deferrals.interfaces import INextHops
from deferrals.model.answers import Answer, Result
from deferrals.model.envelope import Form
from deferrals.model.outgoing import PREFERENCE, Hop, Login, Outgoing, Sent
from deferrals.model.reply import Reply
from deferrals.model.sending import R451_NOT_ASKED
from deferrals.smtp.client.auth import choose
from deferrals.smtp.client.downgrades import Misgivings
from deferrals.smtp.client.session import ClientSession
from deferrals.smtp.client.tls import Unverified, trusted, verifying

_log = Logger(namespace="deferrals.hops")

#: How long a connection may take to come about, all addresses tried, in seconds.
CONNECT_SECONDS = 120.0

#: A message is not cut into more transactions than this at a time.
MAX_TRANSACTIONS = 100

#: Replies to MAIL FROM that may mean the extension's parameter.
_PARAMETER_REFUSED = {500, 501, 503, 504, 555}


class _HopConnections:
    """
    What there is of connections to one hop.
    """

    def __init__(self, hop: Hop) -> None:
        self.hop = hop
        self.slots = Semaphore(hop.connections)
        self.idle: dict[ClientSession, Any] = {}
        self.users = 0
        self.creator: Any = None


@implementer(INextHops)
class NextHops:
    """
    See L{INextHops}.

    @param reactor: timers.
    @param hello: the name to give.
    @param connect: makes a client endpoint of an endpoint string.
    @param inThread: runs what blocks.
    """

    def __init__(
        self,
        reactor: Any,
        hello: str,
        connect: Callable[[str], Any],
        inThread: Callable[..., Deferred[Any]],
    ) -> None:
        self._reactor = reactor
        self._hello = hello
        self._connect = connect
        self._inThread = inThread
        self._lines: dict[Hop, _HopConnections] = {}
        self._misgivings = Misgivings()
        self._closing = False

    def describe(self) -> dict[str, Any]:
        """
        For the status: connections by server, and what is not used with whom.
        """
        return {
            "connections": [
                {
                    "server": line.hop.name,
                    "busy": line.hop.connections - line.slots.free,
                    "idle": len(line.idle),
                    "waiting": line.slots.waiting,
                }
                for line in self._lines.values()
            ],
            "misgivings": self._misgivings.describe(self._reactor.seconds()),
        }

    @inlineCallbacks
    def close(self) -> Any:
        """
        Say goodbye on what is idle; what is in use is closed when it is done.

        @return: a Deferred.
        """
        self._closing = True
        sessions = [session for line in self._lines.values() for session in line.idle]
        for line in self._lines.values():
            for timer in line.idle.values():
                timer.cancel()
            line.idle.clear()
        yield DeferredList([self._quit(session) for session in sessions])

    def _quit(self, session: ClientSession) -> Deferred[Any]:
        """
        Nobody waits for a goodbye for long.
        """
        d = withDeadline(self._reactor, 5.0, session.quit)
        return d.addErrback(lambda failure: session.abort())

    @inlineCallbacks
    def send(self, hop: Hop, outgoing: Outgoing) -> Any:
        """
        See L{INextHops.send}.
        """
        with self._using(hop) as line:
            yield line.slots.acquire()
            try:
                return (yield _Transfer(self, line, outgoing).run())
            finally:
                line.slots.release()

    @inlineCallbacks
    def ask(self, hop: Hop, sender: str, recipient: str) -> Any:
        """
        See L{INextHops.ask}.
        """
        with self._using(hop) as line:
            yield line.slots.acquire()
            try:
                while True:
                    session, fresh = yield self.session(line)
                    try:
                        return (yield session.ask(sender, recipient))
                    except PeerError as error:
                        # One that had been idle may just have been closed.
                        if fresh or session.usable:
                            raise HopError(f"{hop.name}: {error}", "4.4.2") from None
                    finally:
                        self.done(line, session)
            finally:
                line.slots.release()

    @contextlib.contextmanager
    def _using(self, hop: Hop) -> Any:
        """
        A hop's line is kept while somebody uses it, or it has a connection.
        """
        line = self._lines.setdefault(hop, _HopConnections(hop))
        line.users += 1
        try:
            yield line
        finally:
            line.users -= 1
            self._tidy(line)

    def _tidy(self, line: _HopConnections) -> None:
        if not line.users and not line.idle:
            self._lines.pop(line.hop, None)

    # Sessions.

    @inlineCallbacks
    def session(self, line: _HopConnections) -> Any:
        """
        @return: a Deferred of a session that is ready for a message, and
            whether it is a fresh one; fails with L{HopError}.
        """
        while line.idle:
            session, timer = line.idle.popitem()
            timer.cancel()
            if session.usable:
                return session, False
        hop = line.hop
        try:
            return (yield self._open(line, hop.security)), True
        except _NoTLS as error:
            if hop.security != "opportunistic":
                raise
            _log.warn("{server}: {error}, so in clear", server=hop.name, error=str(error))
        return (yield self._open(line, "none")), True

    @inlineCallbacks
    def _open(self, line: _HopConnections, security: str) -> Any:
        hop = line.hop
        session = ClientSession(
            self._reactor,
            self._hello,
            hop.lmtp,
            hop.forms,
            hop.timeouts,
            chunking=hop.chunking,
        )
        factory = Factory.forProtocol(lambda: session)
        factory.noisy = False
        try:
            endpoint = self._connect(hop.endpoint)
            yield withDeadline(self._reactor, CONNECT_SECONDS, endpoint.connect, factory)
        except TimeoutError:
            raise HopError(f"{hop.name}: no connection in time") from None
        except CancelledError:
            raise
        except Exception as error:
            raise HopError(f"{hop.name}: no connection: {_words(error)}") from None
        try:
            yield session.open()
            if hop.notOurselves and session.serverName == self._hello.lower():
                raise HopError(f"{hop.name} calls itself as we do", "4.4.6")
            yield self._secure(line, session, security)
            if hop.login is not None:
                yield self._authenticate(session, hop.login)
        except PeerError as error:
            session.abort()
            raise HopError(f"{hop.name}: {error}", "4.4.2") from None
        except BaseException:
            session.abort()
            raise
        session.closed().addCallback(lambda _: self._dropped(line, session))
        return session

    @inlineCallbacks
    def _secure(self, line: _HopConnections, session: ClientSession, security: str) -> Any:
        """
        TLS, as far as it is wanted and there.

        @return: a Deferred that fails with L{_NoTLS}.
        """
        hop = line.hop
        if session.protected:  # the endpoint has seen to it
            session.verified = hop.endpoint.startswith("tls:")
            if security == "verified" and not session.verified:
                raise _NoTLS(f"{hop.name}: an endpoint that does not verify the server", "4.7.5")
            return
        if security == "none":
            return
        if "STARTTLS" not in session.capabilities:
            if security == "opportunistic":
                return
            raise _NoTLS(f"{hop.name} does not offer STARTTLS", "4.7.4")
        if line.creator is None:
            line.creator = yield self._creator(hop)
        try:
            yield session.secure(line.creator, security == "verified")
        except PeerError as error:
            if security == "opportunistic" and session.usable:
                return
            raise _NoTLS(f"{hop.name}: {error}", "4.7.5") from None

    @inlineCallbacks
    def _creator(self, hop: Hop) -> Any:
        if hop.security != "verified":
            return Unverified(hop.host)
        try:
            roots = None
            if hop.ca is not None:
                roots = yield self._inThread(_trusted, hop.ca)
            return (yield self._inThread(verifying, hop.host, roots))
        except (OSError, ValueError) as error:
            raise HopError(f"{hop.name}: {_words(error)}", "4.3.5") from None

    @inlineCallbacks
    def _authenticate(self, session: ClientSession, login: Login) -> Any:
        try:
            password = login.password
            if password is None:
                password = yield self._inThread(_firstLine, login.passwordFile)
            offered = session.capabilities.get("AUTH", [])
            nonce = secrets.token_urlsafe(24)
            mechanism = choose(offered, login.user, password, nonce, self._inThread)
        except (OSError, ValueError) as error:
            raise HopError(_words(error), "4.7.0") from None
        yield session.authenticate(mechanism)

    def done(self, line: _HopConnections, session: ClientSession) -> None:
        """
        A session is not used any longer: keep it for a while, or end it.
        """
        if not session.usable:
            return
        if self._closing or self.spent(line.hop, session):
            self._quit(session)
            return
        line.idle[session] = self._reactor.callLater(
            line.hop.idleSeconds, self._idleTooLong, line, session
        )

    def spent(self, hop: Hop, session: ClientSession) -> bool:
        """
        Whether a session has had as many messages as it may have.
        """
        return session.transactions >= min(hop.messages, session.limit("MAILMAX") or hop.messages)

    def _idleTooLong(self, line: _HopConnections, session: ClientSession) -> None:
        del line.idle[session]
        self._quit(session)
        self._tidy(line)

    def _dropped(self, line: _HopConnections, session: ClientSession) -> None:
        """
        The connection is gone.
        """
        timer = line.idle.pop(session, None)
        if timer is not None:
            timer.cancel()
            self._tidy(line)

    # Misgivings (D-26).

    def forms(self, hop: Hop) -> list[Any]:
        """
        The extensions that may be used with a server now.
        """
        return self._misgivings.without(hop.name, hop.forms, self._reactor.seconds())

    def learn(self, hop: Hop, result: Result) -> None:
        """
        Remember how a message went under an extension.
        """
        if result.form not in PREFERENCE or not result.handedOver:
            return
        if not result.lost:
            self._misgivings.success(hop.name, result.form)
        elif result.final is None:
            self.problem(hop, result.form, result.lost)

    def problem(self, hop: Hop, form: Form, reason: str) -> None:
        """
        A message went wrong under an extension.
        """
        if self._misgivings.problem(hop.name, form, reason, self._reactor.seconds()):
            _log.warn(
                "{server} keeps failing under {form}, and is used without it from now on: {reason}",
                server=hop.name,
                form=form.name,
                reason=reason,
            )


class _NoTLS(HopError):
    """
    There is no TLS with this server.
    """


class _Transfer:
    """
    One message to one hop, in as many transactions as that takes.
    """

    def __init__(self, hops: NextHops, line: _HopConnections, outgoing: Outgoing) -> None:
        self._hops = hops
        self._line = line
        self._outgoing = outgoing
        self._answers: dict[int, Answer] = {}
        self._session: Any = None
        self._fresh = False
        self._host = line.hop.host
        self._knowsDSN = False

    @inlineCallbacks
    def run(self) -> Any:
        """
        @return: a Deferred of L{Sent}.
        """
        pending = list(range(len(self._outgoing.recipients)))
        try:
            for _ in range(MAX_TRANSACTIONS):
                if not pending:
                    break
                if self._session is None:
                    self._session, self._fresh = yield self._hops.session(self._line)
                pending = yield self._transaction(pending)
        except HopError:
            if not self._answers:
                raise
        finally:
            if self._session is not None:
                self._hops.done(self._line, self._session)
        answers = tuple(
            self._answers.get(index) or Answer(address, R451_NOT_ASKED, "envelope")
            for index, address in enumerate(self._outgoing.recipients)
        )
        return Sent(answers, self._host, self._knowsDSN)

    @inlineCallbacks
    def _transaction(self, pending: list[int]) -> Any:
        """
        @return: a Deferred of who is still to be sent to.
        """
        session, hop = self._session, self._line.hop
        self._host = hop.host or session.serverName
        self._knowsDSN = "DSN" in session.capabilities
        batch = _batch(session, hop, self._outgoing, pending)
        forms = self._hops.forms(hop)
        result = yield session.send(self._outgoing.only(batch), forms)
        sender = result.sender
        if result.lost and not self._fresh and (sender is None or sender.code == 421):
            self._session = None  # the server had closed it: nothing was begun
            return pending
        self._hops.learn(hop, result)
        if _refusesParameter(result) and session.usable:
            refused, form = result.sender, result.form
            result = yield session.send(self._outgoing.only(batch), [])
            if result.sender is not None and result.sender.isPositive:
                self._hops.problem(hop, form, f"MAIL FROM was answered {refused}")
        self._fresh = False
        self._answers.update(zip(batch, result.answers, strict=True))
        if not session.usable:
            self._session = None
            return [] if result.lost else pending[len(batch) :]
        if self._hops.spent(hop, session):
            self._hops.done(self._line, session)
            self._session = None
        return [*_putOff(batch, result), *pending[len(batch) :]]


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


def _refusesParameter(result: Result) -> bool:
    """
    Whether it may be the extension's parameter that the server does not want.
    """
    asked, sender = result.form in PREFERENCE, result.sender
    return asked and sender is not None and sender.code in _PARAMETER_REFUSED


def _putOff(batch: Sequence[int], result: Result) -> list[int]:
    """
    Who is to come again at once: those whom the server has sent away in the
    envelope with 452 while it let others in, unless it cannot take mail now.
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


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def _trusted(path: str) -> Any:
    return _trustedAt(path, os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _trustedAt(path: str, changed: int) -> Any:
    return trusted(path)


def _firstLine(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.readline().rstrip("\r\n")
