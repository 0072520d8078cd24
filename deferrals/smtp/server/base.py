"""
What the handlers of a session's commands are given: its L{state<SessionState>}, what
the client has sent, what it is still to be told, and the means to answer.

A handler has the commands of one job; L{Session
<deferrals.smtp.server.session.Session>} makes one of each kind::

    PipelinedESMTP        octets into commands, replies into octets, in order
      SessionBase         what all handlers are given
        Session           the connection, and its handlers:
          GreetingCommands    HELO, EHLO, LHLO                (greetings)
          MailCommands        MAIL, RCPT                      (envelope)
          DataCommands        DATA, BDAT, the end of the data (data)
          TLSCommands         STARTTLS, TLS from the start    (starttls)
          AuthCommands        AUTH                            (auth)
          ProxyCommands       PROXY, XCLIENT                  (proxy)
          SimpleCommands      NOOP, RSET, QUIT …              (simple)
          ClientName          the client's name in DNS        (clientname)
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
    @ivar limits: the listener's.
    @ivar commandForm: what a command line looks like.
    @ivar state: how far it has come, and who its client is.
    @ivar backend: what stands behind the transaction that is under way, and behind the
        last one where there is none.
    """

    def __init__(self, settings: ListenerSettings, backend: Backend, clock: IReactorTime) -> None:
        self.commandForm = LineForm(settings.limits.command_line)
        PipelinedESMTP.__init__(self, clock, self.commandForm)
        self.state = SessionState(settings)
        self.host = settings.hostname
        self.settings = settings
        self.limits = settings.limits
        self.backend = backend

    def latestBackend(self) -> Backend:
        """
        What stands behind the next transaction.
        """
        return self.backend

    def peerName(self) -> str:
        return self.state.address

    def wantsUTF8(self) -> bool:
        transaction = self.state.transaction
        return transaction is not None and transaction.envelope.parameters.smtputf8

    def greeting(self) -> bytes:
        """
        The text behind 220.
        """
        host = self.settings.hostname.encode("ascii")
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
            self.backend.status,
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
