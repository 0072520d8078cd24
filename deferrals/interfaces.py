"""
The points at which C{deferrals} is extended.

A stage is given values and returns verdicts.  It never sees a protocol or a
transport and never writes a reply.  What its author may rely on:

  - All calls are made in the reactor's thread.  C{IMessage.open()}, and what it
    returns, may be used in another one.
  - C{judgeRecipient} is called once for each RCPT TO, and for several of one
    transaction at once where they come pipelined; C{judge} at most once for each
    message and cohort; C{deliver} only after the final reply, again after
    C{Retry}, and again after a crash.
  - One transaction has one L{Envelope<deferrals.model.envelope.Envelope>} object
    in all calls before its final reply.  It can be hashed and weakly referenced:
    a C{WeakKeyDictionary} holds what a stage learns of a transaction.
  - C{judge}, C{judgeRecipient}, C{judgeSender}, C{deliver} and the function of
    C{shared} may return a value, a Deferred or a coroutine.  C{cohort},
    C{destination}, C{expect}, C{build} and C{ended} answer at once; a coroutine
    from them is an error.
  - What takes too long, or is not waited for any longer because the sender has
    gone, is cancelled: C{CancelledError} is raised where a coroutine awaits, and
    C{finally} runs.
  - A stage that raises, is late or answers nonsense refuses for now, only for the
    recipients that it was asked about.  It is logged with the transaction.
  - Stages are compared by identity, and can be hashed.
  - The marks of one recipient's copy never show in another's.
  - Interfaces that others implement never get another method; new ones come as
    new interfaces, which a stage may provide besides.

The interfaces that are called internal here belong to the server's own parts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO, ParamSpec, TypeAlias, TypeVar

import attrs
from twisted.cred.credentials import ICredentials
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

from deferrals.model.delivery import Addressee
from deferrals.model.disposition import Disposition, Reschedule
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.json import JSON
from deferrals.model.outgoing import Hop, Outgoing, Sent
from deferrals.model.reply import Reply
from deferrals.model.sasl import ScramKeys
from deferrals.model.selection import Selection
from deferrals.model.status import Status
from deferrals.model.verdict import ContentVerdict, EnvelopeVerdict, Outcome, Refuse

__all__ = [
    "IBinaryDelivery",
    "IBodyWriter",
    "IContentStage",
    "IDeliveryStage",
    "IEnvelopeStage",
    "IExpectingStage",
    "ILimits",
    "IMessage",
    "INextHops",
    "IOnwardDelivery",
    "IOutwardPlugin",
    "IQueue",
    "IScramChecker",
    "IScramCredentials",
    "ISenderStage",
    "IServices",
    "ISpool",
    "IStagePlugin",
    "ITransactionObserver",
    "MaybeAwaitable",
    "Work",
]

_T = TypeVar("_T")
_P = ParamSpec("_P")

#: What a method that may wait can return: the value, a Deferred, or a coroutine.
MaybeAwaitable: TypeAlias = _T | Deferred[_T] | Awaitable[_T]


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


class IMessage(Interface):
    """
    The content of one message: octets as they came in, dots unstuffed, every
    line ended by CRLF (unless the envelope says BODY=BINARYMIME), without any
    field that this server adds.  The same octets are judged, stored and
    delivered; but content stages are not shown fields that only this server may
    say (L{deferrals.model.ours}), which no mailbox gets.
    """

    size: int = Attribute("Its size in octets.")
    digest: bytes = Attribute("The SHA-256 of its octets, 32 bytes.")
    inMemory: bool = Attribute("Whether its octets are in memory, so that reading them is cheap.")
    header: bytes = Attribute(
        "The raw header section, up to and without the empty line; cut off at the header limit."
    )

    def fields() -> list[tuple[str, str]]:
        """
        The header fields in their order.

        @return: a list of (name, value): text; unfolded; octets that are not
            UTF-8 replaced; MIME words not decoded.
        """

    def open() -> BinaryIO:
        """
        @return: a binary file object at the message's first octet, for the
            caller to close.  It can be read from anywhere (C{seek}), in another
            thread, too.
        """

    def isIntact() -> bool:
        """
        Read it all, and compare with what came in.  Blocks: for a thread.

        @return: whether size and digest are right.
        """

    def shared(key: Hashable, function: Callable[[IMessage], MaybeAwaitable[_T]]) -> Deferred[_T]:
        """
        Compute something once for this message: a scan, a parse.  The first
        one to ask for C{key} has C{function(message)} called; all that ask get a
        Deferred of that same result.

        @param key: hashable; the asker's own, e.g. C{(__name__, socket)}.
        @param function: takes the message; may return a Deferred or a
            coroutine, which is cancelled when all that wait for it have
            cancelled theirs.  It is called anew for what asks after that.
        @return: a Deferred of the result or of its failure; may be cancelled.
        """


class IEnvelopeStage(Interface):
    """
    Decides about a recipient before the data: accept, refuse or defer (S-1).
    """

    def judgeRecipient(
        envelope: Envelope, recipient: Recipient
    ) -> MaybeAwaitable[EnvelopeVerdict | None]:
        """
        Called once for each RCPT TO, in the middle of the transaction; several
        may be under way at once when they came pipelined.

        @param envelope: L{Envelope<deferrals.model.envelope.Envelope>}.
        @param recipient: L{Recipient<deferrals.model.envelope.Recipient>};
            its route is what an earlier envelope stage has said, or C{None}.
        @return: L{Accept}, L{Refuse} or L{Defer} of
            L{deferrals.model.verdict}; or C{None}, for no opinion: what the
            stages before have said stands.  A route with another policy than
            the rule's puts the recipient under that policy, which then says
            what RCPT TO is answered.
        """


class ISenderStage(Interface):
    """
    Decides about a sender.  A stage of any kind may provide this besides.
    """

    def judgeSender(envelope: Envelope) -> MaybeAwaitable[Refuse | None]:
        """
        Called once for each MAIL FROM, after it has been found to be valid.  The
        first refusal of several stages counts; nothing is asked about the
        recipients then.

        @param envelope: of the transaction that begins.
        @return: C{Refuse}, whose reply MAIL FROM is answered; or C{None}.
        """


class ITransactionObserver(Interface):
    """
    Is told of the end of transactions.  A stage of any kind may provide this
    besides.
    """

    def ended(
        envelope: Envelope, answers: Sequence[tuple[Recipient, Reply]], final: Reply | None
    ) -> None:
        """
        Called exactly once for each transaction whose MAIL FROM was valid,
        whatever ends it: a final reply, a refused sender, RSET, a new greeting,
        a lost connection, a timeout, a shutdown.

        @param envelope: of the transaction.
        @param answers: the recipients that RCPT TO was answered for, in their
            order, each with the last reply that was about it: its own after the
            data, C{final} where that was the only one, otherwise the one to its
            RCPT TO.  A client that names very many wrong recipients is told of
            in part.
        @param final: the reply for the message as a whole, or to a MAIL FROM
            that was refused; C{None} where there was none: the sender still owns
            the message.
        """


class IContentStage(Interface):
    """
    Decides about deferred recipients, and only those, by the content (S-2).
    """

    def cohort(recipient: Recipient) -> Hashable:
        """
        Recipients with equal keys get the same answer for any message.

        @param recipient: with its route.
        @return: a hashable key, at once.
        """

    def judge(
        message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> MaybeAwaitable[ContentVerdict]:
        """
        Called at most once per message and cohort, while the sender waits for
        its replies.

        @param message: L{IMessage}; valid until the answer.
        @param envelope: L{Envelope<deferrals.model.envelope.Envelope>}.
        @param recipients: the undecided recipients of one cohort.
        @return: L{Accept<deferrals.model.verdict.Accept>}, perhaps with marks,
            or L{Refuse<deferrals.model.verdict.Refuse>}: one verdict for all
            of them.
        """


class IExpectingStage(IContentStage):
    """
    A content stage that wants to know beforehand which recipients it may be
    asked about, because it asks a service once for all of them.
    """

    def expect(message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]) -> None:
        """
        Called once per message, before its first C{judge}.

        @param recipients: all whose policies have this stage.  It will not be
            asked about those that an earlier stage refuses.
        """


class IDeliveryStage(Interface):
    """
    Hands a message over for good (S-3).  Called only after the final reply has
    taken responsibility (S-4, D-20, P-10).

    A stage that provides L{IEnvelopeStage} as well is asked at RCPT TO about
    the recipients that come its way, and can refuse there what it could not
    deliver.
    """

    def destination(recipient: Recipient) -> str:
        """
        Where a recipient's copy goes next: recipients with equal answers share
        one next hop, and so its limits and its bad days.  May not wait.

        @param recipient: with its route.
        @return: text for people, at once: C{"maildir"},
            C{"lmtp unix:/run/dovecot/lmtp"}, C{"mx example.org"}.
        """

    def deliver(
        message: IMessage, envelope: Envelope, recipients: Sequence[Addressee]
    ) -> MaybeAwaitable[Mapping[Addressee, Outcome]]:
        """
        Called again for recipients that had to be retried, and again after a crash
        for those whose outcome was not recorded: what it does must bear that.

        @param message: L{IMessage}.
        @param envelope: L{Envelope<deferrals.model.envelope.Envelope>}.
        @param recipients: a list of
            L{Addressee<deferrals.model.delivery.Addressee>}: each recipient
            with its marks; all of one destination.
        @return: a dictionary with, for each of them, L{Delivered}, L{Failed}
            or L{Retry} of L{deferrals.model.verdict}.  A recipient without an
            outcome is retried, and so is every recipient after a failure or an
            answer that is none.
        """


class IBinaryDelivery(IDeliveryStage):
    """
    A delivery that hands on any octets as they are, bare CR and LF included.
    BINARYMIME (RFC 3030) is offered only where all deliveries provide this.
    """


class IOnwardDelivery(IDeliveryStage):
    """
    A delivery that hands mail to another mail server, which may trust this one and
    read more in a local part than the name of a mailbox.  Recipients that it could
    send on to somewhere else (C{victim%outside.example@…}) are refused at RCPT TO,
    550 5.7.1.
    """


class IStagePlugin(Interface):
    """
    How a stage is found and built.  Offer an instance that also provides
    C{twisted.plugin.IPlugin} in a module below C{deferrals/plugins/}; the
    configuration then names it like a built-in.
    """

    name: str = Attribute("The word behind C{use =} in the configuration.")
    stage: type[Interface] = Attribute(
        "What it builds: IEnvelopeStage, IContentStage or IDeliveryStage."
    )
    settings: type = Attribute(
        "An attrs class.  Its attributes are the keys of the stage's table; their"
        " types and validators say what is allowed.  It has to be frozen, and its values"
        " to be hashable (tuples, no lists), since equal settings share one stage.  It is"
        " called only with the keys that are there."
    )

    def build(settings: object, services: IServices) -> object:
        """
        Called once per different settings, before the server listens.  Must
        not wait for anything: what is down now may be up when mail comes.

        @param settings: an instance of C{self.settings}.
        @param services: L{IServices}.
        @return: the stage.
        @raise ValueError: these settings cannot be; the text says what was
            expected, and the configuration's error names file and key.
        """


class IOutwardPlugin(IStagePlugin):
    """
    A plugin for a delivery that leads out: to the server that a recipient's
    address names, or to one that sends on.  Only clients that a rule allows may
    send to all addresses by it.
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

    def resolver(servers: tuple[tuple[str, int], ...] = ()) -> IResolver:
        """
        @param servers: DNS servers, as (address, port) pairs; none, for those
            of the configuration, or of the system.
        @return: C{twisted.internet.interfaces.IResolver}.
        """

    def listensOn(address: str, port: int) -> bool:
        """
        @param address: an IP address, text.
        @return: whether a connection there would reach this very server.
        """


