"""
TLS: STARTTLS (RFC 3207), and TLS from the first octet (RFC 8314 §3.3).

What came in clear text counts for nothing afterwards: octets behind STARTTLS end
the connection (they may be an attacker's commands in a session that seems
encrypted), and the session begins anew.
"""

from __future__ import annotations

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener, ISSLTransport
from twisted.python.failure import Failure
from zope.interface import implementer

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


@implementer(IHandshakeListener)
class Encryption(SessionBase):
    """
    See the module.
    """

    _handshaking = False
    _commands: int

    @property
    def offersTLS(self) -> bool:
        """
        Whether STARTTLS can be said now.
        """
        return self.state.tls is None and self._settings.security in ("starttls", "required")

    def do_STARTTLS(self, rest: str) -> None:
        """
        RFC 3207 §4.
        """
        if rest:
            raise PeerError("an argument", R501_SYNTAX)
        if self.state.tls is not None:
            raise PeerError("twice", R503_TLS_IS_ON)
        if not self.offersTLS:
            raise PeerError("not offered", R502_NOT_HERE)
        if self.commands.waiting:
            _log.warn("{client}: commands behind STARTTLS", client=self.state.address)
            self.say(R554_BEHIND_STARTTLS)
            return self.close()
        self.startOver("STARTTLS")
        self.say(R220_READY_FOR_TLS)
        self.encrypt()

    def encrypt(self) -> None:
        """
        Everything from here on is TLS.
        """
        self.awaitHandshake()
        self.transport.startTLS(self._settings.certificates)

    def awaitHandshake(self) -> None:
        """
        The handshake has been begun, by this session or by its endpoint.
        """
        self._handshaking = True
        self.setTimeout(self._limits.handshake_timeout)

    def handshakeCompleted(self) -> None:
        """
        See C{IHandshakeListener}.
        """
        self._handshaking = False
        self.state.tls = describe(self.transport.getHandle())
        self.state.identify()
        self.setTimeout(self._limits.command_timeout)
        self.encrypted()

    def encrypted(self) -> None:
        """
        TLS is there.
        """
        raise NotImplementedError

    def handshakeLost(self, reason: Failure) -> None:
        """
        The connection has ended, perhaps before TLS was there.
        """
        if self._handshaking:
            self._handshaking = False
            self._outcome = "tls_failed"
            if not self._hasProbed(reason):
                _log.info(
                    "{client}: no TLS: {error}",
                    client=self.state.address,
                    error=reason.getErrorMessage(),
                )

    def _hasProbed(self, reason: Failure) -> bool:
        """
        Whether the client has connected and gone, without a hello: then OpenSSL has no
        random octets of its.
        """
        gone = reason.check(ConnectionDone, ConnectionLost)
        if self._commands or not gone:
            return False
        return self.transport.getHandle().client_random() is None

    @property
    def isEncryptedOutside(self) -> bool:
        """
        Whether the endpoint itself speaks TLS (C{ssl:}, C{tls:}).
        """
        return ISSLTransport.providedBy(self.transport)
