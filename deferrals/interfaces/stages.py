"""
The stages, and how they are found.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from deferrals.interfaces.message import IMessage, MaybeAwaitable
from deferrals.interfaces.services import IServices
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.outgoing import Hop
from deferrals.model.reply import Reply
from deferrals.model.verdict import (
    Accept,
    ContentVerdict,
    EnvelopeAnswer,
    EnvelopeVerdict,
    Failed,
    Outcome,
    Refuse,
    Retry,
)


class IEnvelopeStage(Interface):
    """
    Decides about a recipient before the data: accept, refuse or defer (S-1).
    """

    def judgeRecipient(
        envelope: Envelope, recipient: Recipient
    ) -> MaybeAwaitable[EnvelopeAnswer | None]:
        """
        Called once for each RCPT TO, and for each member of an alias, in the middle of
        the transaction; several may be under way at once, when they came pipelined.

        @param envelope: L{Envelope<deferrals.model.envelope.Envelope>}.
        @param recipient: L{Recipient<deferrals.model.envelope.Recipient>};
            its route is what an earlier envelope stage has said, or C{None}.
        @return: L{Accept}, L{Refuse}, L{Defer} or L{Expand} of
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


class IEditingStage(IContentStage):
    """
    A content stage whose marks may have C{edits}.  The message that it is asked about
    has the edits of the stages of this kind before it, of the same chain: it counts in
    those.  So it is asked apart for recipients who have met others of them.
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
            answer that is none (but see L{IReportingDelivery}).
        """


class IReportingDelivery(IDeliveryStage):
    """
    A delivery that reports each outcome as soon as it is known.  What it has reported
    stands, and is kept over a restart, whatever becomes of the other recipients: where
    the delivery raises, takes too long, or is cancelled because the server stops, only
    those recipients are tried again that it has not reported.
    """

    def deliverReporting(
        message: IMessage,
        envelope: Envelope,
        recipients: Sequence[Addressee],
        report: Callable[[Addressee, Outcome], None],
    ) -> MaybeAwaitable[Mapping[Addressee, Outcome]]:
        """
        Called instead of L{IDeliveryStage.deliver}, and with the same arguments.

        @param report: takes one of C{recipients} and its outcome, in the reactor's
            thread, until the answer; at the latest while the cancellation is passed on.
            The first outcome of a recipient counts.
        @return: see L{IDeliveryStage.deliver}.  Recipients that were reported may be
            in it, and need not be.
        """


class ILocalDelivery(IDeliveryStage):
    """
    A delivery that waits for no other machine.  It has room of its own: other servers
    that are silent do not keep it waiting.
    """


class ISharingDelivery(ILocalDelivery):
    """
    A local delivery that shares what messages cost among all that it has at the same
    time: threads, and syncs.  So it is given as many at once as C{max_delivering} lets,
    unless its C{concurrency} is configured; each call of C{deliver} is still for one
    message.
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


class IForeseeingDelivery(IDeliveryStage):
    """
    A delivery that knows of some recipients beforehand that it can never deliver to.
    They are refused at RCPT TO: behind the data only a notice could say so.
    """

    def refusal(envelope: Envelope, recipient: Recipient) -> Reply | None:
        """
        Called for each recipient whose mail would go this way.  May not wait, and says
        nothing of what could be otherwise another time.

        @param envelope: L{Envelope<deferrals.model.envelope.Envelope>}.
        @param recipient: with its route.
        @return: a permanent refusal, at once; C{None} where it could be delivered.
        """


class IForeseeingMessageDelivery(IForeseeingDelivery):
    """
    A delivery that also knows of some messages beforehand that it can never deliver
    them.  They are refused behind the data, before the content is judged, where the
    sender can still be told so: behind the reply only a notice could.
    """

    def refusalOf(
        message: IMessage, envelope: Envelope, recipient: Recipient
    ) -> MaybeAwaitable[Reply | None]:
        """
        Called for each recipient that the envelope has let in and whose mail would go
        this way.  May wait, but not for long: what is not known in time is delivered.

        @param message: L{IMessage}.
        @param envelope: L{Envelope<deferrals.model.envelope.Envelope>}.
        @param recipient: with its route.
        @return: a permanent refusal; C{None} where it could be delivered.
        """


class IAskableDelivery(IDeliveryStage):
    """
    A delivery whose next servers can be asked, at RCPT TO, whether they would take a
    recipient: C{callout} does that, where it names the delivery.
    """

    def hops(recipient: Recipient) -> MaybeAwaitable[Sequence[Hop] | Failed | Retry]:
        """
        @param recipient: with its route.
        @return: L{Hop<deferrals.model.outgoing.Hop>}: the servers, in the order in which
            they are tried; or what an attempt would come to now, where there is none.
        """


class IMarkedDelivery(IDeliveryStage):
    """
    Internal: a delivery that does not take every message that a content stage has
    accepted: it may be marked.
    """

    def judgeMarked(
        verdict: Accept, recipient: Recipient, quarantine: str | None
    ) -> ContentVerdict:
        """
        Called for each recipient whose mail would go this way, where the message is
        marked as junk.

        @param recipient: with its route.
        @param quarantine: the name of the delivery that gets what its policy refuses;
            C{None} where there is none.
        @return: the same, one with another route, or a refusal; at once.
        """


class INamedPlugin(Interface):
    """
    What C{use =} names in the configuration, and how it is built.  Offer an instance
    that also provides C{twisted.plugin.IPlugin} in a module below
    C{deferrals/plugins/}; the configuration then names it like a built-in.
    """

    name: str = Attribute("The word behind C{use =} in the configuration.")
    settings: type = Attribute(
        "An attrs class.  Its attributes are the keys of the table; their"
        " types and validators say what is allowed.  It has to be frozen, and its values"
        " to be hashable (tuples, no lists), since equal settings share one object.  It is"
        " called only with the keys that are there."
    )

    def build(settings: object, services: IServices) -> object:
        """
        Called once per different settings, before the server listens.  Must
        not wait for anything: what is down now may be up when mail comes.

        @param settings: an instance of C{self.settings}.
        @param services: L{IServices}.
        @return: what it builds.
        @raise ValueError: these settings cannot be; the text says what was
            expected, and the configuration's error names file and key.
        """


class IStagePlugin(INamedPlugin):
    """
    How a stage is found and built.
    """

    stage: type[Interface] = Attribute(
        "What it builds: IEnvelopeStage, IContentStage or IDeliveryStage."
    )


class ITablePlugin(INamedPlugin):
    """
    How a kind of C{[tables]} is found and built: C{build} gives an
    L{ITable<deferrals.interfaces.ITable>}, which asks, and leaves the rest to the server.
    """


class IOutwardPlugin(IStagePlugin):
    """
    A plugin for a delivery that leads out: to the server that a recipient's
    address names, or to one that sends on.  Only clients that a rule allows may
    send to all addresses by it.
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
        @return: one Deferred for each recipient, in their order.  Those of one cohort
            fire in a row.  None ever fails.  Cancelling one refuses for that
            recipient, for now.
        """
