"""
What a process has in hand of the queue that several servers share.
"""

from __future__ import annotations

from collections.abc import Iterable


class Held:
    """
    Recipients that are leased to this process, or that it tells senders of; each with
    the owner that it was when it took them.
    """

    def __init__(self) -> None:
        self._owners: dict[int, dict[int, int]] = {}

    def pairs(self) -> list[tuple[int, int]]:
        """
        All of it, as numbers of messages and of their recipients; for any thread.
        """
        return [(number, seq) for number, seqs in [*self._owners.items()] for seq in [*seqs]]

    def take(self, number: int, seqs: Iterable[int], owner: int) -> None:
        """
        @param number: of a message.
        @param seqs: which of its recipients.
        """
        self._owners.setdefault(number, {}).update(dict.fromkeys(seqs, owner))

    def isOurs(self, number: int, seqs: Iterable[int], owner: int) -> bool:
        """
        Whether this process has all of them still, as that owner.
        """
        known = self._owners.get(number, {})
        return all(known.get(seq) == owner for seq in seqs)

    def leave(self, number: int, seqs: Iterable[int]) -> bool:
        """
        Some have an outcome.

        @return: whether that were the last ones of their message here.
        """
        known = self._owners.get(number, {})
        for seq in seqs:
            known.pop(seq, None)
        if not known:
            self._owners.pop(number, None)
        return not known

    def forget(self, number: int) -> None:
        """
        A message has left.
        """
        self._owners.pop(number, None)

    def clear(self) -> None:
        """
        All of it is others'.
        """
        self._owners.clear()
