"""
What was refused for recipients, as it is kept for a while.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from zope.interface import Interface

from deferrals.model.refusal import Refusal


class IRefusalStore(Interface):
    """
    One for a whole server, however many processes or machines it is: each adds to it,
    and each finds what all have added.

    An I{owner} is a recipient's address as
    L{Mailbox.key<deferrals.model.address.Mailbox.key>} has it.  What is of one owner is
    found for that owner alone.  Times are seconds since the epoch.

    Each Deferred fails with L{SpoolError<deferrals.errors.SpoolError>} where the store
    cannot do it now; nothing that is on its way through the server waits for one.
    """

    def add(refusals: Sequence[tuple[str, Refusal]]) -> Deferred[None]:
        """
        @param refusals: each with its owner.  One takes the place of an earlier one of
            the same transaction and owner.
        """

    def find(owner: str, since: float, limit: int) -> Deferred[list[Refusal]]:
        """
        @return: a Deferred of those of one owner, the newest first.
        """

    def about(words: str, since: float, limit: int) -> Deferred[list[Refusal]]:
        """
        @return: a Deferred of those of all owners whose Subject has these words, the
            newest first; of the last 20,000 refusals.  For operators alone.
        """

    def named(reference: str, owner: str) -> Deferred[Refusal | None]:
        """
        @param reference: the id of the transaction.
        """

    def owners(since: float) -> Deferred[list[str]]:
        """
        @return: a Deferred of those of whom there is one that is as new.
        """

    def trim(before: float, entries: int) -> Deferred[int]:
        """
        Forget what is older, and the oldest of what is too much.  It takes a small piece
        at once.

        @param entries: how many there may be.
        @return: a Deferred of how many there are now.
        """

    def close() -> Deferred[None]:
        """
        No more.
        """
