"""
Reverse paths that this server has rewritten by SRS (L{deferrals.model.srs}): which
ones are its own, who may write to them, and under which one mail is forwarded.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from deferrals.model.address import Mailbox
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R550_UNKNOWN_RECIPIENT, Reply
from deferrals.model.srs import SRS, SRSError
from deferrals.model.verdict import Accept, Refuse, Route

R550_ONLY_REPORTS = Reply(550, "5.7.1", "this address takes only reports, which come from <>")


@attrs.frozen(eq=False)
class Returns:
    """
    @ivar srs: makes and reads them.
    @ivar seconds: the time of day.
    @ivar isOurs: whether a sender is one of our own, whose mail goes out as it is.
    @ivar route: where mail for such an address goes.
    @ivar anySender: whether others may write to one than those that report.
    """

    srs: SRS
    seconds: Callable[[], float]
    isOurs: Callable[[Mailbox], bool]
    route: Route
    anySender: bool = False

    def has(self, address: Mailbox) -> bool:
        """
        Whether an address looks like one of these.
        """
        return self.srs.has(address)

    def judge(self, envelope: Envelope, recipient: Recipient) -> Accept | Refuse:
        """
        What RCPT TO such an address is answered.
        """
        try:
            origin = self.srs.reverse(recipient.address, self.seconds())
        except SRSError as error:
            return Refuse(R550_UNKNOWN_RECIPIENT, why=f"srs: {error}")
        if self._isOwn(origin):  # a hash that was made for another one, cut elsewhere
            return Refuse(R550_UNKNOWN_RECIPIENT, why=f"srs: {origin} is never rewritten")
        if envelope.sender is not None and not self.anySender:
            return Refuse(R550_ONLY_REPORTS, why="srs: any_sender")
        return Accept(route=self.route, why=f"srs: {origin}")

    def reversePath(self, sender: Mailbox) -> Mailbox:
        """
        See L{IServices.reversePath<deferrals.interfaces.IServices.reversePath>}.
        """
        return sender if self._isOwn(sender) else self.srs.forward(sender, self.seconds())

    def _isOwn(self, sender: Mailbox) -> bool:
        return sender.domain == self.srs.domain or self.isOurs(sender)
