"""
What the parts of a session have in common: its L{state<SessionState>}, what the
client has sent, and what it is still to be told.

The parts are mixins, each with the commands of one job; L{Session
<deferrals.smtp.server.session.Session>} puts them together::

    PipelinedESMTP      octets into commands, replies into octets, in order
      SessionBase       what all parts are given
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
from deferrals.model.listener import ListenerSettings
from deferrals.model.mixed import End
from deferrals.smtp.server.commandreader import LineForm
from deferrals.smtp.server.pipeline import PipelinedESMTP
from deferrals.smtp.server.settings import Backend
from deferrals.smtp.server.state import SessionState

_log = Logger(namespace="deferrals.session")


class SessionBase(PipelinedESMTP):
    """
    See the module.

    @param settings: the listener's.
    @param backend: what stands behind it.
    @param clock: timers, and the time of day.
    @ivar commandForm: what a command line looks like.
    @ivar state: how far it has come, and who its client is.
    """

    _outcome = "none"  # what came of the session; see the event "session"

    def __init__(self, settings: ListenerSettings, backend: Backend, clock: IReactorTime) -> None:
        self.commandForm = LineForm(settings.limits.command_line)
        PipelinedESMTP.__init__(self, clock, self.commandForm)
        self.state = SessionState(settings)
        self.host = settings.hostname
        self._settings = settings
        self._limits = settings.limits
        self._backend = backend

    def latestBackend(self) -> Backend:
        """
        What stands behind the next transaction.
        """
        return self._backend

    def peerName(self) -> str:
        return self.state.address

    def wantsUTF8(self) -> bool:
        transaction = self.state.transaction
        return transaction is not None and transaction.envelope.parameters.smtputf8

    def greeting(self) -> bytes:
        """
        The text behind 220.
        """
        host = self._settings.hostname.encode("ascii")
        return host + (b" LMTP" if self.state.isLMTP else b" ESMTP") + b" deferrals"

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
            client=self.state.address,
            limit=limit,
        )

    def startOver(self, why: str) -> None:
        """
        The session begins anew: what the client has said counts no longer
        (RFC 3207 §4.2).
        """
        self.abort(why)
        self.state.forget()