class INotes(Interface):
    """
    Small facts that the whole server knows, over a restart, too.  Each kind has
    a bound; the oldest go first, of the owner that has most of them.

    A I{group} is text.  Its first word is its I{owner}, whose notes count
    together.  A value is what JSON has: C{None}, numbers, text, lists and
    dictionaries with text as keys.
    """

    def find(kind: str, group: str) -> MaybeAwaitable[Sequence[tuple[str, JSON, int]]]:
        """
        @return: key, value and version of each note that has not expired, the
            one that was put longest ago first; at once, or a Deferred.
        """

    def put(
        kind: str, group: str, key: str, value: JSON, seconds: float, was: int | None = None
    ) -> Deferred[int]:
        """
        Note something for a while, in place of what is noted under this key.

        @param was: only if this is still its version.
        @return: a Deferred of its version, which fires when everyone who asks
            from now on finds it.  It fails with
            L{Changed<deferrals.errors.Changed>} where it has another version
            than C{was}.
        """

    def forget(kind: str, group: str, key: str) -> Deferred[None]:
        """
        @return: a Deferred that fires when nobody finds it any longer.
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

    def send(hop: Hop, outgoing: Outgoing) -> Deferred[Sent]:
        """
        Send a message to one server.  Nothing is tried again that the server
        might have taken.

        @param hop: L{Hop<deferrals.model.outgoing.Hop>}.
        @param outgoing: L{Outgoing<deferrals.model.outgoing.Outgoing>}.
        @return: a Deferred of L{Sent<deferrals.model.outgoing.Sent>}; fails
            with L{HopError<deferrals.errors.HopError>} where there was no
            session.  May be cancelled: the connection is then given up.
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


