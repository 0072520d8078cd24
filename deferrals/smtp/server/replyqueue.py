"""
Replies in the order of their commands (RFC 2920 §3.2), without I/O.

A command that is answered later has a L{Slot}; what is said behind it waits.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred

from deferrals.model.reply import Reply


@attrs.define(eq=False)
class Slot:
    """
    One reply in the order of replies.

    @ivar settle: makes the reply, once all before it have been taken;
        C{None} while its answer is pending.
    @ivar pending: what is waited for.
    """

    settle: Callable[[], Reply] | None = None
    pending: Deferred[None] | None = None


class ReplyQueue:
    """
    What is still to be said: slots, and octets that have been made of replies and
    not been written.

    @ivar slots: the replies that are still to be made, in their order.
    """

    __slots__ = ("_octets", "slots")

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self._octets: list[bytes] = []

    @property
    def hasOctets(self) -> bool:
        """
        Whether L{take} has something.
        """
        return bool(self._octets)

    def enqueue(self, slot: Slot) -> None:
        """
        A command's reply comes later, behind those before it.
        """
        self.slots.append(slot)

    def next(self) -> Reply | None:
        """
        Take the next reply.

        @return: C{None} while it is not known, and where there is none.
        """
        if not self.slots:
            return None
        settle = self.slots[0].settle
        if settle is None:
            return None
        del self.slots[0]
        return settle()

    def say(self, reply: Reply, utf8: bool) -> None:
        """
        This is what is said next, whatever the slots are waiting for.

        @param utf8: whether the client may be sent UTF-8 (RFC 6531 §3.5).
        """
        self._octets.append(reply.encode(utf8))

    def take(self) -> bytes:
        """
        Take what is to be written.
        """
        if not self._octets:
            return b""
        octets, self._octets = b"".join(self._octets), []
        return octets

    def drop(self) -> None:
        """
        No slot will be answered: nothing is waited for any longer.
        """
        slots, self.slots = self.slots, []
        for slot in slots:
            if slot.pending is not None:
                slot.pending.cancel()
