"""
HTTP requests of stages: pooled connections, answers of a limited length, and a
second try where a pooled connection had been closed by the other side.
"""

from __future__ import annotations

import json
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    FileBodyProducer,
    HTTPConnectionPool,
    ResponseDone,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from deferrals.errors import StageError

#: A longer answer is none.
MAX_ANSWER_OCTETS = 1024 * 1024


def httpURL(value: str) -> None:
    """
    For L{checked<deferrals.model.settings.checked>}.
    """
    if not value.startswith(("http://", "https://")) or not value.isascii() or " " in value:
        raise ValueError("an http:// or https:// URL")


class _QuietFactory(HTTPConnectionPool._factory):  # type: ignore[misc]
    noisy = False  # otherwise two lines of log for each connection


class _Pool(HTTPConnectionPool):
    _factory = _QuietFactory


class WebClient:
    """
    @param reactor: the network and the timers.
    @param connections: kept open to one host.
    """

    def __init__(self, reactor: Any, connections: int) -> None:
        self._reactor = reactor
        pool = _Pool(reactor)
        pool.maxPersistentPerHost = connections
        self._client = HTTPClient(Agent(reactor, pool=pool))
        self._cooperator = Cooperator(scheduler=lambda work: reactor.callLater(0, work))

    @inlineCallbacks
    def request(self, method: str, url: str, headers: Headers, message: Any = None) -> Any:
        """
        @param message: an L{IMessage<deferrals.interfaces.IMessage>} to send.
        @return: a Deferred of (status, body).  May be cancelled.
        """
        status, body, _ = yield self.exchange(method, url, headers, message)
        return status, body

    @inlineCallbacks
    def exchange(
        self, method: str, url: str, headers: Headers, message: Any = None, needsBody: bool = True
    ) -> Any:
        """
        @param needsBody: whether an answer without its body is none.
        @return: a Deferred of (status, body, headers).  May be cancelled.
        """
        try:
            return (yield self._try(method, url, headers, message, needsBody))
        except ResponseNeverReceived as error:
            if not all(reason.check(ConnectionDone, ConnectionLost) for reason in error.reasons):
                raise
        return (yield self._try(method, url, headers, message, needsBody))

    @inlineCallbacks
    def _try(self, method: str, url: str, headers: Headers, message: Any, needsBody: bool) -> Any:
        file = None if message is None else message.open()
        data = None if file is None else FileBodyProducer(file, self._cooperator)
        try:
            response = yield self._client.request(method, url, headers=headers, data=data)
        except BaseException:
            if file is not None:
                file.close()  # the producer may never have been started
            raise
        body = _Body()
        response.deliverBody(body)
        try:
            yield body.whole
        except Exception:
            if needsBody:
                raise
        return response.code, bytes(body.octets), response.headers


class _Body(Protocol):
    """
    The body of an answer.  Ends the connection when it is too long, or not
    wanted any longer.
    """

    def __init__(self) -> None:
        self.octets = bytearray()
        self.whole: Deferred[None] = Deferred(lambda _: self._leave())

    def _leave(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if self.whole.called:
            return
        self.octets += data
        if len(self.octets) > MAX_ANSWER_OCTETS:
            self.whole.errback(StageError("the answer is too long"))
            self._leave()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(None)
        else:
            self.whole.errback(reason)


def fromJSON(status: int, body: bytes) -> Any:
    """
    What is no UTF-8 in it is replaced: a sender may be quoted there.

    @raise StageError: the status is not 200, or it is no JSON.
    """
    if status != 200:
        raise StageError(f"HTTP status {status}")
    try:
        return json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        raise StageError("the answer is no JSON") from None
