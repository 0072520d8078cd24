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


class ClientName(SessionBase):
    """
    See the module.
    """

    _naming: Deferred[None] | None = None
    _waiting: Deferred[None] | None = None
    _hasWaited = False

    def lookUpName(self) -> None:
        """
        Ask for the client's name.  The client is another one now.
        """
        self.keepName("")
        self._hasWaited = False
        find = self._backend.findName
        if find is None or not mayHaveName(self.state.address):
            return
        naming = self._naming = find(self.state.address).addCallback(self._found)
        self.state.isBeingNamed = not naming.called
        if naming.called:
            self._naming = None

    def keepName(self, hostname: str) -> None:
        """
        It is known, or nothing asks for it any longer.
        """
        naming, self._naming = self._naming, None
        self.state.isBeingNamed = False
        if naming is not None:
            naming.addErrback(lambda _: None)
            naming.cancel()
        self.state.hostname = hostname

    def _found(self, hostname: str) -> None:
        self._naming = None
        self.state.isBeingNamed = False
        self.state.hostname = hostname
        self.state.identify()
        if self.state.transaction is not None:
            nameClient(self.state.transaction.envelope.client, hostname)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def nameKnown(self, envelope: Envelope) -> Deferred[None] | None:
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
            return waiting.addCallback(lambda _: nameClient(envelope.client, self.state.hostname))

        def late(_: Failure) -> None:
            self._waiting = None

        seconds = min(NAME_SECONDS, self._settings.reply_deadline / 2)
        return withDeadline(self._clock, seconds, wait).addErrback(late)

    def nameUnwanted(self) -> None:
        """
        The connection is lost.
        """
        self.keepName(self.state.hostname)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
