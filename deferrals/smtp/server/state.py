"""
How far a session has come, who its client is, and so which commands may come:
rules without I/O.
"""

from __future__ import annotations

import attrs

from deferrals.model.envelope import Client, Parameters
from deferrals.model.listener import ListenerSettings
from deferrals.model.reply import R530_AUTH_FIRST, R530_STARTTLS_FIRST, Reply
from deferrals.model.transaction import Phase, Transaction, outOfSequence

#: What may be said before STARTTLS where TLS is required (RFC 3207 §4).
_WITHOUT_TLS = frozenset({"EHLO", "HELO", "LHLO", "NOOP", "QUIT", "RSET", "HELP", "STARTTLS"})

#: What may be said before AUTH where it is required (RFC 4954 §6).
_WITHOUT_AUTH = frozenset(
    {"AUTH", "EHLO", "HELO", "LHLO", "HELP", "NOOP", "QUIT", "RSET", "STARTTLS", "XCLIENT"}
)


class SessionState:
    """
    What the parts of a session have in common.

    @param settings: the listener's.
    @ivar phase: how far it has come.
    @ivar offered: the keywords that EHLO has listed.
    @ivar transaction: the one that is under way, until its data has ended.
    @ivar address: the client's, and C{port} likewise.
    @ivar hostname: the client's name in DNS, as far as it is known.
    @ivar isBeingNamed: whether that is looked up.
    @ivar hello: what the client calls itself.
    @ivar isExtended: whether it has said EHLO or LHLO.
    @ivar user: the user that it has authenticated as.
    @ivar tls: the protocol and cipher, where there is TLS.
    @ivar client: all that is known of the client, for its next transaction.
    @ivar commands: how many commands it has given.
    @ivar outcome: what came of the session so far; see the event C{session}.
    @ivar idleSince: since when there is no transaction, by the clock of timers.
    @ivar sentAwayBefore: the recipients that the transaction before has sent away, if it
        went on to its data.
    """

    __slots__ = (
        *("_needsTLS", "_needsUser", "address", "client", "commands", "hello", "hostname"),
        *("idleSince", "isBeingNamed", "isExtended", "isLMTP", "offered", "outcome", "phase"),
        *("port", "sentAwayBefore", "tls", "transaction", "user"),
    )

    def __init__(self, settings: ListenerSettings) -> None:
        self.isLMTP = settings.protocol == "lmtp"
        self._needsTLS = settings.security == "required"
        self._needsUser = settings.authentication == "required"
        self.phase = Phase.START
        self.offered: frozenset[str] = frozenset()
        self.transaction: Transaction | None = None
        self.address = ""
        self.port = 0
        self.hostname = ""
        self.isBeingNamed = False
        self.hello = ""
        self.isExtended = False
        self.user: str | None = None
        self.tls: str | None = None
        self.client = Client("")
        self.commands = 0
        self.outcome = "none"
        self.idleSince = 0.0
        self.sentAwayBefore: frozenset[str] = frozenset()

    @property
    def isIdle(self) -> bool:
        """
        Whether there is no transaction.
        """
        return self.phase in (Phase.START, Phase.READY)

    def refusal(self, verb: str) -> Reply | None:
        """
        Why a command may not come now; C{None} where it may.
        """
        if self._needsTLS and self.tls is None and verb not in _WITHOUT_TLS:
            return R530_STARTTLS_FIRST
        if self._needsUser and self.user is None and verb not in _WITHOUT_AUTH:
            return R530_AUTH_FIRST
        return outOfSequence(verb, self.phase)

    def forget(self) -> None:
        """
        What the client has said counts no longer (RFC 3207 §4.2).
        """
        self.phase = Phase.START
        self.offered = frozenset()
        self.hello, self.isExtended, self.user = "", False, None
        self.identify()

    def clientOf(self, parameters: Parameters) -> Client:
        """
        The client, in the protocol that this transaction speaks (RFC 6531 §4.3).

        While its name is looked up, each transaction has its own: a name that comes
        late is not put into messages that have been judged without it.
        """
        if not (parameters.smtputf8 or self.isBeingNamed):
            return self.client
        protocol = self.client.protocol
        if parameters.smtputf8:
            protocol = f"UTF8{protocol.removeprefix('E')}"
        return attrs.evolve(self.client, protocol=protocol)

    def identify(self) -> None:
        """
        Something new is known of the client: so will its next transaction say
        (RFC 3848 for the protocol).
        """
        protocol = "SMTP"
        if self.isExtended:
            protocol = "LMTP" if self.isLMTP else "ESMTP"
            protocol += "S" if self.tls else ""
            protocol += "A" if self.user is not None else ""
        self.client = Client(
            self.address, self.port, self.hello, protocol, self.user, self.tls, self.hostname
        )
