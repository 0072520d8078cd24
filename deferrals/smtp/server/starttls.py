"""
TLS: STARTTLS (RFC 3207), and TLS from the first octet (RFC 8314 §3.3).

What came in clear text counts for nothing afterwards: octets behind STARTTLS end
the connection (they may be an attacker's commands in a session that seems
encrypted), and the session begins anew.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure

from deferrals.errors import PeerError
from deferrals.logger import Logger
from deferrals.model.reply import (
    R220_READY_FOR_TLS,
    R501_SYNTAX,
    R502_NOT_HERE,
    R503_TLS_IS_ON,
    R554_BEHIND_STARTTLS,
)
from deferrals.smtp.server.base import SessionBase
from deferrals.smtp.server.certificates import describe

_log = Logger(namespace="deferrals.session")


class TLSCommands:
    """
    See the module.

    @param session: what is encrypted.
    @param encrypted: called when TLS is there.
    @ivar isHandshaking: whether it is being agreed on.
    """

    __slots__ = ("_encrypted", "_session", "_state", "isHandshaking")

    def __init__(self, session: SessionBase, encrypted: Callable[[], None]) -> None:
        self._session = session
        self._state = session.state
        self._encrypted = encrypted
        self.isHandshaking = False

    @property
    def isOffered(self) -> bool:
        """
        Whether STARTTLS can be said now.
        """
        return self._state.tls is None and self._session.settings.security in (
            "starttls",
            "required",
        )

    def do_STARTTLS(self, rest: str) -> None:
        """
        RFC 3207 §4.
        """
        if rest:
            raise PeerError("an argument", R501_SYNTAX)
        if self._state.tls is not None:
            raise PeerError("twice", R503_TLS_IS_ON)
        if not self.isOffered:
            raise PeerError("not offered", R502_NOT_HERE)
        if self._session.commands.waiting:
            _log.warn("{client}: commands behind STARTTLS", client=self._state.address)
            self._session.say(R554_BEHIND_STARTTLS)
            return self._session.close()
        self._session.startOver("STARTTLS")
        self._session.say(R220_READY_FOR_TLS)
        self.encrypt()

    def encrypt(self) -> None:
        """
        Everything from here on is TLS.
        """
        self.awaitHandshake()
        self._session.transport.startTLS(self._session.settings.certificates)

    def awaitHandshake(self) -> None:
        """
        The handshake has been begun, by this session or by its endpoint.
        """
        self.isHandshaking = True
        self._session.setTimeout(self._session.settings.limits.handshake_timeout)

    def completed(self) -> None:
        """
        TLS is there.
        """
        self.isHandshaking = False
        self._state.tls = describe(self._session.transport.getHandle())
        self._state.identify()
        self._session.setTimeout(self._session.settings.limits.command_timeout)
        self._encrypted()

    def clientGone(self, reason: Failure) -> None:
        """
        The connection has ended, perhaps before TLS was there.
        """
        if self.isHandshaking:
            self.isHandshaking = False
            self._state.outcome = "tls_failed"
            if not self._hasProbed(reason):
                _log.info(
                    "{client}: no TLS: {error}",
                    client=self._state.address,
                    error=reason.getErrorMessage(),
                )

    def _hasProbed(self, reason: Failure) -> bool:
        """
        Whether the client has connected and gone, without a hello: then OpenSSL has no
        random octets of its.
        """
        gone = reason.check(ConnectionDone, ConnectionLost)
        if self._state.commands or not gone:
            return False
        return self._session.transport.getHandle().client_random() is None

    @property
    def isOutside(self) -> bool:
        """
        Whether the endpoint itself speaks TLS (C{ssl:}, C{tls:}).
        """
        return ISSLTransport.providedBy(self._session.transport)