class ISpool(Interface):
    """
    The only thing that makes a message durable, and the queue of what is
    ours.  A message is in it from L{stage} until its last recipient has an
    outcome.

    It keeps the time: its callers never say when, only after how many seconds.
    So a clock that is set makes nothing expire early, and nothing stick.
    """

    def open() -> Deferred[None]:
        """
        Start, before anything else is called: messages that were staged when
        the last process died are released (it is unknown whether their senders
        saw the reply, RFC 1047), and what was leased to it is due now.

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
        recipients are leased to the caller, which delivers them now.

        @param later: a dictionary: those that have to wait, each with its
            L{Reschedule<deferrals.model.disposition.Reschedule>}.
        """

    def abandon(work: Work) -> None:
        """
        The sender still owns the message: forget it.
        """

    def claim(limit: int, shares: Mapping[str, int], share: int) -> Deferred[list[Work]]:
        """
        Take released work that is due.  It is leased: no other call gets it
        until its outcomes are recorded or the lease has run out.  No
        destination is served before one that has waited longer for its turn.

        @param limit: how much at most: recipients of one message and one
            destination count as one.
        @param shares: a dictionary of destinations to how much of that they
            may have now.
        @param share: the same, for all others.
        @return: a Deferred of a list of
            L{Work}, each for one destination.
            A message that cannot be read is moved aside, and is not in it.
        """

    def renew(works: Iterable[Work]) -> None:
        """
        The caller is still at it: the leases begin anew.
        """

    def check(work: Work) -> Deferred[None] | None:
        """
        Before a delivery: is the content what was stored?

        @return: a Deferred, or C{None} for yes, where that is sure.  It fails
            with L{SpoolError<deferrals.errors.SpoolError>} if not: then the
            message has been moved aside, and nothing is to be recorded.
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
    ) -> Deferred[tuple[int, Sequence[int] | None]]:
        """
        Change some of the recipients that are selected, and go on from
        C{after} with the next call.

        @param command: C{"retry"}, C{"hold"}, C{"release"} or C{"remove"}.
            What is under way is left alone; no sender is told of what is removed.
        @return: a Deferred of (how many were changed, after).
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


