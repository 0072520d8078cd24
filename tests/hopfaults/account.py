"""
What a peer's words come to for each recipient, as an account that knows nothing of
the client: the judge of its outcomes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs

#: Less than there is between two attempts.
ATTEMPT_SECONDS = 50.0


@attrs.define
class Account:
    """
    @ivar taken: by recipient: how often it was told that it has the message.
    @ivar perhaps: recipients who may have been told so, by a peer that had said what
        could not be matched before.
    @ivar anyone: whether these may be all.
    @ivar refused: by recipient: the codes of what refused it for good.
    @ivar refusedAll: codes that refused whole messages before their recipients were
        named.
    @ivar confused: codes that a peer has said when nothing that it said was certain.
    @ivar wrong: what must not be.
    """

    taken: Counter[str] = attrs.field(factory=Counter)
    perhaps: set[str] = attrs.field(factory=set)
    anyone: bool = False
    refused: dict[str, set[int]] = attrs.field(factory=dict)
    refusedAll: set[int] = attrs.field(factory=set)
    confused: set[int] = attrs.field(factory=set)
    wrong: list[str] = attrs.field(factory=list)
    _given: dict[str, float] = attrs.field(factory=dict)
    _unknown: dict[str, Callable[[], bool]] = attrs.field(factory=dict)

    def rejected(self, recipient: str, isCertain: Callable[[], bool]) -> None:
        """
        A peer has refused a recipient for good at RCPT TO.

        @param isCertain: whether nothing that it has said since makes that doubtful.
        """
        self._unknown[recipient] = isCertain

    def named(self, recipient: str) -> None:
        """
        A peer is asked for a recipient.  One that was refused for good has its outcome,
        whatever became of the others of its message.
        """
        isCertain = self._unknown.pop(recipient, None)
        if isCertain is not None and isCertain():
            self.wrong.append(f"{recipient} was refused for good, and is named again")

    def given(self, recipient: str, now: float) -> None:
        """
        A peer has got a whole message for a recipient, and so may have taken it: as
        long as it has not refused, it does not get it again in the same attempt (D-21).
        """
        if now - self._given.get(recipient, -ATTEMPT_SECONDS) < ATTEMPT_SECONDS:
            self.wrong.append(f"{recipient} was sent again at once")
        self._given[recipient] = now
        self.sent(recipient)

    def sent(self, recipient: str) -> None:
        """
        A peer has got a whole message for a recipient.
        """
        if self.taken[recipient]:
            self.wrong.append(f"{recipient} was sent again to a peer that had taken it")

    def took(self, recipient: str, isCertain: bool) -> None:
        """
        A recipient is a peer's, and it has said so.
        """
        if isCertain:
            self.taken[recipient] += 1
        else:
            self.perhaps.add(recipient)

    def refuses(self, recipient: str, code: int) -> None:
        """
        A peer has refused a recipient, perhaps for good.
        """
        self._given.pop(recipient, None)
        if code >= 500:
            self.refused.setdefault(recipient, set()).add(code)

    def perhapsRefused(self, recipients: set[str]) -> None:
        """
        A peer has said what may be taken for the refusal of one of these for now.
        """
        for recipient in recipients:
            self._given.pop(recipient, None)

    def problems(self, recipient: str, ends: list[tuple[str, int]]) -> list[str]:
        """
        Compare with the outcomes.

        @param ends: the outcomes that stand, each with the code of its reply.
        """
        if len(ends) != 1:
            return [f"{recipient} has {len(ends)} outcomes: {ends}"]
        ((outcome, code),) = ends
        mayHave = self.taken[recipient] or recipient in self.perhaps or self.anyone
        if outcome == "delivered" and not mayHave:
            return [f"{recipient} is called delivered, and no peer has said so"]
        if outcome != "delivered" and self.taken[recipient]:
            return [f"{recipient} is called {outcome} ({code}), and a peer had taken it"]
        said = self.refused.get(recipient, set()) | self.refusedAll | self.confused
        if outcome == "failed" and not (500 <= code < 600 and code in said):
            return [f"{recipient} failed with {code}, and no peer has said so"]
        return []
