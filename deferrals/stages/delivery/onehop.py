"""
What deliveries to one server have in common, whatever they speak to it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import attrs

from deferrals.interfaces import IMessage
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.outgoing import Hop, Login
from deferrals.model.reply import Reply
from deferrals.model.settings import BadSetting
from deferrals.stages.delivery.copies import ReportingDelivery
from deferrals.stages.delivery.remote import ConnectionSettings, RemoteDelivery


@attrs.frozen(kw_only=True)
class LoginSettings(ConnectionSettings):
    """
    @ivar user: authenticate as this user (SCRAM-SHA-256, PLAIN or LOGIN,
        whichever is offered first), where the server asks for it.
    @ivar password: the password.
    @ivar password_file: a file whose first line is the password.
    """

    user: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    password_file: str | None = None

    def __attrs_post_init__(self) -> None:
        passwords = [one for one in (self.password, self.password_file) if one is not None]
        if len(passwords) != (0 if self.user is None else 1):
            raise BadSetting("user", "either a user with password or password_file, or none")

    def login(self, baseDir: str) -> Login | None:
        """
        Who we are there.

        @param baseDir: where relative paths begin.
        """
        if self.user is None:
            return None
        path = self.password_file
        return Login(self.user, self.password, path and os.path.join(baseDir, path))


class OneHopDelivery(ReportingDelivery):
    """
    @param hop: the server.
    @param remote: delivers there.
    """

    def __init__(self, hop: Hop, remote: RemoteDelivery) -> None:
        self._hop = hop
        self._remote = remote

    def hops(self, recipient: Recipient) -> Sequence[Hop]:
        """
        See L{IOnwardDelivery<deferrals.interfaces.IOnwardDelivery>}.
        """
        return [self._hop]

    async def refusalOf(
        self, message: IMessage, envelope: Envelope, recipient: Recipient
    ) -> Reply | None:
        """
        See L{IForeseeingMessageDelivery<deferrals.interfaces.IForeseeingMessageDelivery>}.
        """
        return await self._remote.refusalOf(self._hop, message, envelope, recipient)