class IBodyWriter(Interface):
    """
    Takes the content of one message as it comes in.
    """

    size: int = Attribute("How many octets have been written.")
    head: bytes = Attribute("The first octets: at least the header section, up to its limit.")
    congested: bool = Attribute("Whether the disk is behind: stop writing until drained() fires.")

    def write(chunk: bytes) -> None:
        """
        @param chunk: the next octets.
        """

    def drained() -> Deferred[None]:
        """
        @return: a Deferred that fires when there is room again.
        """

    def finish() -> Deferred[IMessage]:
        """
        The content is complete.

        @return: a Deferred of an L{IMessage}, or a failure with
            L{SpoolError<deferrals.errors.SpoolError>}.
        """

    def abort() -> None:
        """
        The content is not wanted; may be called at any time, more than once.
        """


class IScramCredentials(ICredentials, Interface):
    """
    What a client that uses SCRAM-SHA-256 has instead of a password: a proof.
    """

    username: bytes = Attribute("The name that the client gives, octets of UTF-8.")

    def check(keys: ScramKeys) -> bool:
        """
        @param keys: L{ScramKeys<deferrals.model.sasl.ScramKeys>} of the user.
        @return: whether the proof was made with the password that belongs to
            them.
        """


class IAuthenticator(Interface):
    """
    Internal: all credentials checkers as one, for a session.
    """

    mechanisms: list[str] = Attribute("The SASL mechanisms that can work, the best one first.")

    def login(credentials: ICredentials, address: str) -> Deferred[str]:
        """
        @param address: the client's.
        @return: a Deferred of the user's name; fails with C{UnauthorizedLogin}
            where no checker knows them, and with
            L{TooManyFailures<deferrals.errors.TooManyFailures>} where they are
            not looked at.
        """

    def scramKeys(user: bytes) -> Deferred[ScramKeys]:
        """
        @param user: octets of UTF-8.
        @return: a Deferred of the user's keys.  An unknown user gets some, too,
            always the same: an attacker learns nothing.
        """


