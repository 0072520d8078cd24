"""
The name that a client has in DNS: looked up while it speaks, and not waited for
until its message is there.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from deferrals.deferreds import withDeadline
from deferrals.model.envelope import Envelope, nameClient
from deferrals.model.networks import mayHaveName
from deferrals.smtp.server.base import SessionBase

#: How long a complete message waits for the client's name, in seconds.
NAME_SECONDS = 5.0


class ClientName:
    """
    See the module.

    @param session: whose client has the name.
    """

    __slots__ = ("_hasWaited", "_naming", "_session", "_state", "_waiting")

    def __init__(self, session: SessionBase) -> None:
        self._session = session
        self._state = session.state
        self._naming: Deferred[None] | None = None
        self._waiting: Deferred[None] | None = None
        self._hasWaited = False

    def lookUp(self) -> None:
        """
        Ask for the client's name.  The client is another one now.
        """
        self.keep("")
        self._hasWaited = False
        find = self._session.backend.findName
        if find is None or not mayHaveName(self._state.address):
            return
        naming = self._naming = find(self._state.address).addCallback(self._found)
        self._state.isBeingNamed = not naming.called
        if naming.called:
            self._naming = None

    def keep(self, hostname: str) -> None:
        """
        It is known, or nothing asks for it any longer.
        """
        naming, self._naming = self._naming, None
        self._state.isBeingNamed = False
        if naming is not None:
            naming.addErrback(lambda _: None)
            naming.cancel()
        self._state.hostname = hostname

    def _found(self, hostname: str) -> None:
        self._naming = None
        self._state.isBeingNamed = False
        self._state.hostname = hostname
        self._state.identify()
        if self._state.transaction is not None:
            nameClient(self._state.transaction.envelope.client, hostname)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def known(self, envelope: Envelope) -> Deferred[None] | None:
        """
        @param envelope: of a message that is complete.
        @return: a Deferred that fires when the client's name is in it, or is not to
            be waited for any longer; C{None} where it is there.  One message of a
            session waits, and no further one.
        """
        if self._naming is None or self._hasWaited:
            return None
        self._hasWaited = True

        def wait() -> Deferred[None]:
            waiting = self._waiting = Deferred(lambda _: None)
            return waiting.addCallback(lambda _: nameClient(envelope.client, self._state.hostname))

        def late(_: Failure) -> None:
            self._waiting = None

        seconds = min(NAME_SECONDS, self._session.settings.reply_deadline / 2)
        return withDeadline(self._session.clock, seconds, wait).addErrback(late)

    def clientGone(self) -> None:
        """
        The connection is lost.
        """
        self.keep(self._state.hostname)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
