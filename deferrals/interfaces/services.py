"""
What the server lends to its stages.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IReactorCore,
    IReactorPluggableNameResolver,
    IReactorProcess,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
    IReactorUNIX,
    IResolver,
    IStreamClientEndpoint,
)
from zope.interface import Attribute, Interface

from deferrals.interfaces.message import IMessage, MaybeAwaitable
from deferrals.interfaces.tables import ITable
from deferrals.model.address import Mailbox
from deferrals.model.authentication import Authentication
from deferrals.model.envelope import Envelope
from deferrals.model.json import JSON
from deferrals.model.outgoing import Heard, Hop, Outgoing, Sent
from deferrals.model.reply import Reply
from deferrals.model.status import Status

if TYPE_CHECKING:
    from deferrals.interfaces.stages import IDeliveryStage

_T = TypeVar("_T")
_P = ParamSpec("_P")


class IReactor(
    IReactorTime,
    IReactorCore,
    IReactorTCP,
    IReactorUNIX,
    IReactorThreads,
    IReactorProcess,
    IReactorPluggableNameResolver,
):
    """
    What the whole server asks of a reactor.  Whatever only waits asks for
    C{IReactorTime}.
    """


class INotes(Interface):
    """
    Small facts that the whole server knows, over a restart, too.  Each kind has
    a bound; the oldest go first, of the owner that has most of them.

    A I{group} is text.  Its first word is its I{owner}, whose notes count
    together.  A value is what JSON has: C{None}, numbers, text, lists and
    dictionaries with text as keys.

    Where several machines share them in a database, each Deferred fails with
    L{SpoolError<deferrals.errors.SpoolError>} while that is away: with
    L{StoreAway<deferrals.errors.StoreAway>}, where nothing was noted or forgotten; with
    L{OutcomeUnknown<deferrals.errors.OutcomeUnknown>}, where it may have been.
    """

    def find(kind: str, group: str) -> MaybeAwaitable[Sequence[tuple[str, JSON, int]]]:
        """
        @return: key, value and version of each note that has not expired, the
            one that was put longest ago first; at once, or a Deferred.  While a database
            is away it has the notes that were put here, if there are any.
        """

    def put(
        kind: str, group: str, key: str, value: JSON, seconds: float, was: int | None = None
    ) -> Deferred[int]:
        """
        Note something for a while, in place of what is noted under this key; with
        C{was}, only where that is still its version; with C{was=0}, only where there is
        none, so that of several who try one succeeds.

        @param was: the version that L{find} has returned; 0: it has found nothing.
        @return: a Deferred of its version, which fires when everyone who asks
            from now on finds it.  It fails with
            L{Changed<deferrals.errors.Changed>} where it has another version
            than C{was}, and differently where not all know of it in two seconds: it
            may have been noted all the same.
        """

    def forget(kind: str, group: str, key: str) -> Deferred[None]:
        """
        @return: a Deferred that fires when no process finds it any longer.
        """


class ILimits(Interface):
    """
    How much there may be of something, by a limit's name and a key: an address,
    a user.  It holds for all listeners of a server.
    """

    def enter(limit: str, key: str, most: int) -> Deferred[bool]:
        """
        One more at once, until L{leave}.

        @param limit: the limit's name, without blanks.
        @return: a Deferred of whether it may be.  Where it may not, it has not
            entered.
        """

    def leave(limit: str, key: str) -> None:
        """
        One less of what has entered.
        """

    def spend(limit: str, key: str, amount: int, most: int, seconds: float) -> Deferred[bool]:
        """
        Spend an amount of what there is within a window that slides.  It
        outlives a restart of the server.

        @param amount: less than 0 gives some of it back; 0 only asks whether
            there is anything left.
        @param most: what there is within C{seconds}.
        @return: a Deferred of whether there is enough of it.  Where there is
            not, nothing has been spent.
        """

    def used(limit: str) -> dict[str, int]:
        """
        @return: what has been spent and counts now, by key; for people.
        """


class INextHops(Interface):
    """
    Connections to other SMTP and LMTP servers, pooled, with what is remembered
    of them.
    """

    def send(hop: Hop, outgoing: Outgoing, heard: Heard | None = None) -> Deferred[Sent]:
        """
        Send a message to one server.  Nothing is tried again that the server
        might have taken.

        @param hop: L{Hop<deferrals.model.outgoing.Hop>}.
        @param outgoing: L{Outgoing<deferrals.model.outgoing.Outgoing>}.
        @param heard: is told the answers that stand before all of them are known, and
            those that are there when it is cancelled.  An answer may be told twice.
        @return: a Deferred of L{Sent<deferrals.model.outgoing.Sent>}; fails
            with L{HopError<deferrals.errors.HopError>} where there was no
            session.  May be cancelled: the connection is then given up.
        """

    def offered(hop: Hop) -> Mapping[str, Sequence[str]] | None:
        """
        @return: what the server has listed in its last session: the words behind each
            keyword; at once.  C{None} where that is not known for certain: that session
            was not just now, or the sessions before it have shown something else.
        """

    def ask(hop: Hop, sender: str, recipient: str) -> Deferred[tuple[Reply, Reply]]:
        """
        Ask a server whether it would take a recipient (MAIL, RCPT, RSET).

        @param sender: the reverse path without brackets.
        @param recipient: the forward path without brackets.
        @return: a Deferred of two L{Reply<deferrals.model.reply.Reply>}: to
            MAIL and to RCPT; fails with
            L{HopError<deferrals.errors.HopError>} where there are none.  May
            be cancelled.
        """


class ISigner(Interface):
    """
    Signs messages for their senders' domains (DKIM, RFC 6376).
    """

    def sign(
        message: IMessage,
        envelope: Envelope,
        form: Hashable,
        chunks: Callable[[], Iterator[bytes]],
    ) -> Deferred[bytes]:
        """
        Sign what is about to leave; once for all copies of a message that have the same
        form.

        @param form: hashable: what tells copies apart that differ in what is signed.
        @param chunks: gives the octets of the copy, in a thread.
        @return: a Deferred of the fields to put in front, each with its CRLF; of
            nothing, where it is not to be signed.  It fails with C{OSError} where
            the message cannot be read; may be cancelled.
        """


class ISealer(Interface):
    """
    Internal: seals what is forwarded (ARC, RFC 8617).
    """

    hasKeys: bool = Attribute("Whether it seals anything.")

    def seal(message: IMessage, leaving: IMessage, envelope: Envelope) -> Deferred[bytes]:
        """
        @param message: as it came in: what was found out about it is sealed.
        @param leaving: as it goes on: that is signed.
        @return: a Deferred of the fields to put in front, each with its CRLF; of
            nothing, where it is not to be sealed.  It fails with C{OSError} where
            the message cannot be read; may be cancelled.
        """


class IServices(Interface):
    """
    What the server lends to its stages.
    """

    reactor: IReactor = Attribute("The reactor: timers (seconds, callLater) and the network.")
    hostname: str = Attribute("The server's name, text.")
    stateDir: str = Attribute("Absolute path of the state directory.")
    baseDir: str = Attribute("Absolute path of the directory that relative paths start from.")
    status: Status = Attribute(
        "L{Status<deferrals.model.status.Status>}: where a stage counts what happens, and says"
        " what state it is in."
    )

    def inThread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        """
        Run what blocks (a file's sync, a large parse) outside the reactor
        thread.

        @return: a Deferred of its result.
        """

    def common(key: Hashable, build: Callable[[], _T]) -> _T:
        """
        One object for all stages that ask with the same key, as long as the
        server runs: what is known of a daemon that several policies use, and
        the connections to it.

        @param key: hashable, e.g. C{(__name__, url)}.
        @param build: called without arguments, if it is not there yet.
        @return: the object.
        """

    def connect(endpoint: str) -> IStreamClientEndpoint:
        """
        @param endpoint: a Twisted client endpoint string.
        @return: C{twisted.internet.interfaces.IStreamClientEndpoint}.
        @raise ValueError: it is none.
        """

    nextHops: INextHops = Attribute("L{INextHops}: the way to other SMTP and LMTP servers.")
    notes: INotes = Attribute("L{INotes}: what the whole server knows.")
    limits: ILimits = Attribute("L{ILimits}: how much of something there may be.")
    signer: ISigner = Attribute("L{ISigner}: signs what leaves.")
    sealer: ISealer = Attribute("L{ISealer}: seals what is forwarded.")

    def resolver(servers: tuple[tuple[str, int], ...] = ()) -> IResolver:
        """
        @param servers: DNS servers, as (address, port) pairs; none, for those
            of the configuration, or of the system.
        @return: C{twisted.internet.interfaces.IResolver}.
        """

    def table(name: str) -> ITable:
        """
        One of C{[tables]}, at any time: what is looked up in it goes to the table that
        has this name then, over reloads, too.

        @return: L{ITable}; its look-ups fail while there is no table of this name.
        """

    def view(message: IMessage, envelope: Envelope) -> IMessage:
        """
        A message as a mailbox will have it: C{Return-Path} and our C{Received} in
        front, what only this server may say taken out.  Each scanner is sent this,
        unless its protocol tells it the same otherwise.

        @return: an L{IMessage} with a size and a digest of its own.
        """

    def authentication(message: IMessage, envelope: Envelope) -> Deferred[Authentication]:
        """
        Where a message comes from: SPF, DKIM, ARC and DMARC, found out once for each
        message, whoever asks, by the DNS of the configuration.

        @param message: as a stage is given it, or as it came in.
        @return: a Deferred of
            L{Authentication<deferrals.model.authentication.Authentication>}.  What DNS
            does not say in time is C{"temperror"} in it.  It fails with C{OSError} where
            the message cannot be read; may be cancelled.
        """

    def delivery(name: str) -> IDeliveryStage | None:
        """
        @return: the delivery that has a name now, for one that hands its mail to another;
            C{None} where there is none.  Not to be asked while stages are built.
        """

    def reversePath(sender: Mailbox) -> Mailbox:
        """
        @return: the reverse path under which mail of a sender is sent on: one of this
            server's own, where there is SRS; the sender's own where that is one of ours.
        """

    def listensOn(address: str, port: int) -> bool:
        """
        @param address: an IP address, text.
        @return: whether a connection there would reach this very server.
        """
