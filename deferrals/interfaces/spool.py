"""
The spool, and what an operator may do with it.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from deferrals.interfaces.message import IBodyWriter, IMessage
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import Disposition, Reschedule
from deferrals.model.envelope import Envelope
from deferrals.model.selection import Selection, SetAside


@attrs.frozen(eq=False)
class Work:
    """
    What is to be delivered of one message.

    @ivar envelope: where the message came from.
    @ivar message: its content.
    @ivar addressees: the recipients that are to have it now.
    @ivar whole: whether these are all recipients that the message has left.
    @ivar ageSeconds: how long the message had been ours when it was handed out.
    @ivar expireSeconds: the age at which it is given up, once that is known.
    """

    envelope: Envelope
    message: IMessage
    addressees: tuple[Addressee, ...]
    whole: bool = False
    ageSeconds: float = 0.0
    expireSeconds: float | None = None


class MailKind(NamedTuple):
    """
    Mail that shares what there is to deliver it with.

    @ivar delivery: the name of its delivery.
    @ivar isNotice: whether it has the null reverse-path.
    @ivar user: the login that has sent it; C{None} where there was none.
    """

    delivery: str
    isNotice: bool = False
    user: str | None = None


@attrs.frozen
class Turn:
    """
    A destination at which something is due.

    @ivar destination: its name; empty where it is not known yet.
    @ivar kinds: what waits there: those of the first of its recipients.
    """

    destination: str
    kinds: tuple[MailKind, ...]


class ISpool(Interface):
    """
    The only thing that makes a message durable, and the queue of what is
    ours.  A message is in it from L{stage} until its last recipient has an
    outcome.

    It keeps the time: its callers never say when, only after how many seconds.
    So a clock that is set makes nothing expire early, and nothing stick.
    """

    identity: str = Attribute(
        "A random number that was made with the spool and stays with it, as text of letters and"
        " digits: it tells the spool's messages from those of all others.  It is there once open()"
        " has fired."
    )

    owner: str = Attribute(
        "Who this process is, in leases: what is staged or leased is its own, and no other owner"
        " records, renews, releases or abandons it.  It is there once open() has fired."
    )

    isThere: bool = Attribute("Whether mail can be taken now, as far as is known.")

    def open() -> Deferred[None]:
        """
        Start, before anything else is called.  What this owner's predecessors left is taken
        up: messages that were staged when the last process died are released (it is unknown
        whether their senders saw the reply, RFC 1047), and what was leased to it is due now.
        What other owners have, who live, stays theirs.

        @return: a Deferred that fires when mail can be taken.
        """

    def close() -> Deferred[None]:
        """
        Finish what was begun; the last call.

        @return: a Deferred.
        """

    def newBody(transaction: int) -> IBodyWriter:
        """
        @param transaction: the number of the transaction.
        @return: an L{IBodyWriter}.
        """

    def stage(
        envelope: Envelope, message: IMessage, addressees: Sequence[Addressee]
    ) -> Deferred[Work]:
        """
        Make a message and the recipients that will be delivered durable: data
        and metadata synced.

        @param addressees: a list of
            L{Addressee<deferrals.model.delivery.Addressee>}.
        @return: a Deferred of a L{Work}, or a
            failure with L{SpoolError<deferrals.errors.SpoolError>}: then the
            sender still owns the message and the spool holds nothing of it.
            It cannot be cancelled: call L{abandon} with what it fires with.
        """

    def release(work: Work, later: Mapping[Addressee, Reschedule]) -> None:
        """
        The final reply has been written: the message is ours, and its
        recipients are leased to the caller, which delivers them now.  So may
        recipients be put back that were claimed and cannot begin: all of them are
        C{later} then.

        @param later: a dictionary: those that have to wait, each with its
            L{Reschedule<deferrals.model.disposition.Reschedule>}.
        """

    def abandon(work: Work) -> None:
        """
        The sender still owns the message: forget it.
        """

    def claim(
        limit: int, shares: Mapping[str, int], share: int, only: Collection[str] | None = None
    ) -> Deferred[list[Work]]:
        """
        Take released work that is due.  It is leased: no other call gets it
        until its outcomes are recorded or the lease has run out.  No
        destination is served before one that has waited longer for its turn.

        @param limit: how much at most: recipients of one message and one
            destination count as one.
        @param shares: a dictionary of destinations to how much of that they
            may have now.
        @param share: the same, for all others.
        @param only: the destinations that are asked about; C{None} for all.
        @return: a Deferred of a list of
            L{Work}, each for one destination.
            A message that cannot be read is moved aside, and is not in it.
        """

    def turns(after: Hashable) -> Deferred[tuple[list[Turn], Hashable]]:
        """
        Look at some of the destinations where work is due, in the order of their turns,
        and go on from C{after} with the next call.  Nothing is leased.

        @param after: where the last call ended; C{None} to begin.
        @return: a Deferred of (turns, after).  Where there are none, nothing more is due at
            this moment; a destination that has become due since, or was served, is found
            with C{after} later.
        """

    def renew(works: Iterable[Work]) -> None:
        """
        The caller is still at it: the leases begin anew.
        """

    def check(work: Work) -> Deferred[None] | None:
        """
        Before a delivery: is the content here, and is it what was stored?

        @return: a Deferred, or C{None} for yes, where that is sure.  It fails
            with L{SpoolError<deferrals.errors.SpoolError>} if not: then the
            message has been moved aside, or is another owner's by now, and nothing is to
            be recorded.
        """

    def record(
        work: Work,
        dispositions: Mapping[Addressee, Disposition],
        messages: Sequence[tuple[Envelope, IMessage, Sequence[Addressee]]] = (),
    ) -> Deferred[list[Work]]:
        """
        What became of recipients, and the messages that say so: all of it in
        one transaction, or nothing.

        @param dispositions: a dictionary of addressee to
            L{Disposition<deferrals.model.disposition.Disposition>}.  The message leaves
            with its last recipient.
        @param messages: notices about it, each as (envelope, message,
            addressees): they are ours at once.
        @return: a Deferred of a list of L{Work},
            the notices, leased to the caller, which fires when it is durable.
        """

    def backOff(destination: str, seconds: float) -> None:
        """
        Nothing that waits for this destination is due before that; 0 takes
        back what was said.
        """

    def notices(limit: int, transaction: int | None = None) -> Deferred[list[Work]]:
        """
        Recipients whose senders are to be told something: their outcome
        stands, or they have waited for too long.  Leased, like claimed work.

        @param limit: how many messages at most.
        @param transaction: the number of the one message to look at.
        @return: a Deferred of a list of
            L{Work}, one for each message, whose
            addressees have an C{action}.
        """

    def waiting() -> Deferred[tuple[int, int]]:
        """
        @return: a Deferred of (messages, recipients) that are in the spool.
        """

    def notes() -> Deferred[dict[str, str]]:
        """
        What was to be remembered.

        @return: a Deferred of a dictionary of names to values, both text:
            those that have not expired.
        """

    def note(name: str, value: str, seconds: float) -> None:
        """
        Remember something for a while, soon: a crash may forget the newest.

        @param name: text; what was noted under it before is replaced.
        @param value: text.
        @param seconds: for how long.
        """

    def forget(name: str) -> None:
        """
        Forget it, now.
        """


class IQueue(Interface):
    """
    What an operator may do with a spool, while the server runs.

    A selection is a L{Selection<deferrals.model.selection.Selection>}.
    """

    def recipients(
        selection: Selection, limit: int, after: Sequence[int] | None
    ) -> Deferred[tuple[list[dict[str, Any]], Sequence[int] | None]]:
        """
        @param limit: how many recipients at most.
        @param after: where the last call ended; C{None} to begin.
        @return: a Deferred of (recipients, after): dictionaries as
            C{deferrals queue list --json} shows them; C{after} is C{None} when
            there is no more.
        """

    def show(number: int) -> Deferred[dict[str, Any] | None]:
        """
        @return: a Deferred of all that is known of a message; C{None} if it is
            unknown.
        """

    def change(
        command: str, selection: Selection, after: Sequence[int] | None
    ) -> Deferred[tuple[int, int, Sequence[int] | None]]:
        """
        Change some of the recipients that are selected, and go on from
        C{after} with the next call.

        @param command: C{"retry"}, C{"hold"}, C{"release"} or C{"remove"}.
            What is under way is left alone by most; where it is to be held, it is held
            when that ends and has not delivered it.  No sender is told of what is removed.
        @return: a Deferred of (how many were changed, how many of those that are selected
            are under way, after).
        """

    def content(number: int) -> Deferred[IMessage | None]:
        """
        @return: a Deferred of an L{IMessage}; C{None} if there is none.
        """

    def inspect(
        after: int | None,
    ) -> Deferred[tuple[list[dict[str, Any]], int, int | None]]:
        """
        Look at a part of the spool for what is damaged or does not belong
        there, and go on from C{after} with the next call.

        @return: a Deferred of (problems, messages looked at, after): problems
            are dictionaries.
        """

    def numbers() -> Deferred[dict[str, Any]]:
        """
        @return: a Deferred of a dictionary: what is in the spool.
        """

    def aside() -> Deferred[list[SetAside]]:
        """
        @return: a Deferred of what has been set aside, since it does not fit or
            cannot be read.
        """

    def rescue(command: str, name: str) -> Deferred[SetAside]:
        """
        Do something with what has been set aside.

        @param command: C{"show"}, C{"restore"} or C{"remove"}.
        @param name: as L{aside} says it.
        @return: a Deferred of what is there, of what was taken back and what was
            not, or of what was removed.
        """