class IContentJudge(Interface):
    """
    Internal: the content stages of all policies as one, for a session.
    """

    def cohort(recipient: Recipient, verdict: EnvelopeVerdict) -> Hashable:
        """
        @param recipient: with its route.
        @param verdict: the envelope's.
        @return: equal for recipients whose answer is the same for any message.
        @raise Exception: a stage cannot say it.
        """

    def judge(
        message: IMessage, envelope: Envelope, deferred: Sequence[tuple[Recipient, Hashable]]
    ) -> list[Deferred[ContentVerdict]]:
        """
        @param deferred: the deferred recipients, each with its cohort.
        @return: one Deferred for each recipient, in their order.  None ever
            fails.  Cancelling one refuses for that recipient, for now.
        """


class IScramChecker(Interface):
    """
    A credentials checker that knows keys for SCRAM-SHA-256: it provides this
    beside C{ICredentialsChecker},
    and accepts L{IScramCredentials}.
    """

    def scramKeys(user: bytes) -> MaybeAwaitable[ScramKeys | None]:
        """
        @param user: octets of UTF-8.
        @return: L{ScramKeys<deferrals.model.sasl.ScramKeys>}, or C{None} where
            there are none.  May be a Deferred.
        """


class IScramShapes(Interface):
    """
    Internal: a L{IScramChecker} that says what its keys look like, so that those
    made up for strangers look the same.
    """

    def scramShapes() -> MaybeAwaitable[Sequence[tuple[int, int]]]:
        """
        @return: iterations and octets of salt of the keys of all users, in
            order.  May be a Deferred.
        """
