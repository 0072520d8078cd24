"""
What the parts of a session have in common: who the client is, how far the
session has come, and the transaction that is under way.

The parts are mixins, each with the commands of one job; L{Session
<deferrals.smtp.server.session.Session>} puts them together::

    PipelinedESMTP      octets into commands, replies into octets, in order
      SessionBase       what all parts know
        Envelopes       MAIL, RCPT                      (envelope)
          Contents      DATA, BDAT, the end of the data (data)
        Encryption      STARTTLS, TLS from the start    (starttls)
        Authentication  AUTH                            (auth)
        Introduction    PROXY, XCLIENT                  (proxy)
          Session       greetings, the rest, the connection
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from deferrals.logger import Logger
from deferrals.model.envelope import Client
from deferrals.model.listener import ListenerSettings
from deferrals.model.mixed import End
from deferrals.model.transaction import Phase, Transaction
from deferrals.smtp.server.pipeline import PipelinedESMTP
from deferrals.smtp.server.settings import Backend

_log = Logger(namespace="deferrals.session")


class SessionBase(PipelinedESMTP):
    """
    See the module.

    @param settings: the listener's.
    @param backend: what stands behind it.
    @param clock: timers, and the time of day.
    """

    _transaction: Transaction | None = None
    _phase = Phase.START
    _offered: frozenset[str] = frozenset()
    _address = ""
    _port = 0
    _hostname = ""
    _hello = ""
    _isExtended = False
    _user: str | None = None
    _tls: str | None = None
    _outcome = "none"  # what came of the session; see the event "session"

    def __init__(self, settings: ListenerSettings, backend: Backend, clock: IReactorTime) -> None:
        PipelinedESMTP.__init__(self, clock)
        self.host = settings.hostname
        self._settings = settings
        self._limits = settings.limits
        self._backend = backend
        self._client = _UNKNOWN

    def latestBackend(self) -> Backend:
        """
        What stands behind the next transaction.
        """
        return self._backend

    @property
    def _isLMTP(self) -> bool:
        return self._settings.protocol == "lmtp"

    def peerName(self) -> str:
        return self._address

    def wantsUTF8(self) -> bool:
        return self._transaction is not None and self._transaction.envelope.parameters.smtputf8

    def greeting(self) -> bytes:
        """
        The text behind 220.
        """
        host = self._settings.hostname.encode("ascii")
        return host + (b" LMTP" if self._isLMTP else b" ESMTP") + b" deferrals"

    def abort(self, why: str, by: End | None = None) -> None:
        """
        Forget the transaction, if there is one.

        @param why: for the log.
        @param by: how the client has ended it; C{None} where we do.
        """
        raise NotImplementedError

    def overLimit(self, limit: str) -> None:
        """
        What one of C{[limits]} allows is used up.

        @param limit: its key.
        """
        _log.tell(
            self._backend.status,
            "{client} has met limits.{limit}",
            event="limit",
            client=self._address,
            limit=limit,
        )

    def startOver(self, why: str) -> None:
        """
        The session begins anew: what the client has said counts no longer
        (RFC 3207 §4.2).
        """
        self.abort(why)
        self._phase = Phase.START
        self._offered = frozenset()
        self._hello, self._isExtended, self._user = "", False, None
        self.identify()

    def identify(self) -> None:
        """
        Something new is known of the client: so will its next transaction say
        (RFC 3848 for the protocol).
        """
        protocol = "SMTP"
        if self._isExtended:
            protocol = "LMTP" if self._isLMTP else "ESMTP"
            protocol += "S" if self._tls else ""
            protocol += "A" if self._user is not None else ""
        self._client = Client(
            self._address,
            self._port,
            self._hello,
            protocol,
            self._user,
            self._tls,
            self._hostname,
        )


_UNKNOWN = Client("")
