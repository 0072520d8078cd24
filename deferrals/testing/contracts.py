"""
What every stage has to do, as tests: mix one into a C{SynchronousTestCase}, and
say how to make yours.  They run under trial and pytest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.deferreds import asDeferred
from deferrals.interfaces import (
    IContentStage,
    IDeliveryStage,
    IEditingStage,
    IEnvelopeStage,
    IForeseeingDelivery,
    IMessage,
    IReportingDelivery,
    ITable,
)
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.json import JSON
from deferrals.model.reply import Reply
from deferrals.model.verdict import (
    Accept,
    ContentVerdict,
    Defer,
    Delivered,
    EnvelopeAnswer,
    Expand,
    Failed,
    Marks,
    Outcome,
    Refuse,
    Retry,
    Route,
)
from deferrals.testing.values import (
    makeAddressees,
    makeEnvelope,
    makeMessage,
    makeRecipient,
    tableKeys,
)

_T = TypeVar("_T")
_S = TypeVar("_S")

if TYPE_CHECKING:
    _Case = SynchronousTestCase
else:
    _Case = object  # a mixin: it is no test by itself


class _StageContract(_Case):
    """
    What all stages have in common.
    """

    def makeMessage(self) -> IMessage:
        """
        @return: an ordinary message.
        """
        return makeMessage()

    def makeEnvelope(self) -> Envelope:
        """
        @return: an ordinary envelope.
        """
        return makeEnvelope()

    def resultOf(self, d: Deferred[_T]) -> _T:
        """
        Wait for a Deferred.  A stage that waits for a clock, or for another
        service, overrides this: it moves the clock, and answers for the service.
        """
        found: _T = self.successResultOf(d)
        return found

    def assertHashable(self, stage: _S) -> None:
        """
        It can be the key of a dictionary, and is equal to itself alone.
        """
        self.assertEqual({stage: 1}.get(stage), 1)

    def assertLetsGo(self, d: Deferred[_T]) -> None:
        """
        What is not waited for any longer ends at once, however it ends.
        """
        found: list[_T | Failure] = []
        d.addBoth(found.append)
        d.cancel()
        self.assertEqual(len(found), 1, "it goes on after it was cancelled")

    def assertRefuses(self, reply: Reply) -> None:
        """
        This is a reply that refuses a recipient.
        """
        self.assertIsInstance(reply, Reply)
        self.assertTrue(400 <= reply.code < 600, reply)
        self.assertIsNotNone(reply.enhanced, "D-13: an enhanced status code")


class EnvelopeStageContract(_StageContract):
    """
    What every L{IEnvelopeStage<deferrals.interfaces.IEnvelopeStage>} does.
    """

    def makeStage(self) -> IEnvelopeStage:
        """
        @return: the stage to be tested.
        """
        raise NotImplementedError

    def makeRecipient(self) -> Recipient:
        """
        @return: the recipient that it is asked about.
        """
        return makeRecipient("somebody@example.net")

    def test_providesInterface(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(IEnvelopeStage, self.makeStage()))

    def test_hashable(self) -> None:
        """It can be hashed, and is equal to itself alone."""
        self.assertHashable(self.makeStage())

    def test_verdict(self) -> None:
        """What it says of a recipient is a verdict, or nothing."""
        d: Deferred[EnvelopeAnswer | None] = asDeferred(
            self.makeStage().judgeRecipient, self.makeEnvelope(), self.makeRecipient()
        )
        verdict = self.resultOf(d)
        self.assertIsInstance(verdict, Accept | Refuse | Defer | Expand | None)
        if isinstance(verdict, Refuse):
            self.assertRefuses(verdict.reply)
        elif verdict is not None:
            self.assertIsInstance(verdict.route, Route | None)

    def test_letsGo(self) -> None:
        """When it is not waited for any longer, it ends."""
        d: Deferred[EnvelopeAnswer | None] = asDeferred(
            self.makeStage().judgeRecipient, self.makeEnvelope(), self.makeRecipient()
        )
        self.assertLetsGo(d)


class ContentStageContract(_StageContract):
    """
    What every L{IContentStage<deferrals.interfaces.IContentStage>} does.
    """

    def makeStage(self) -> IContentStage:
        """
        @return: the stage to be tested.
        """
        raise NotImplementedError

    def makeRecipient(self) -> Recipient:
        """
        @return: the recipient that it is asked about.
        """
        return makeRecipient("somebody@example.net")

    def test_providesInterface(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(IContentStage, self.makeStage()))

    def test_hashable(self) -> None:
        """It can be hashed, and is equal to itself alone."""
        self.assertHashable(self.makeStage())

    def test_cohortIsHashable(self) -> None:
        """A cohort's key is hashable, at once, and the same each time."""
        stage, recipient = self.makeStage(), self.makeRecipient()
        key = stage.cohort(recipient)
        self.assertNotIsInstance(key, Deferred)
        self.assertFalse(hasattr(key, "__await__"), "cohort() does not wait")
        self.assertEqual(hash(key), hash(stage.cohort(recipient)))
        self.assertEqual(key, stage.cohort(recipient))

    def test_oneVerdict(self) -> None:
        """An ordinary message gets one verdict for the cohort."""
        stage, recipient = self.makeStage(), self.makeRecipient()
        stage.cohort(recipient)
        d: Deferred[ContentVerdict] = asDeferred(
            stage.judge, self.makeMessage(), self.makeEnvelope(), [recipient]
        )
        verdict = self.resultOf(d)
        self.assertIsInstance(verdict, Accept | Refuse)
        if isinstance(verdict, Refuse):
            self.assertRefuses(verdict.reply)
        else:
            self.assertIsInstance(verdict.marks, Marks)
            self.assertEqual(Marks.fromJSON(verdict.marks.toJSON()), verdict.marks)
            mayEdit = IEditingStage.providedBy(self.makeStage())
            self.assertTrue(mayEdit or not verdict.marks.edits, "edits, and no IEditingStage")

    def test_letsGo(self) -> None:
        """When it is not waited for any longer, it ends."""
        stage, recipient = self.makeStage(), self.makeRecipient()
        stage.cohort(recipient)
        d: Deferred[ContentVerdict] = asDeferred(
            stage.judge, self.makeMessage(), self.makeEnvelope(), [recipient]
        )
        self.assertLetsGo(d)


class DeliveryStageContract(_StageContract):
    """
    What every L{IDeliveryStage<deferrals.interfaces.IDeliveryStage>} does.
    """

    def makeStage(self) -> IDeliveryStage:
        """
        @return: the stage to be tested.
        """
        raise NotImplementedError

    def makeAddressees(self) -> list[Addressee]:
        """
        @return: the recipients that it delivers to: at least two, of one
            destination.
        """
        return makeAddressees("a@example.net", "b@example.net")

    def delivered(
        self, stage: IDeliveryStage, message: IMessage, envelope: Envelope
    ) -> tuple[Sequence[Addressee], Mapping[Addressee, Outcome]]:
        """
        Deliver once.
        """
        addressees = self.makeAddressees()
        d: Deferred[Mapping[Addressee, Outcome]] = asDeferred(
            stage.deliver, message, envelope, addressees
        )
        return addressees, self.resultOf(d)

    def test_providesInterface(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(IDeliveryStage, self.makeStage()))

    def test_hashable(self) -> None:
        """It can be hashed, and is equal to itself alone."""
        self.assertHashable(self.makeStage())

    def test_destination(self) -> None:
        """It says, at once, where a recipient's copy goes next."""
        destination = self.makeStage().destination(self.makeAddressees()[0].recipient)
        self.assertIsInstance(destination, str)
        self.assertTrue(destination)

    def test_refusal(self) -> None:
        """One that foresees says at once that these recipients are none it could never reach."""
        stage = self.makeStage()
        if IForeseeingDelivery.providedBy(stage):
            self.assertTrue(verifyObject(IForeseeingDelivery, stage))
            for addressee in self.makeAddressees():
                self.assertIsNone(stage.refusal(self.makeEnvelope(), addressee.recipient))

    def test_outcomeForEach(self) -> None:
        """Every recipient gets an outcome, and all that is in it is what it should be."""
        addressees, outcomes = self.delivered(
            self.makeStage(), self.makeMessage(), self.makeEnvelope()
        )
        self.assertEqual(set(outcomes), set(addressees))
        for outcome in outcomes.values():
            self.assertIsInstance(outcome, Delivered | Failed | Retry)
            self.assertIsInstance(outcome.host, str)
            if isinstance(outcome, Delivered):
                self.assertIsInstance(outcome.reply, Reply | None)
                self.assertIn(outcome.action, ("delivered", "relayed", "passed"))
            else:
                self.assertRefuses(outcome.reply)
            if isinstance(outcome, Retry):
                self.assertIsInstance(outcome.after, int | float | None)

    def test_repeated(self) -> None:
        """A delivery that is repeated after a crash has an outcome, too."""
        stage, message, envelope = self.makeStage(), self.makeMessage(), self.makeEnvelope()
        for _ in range(2):
            addressees, outcomes = self.delivered(stage, message, envelope)
            self.assertEqual(set(outcomes), set(addressees))

    def test_letsGo(self) -> None:
        """When it takes too long, and is not waited for any longer, it ends."""
        d: Deferred[Mapping[Addressee, Outcome]] = asDeferred(
            self.makeStage().deliver,
            self.makeMessage(),
            self.makeEnvelope(),
            self.makeAddressees(),
        )
        self.assertLetsGo(d)


class ReportingDeliveryContract(DeliveryStageContract):
    """
    What every L{IReportingDelivery<deferrals.interfaces.IReportingDelivery>} does
    besides.
    """

    def makeStage(self) -> IReportingDelivery:
        """
        @return: the stage to be tested.
        """
        raise NotImplementedError

    def makeHalting(self) -> IReportingDelivery:
        """
        @return: a stage that never ends with the last of L{makeAddressees}, and
            delivers to the others.
        """
        raise NotImplementedError

    def settle(self) -> None:
        """
        Let a delivery go as far as it can.  A stage that waits for a clock, or for
        another service, overrides this, and L{resultOf}.
        """

    def reporting(
        self, stage: IReportingDelivery, addressees: Sequence[Addressee]
    ) -> tuple[dict[Addressee, Outcome], Deferred[Mapping[Addressee, Outcome]]]:
        """
        Begin to deliver.

        @return: what is reported, and a Deferred of the answer.
        """
        reported: dict[Addressee, Outcome] = {}

        def report(addressee: Addressee, outcome: Outcome) -> None:
            reported.setdefault(addressee, outcome)

        message, envelope = self.makeMessage(), self.makeEnvelope()
        d: Deferred[Mapping[Addressee, Outcome]] = asDeferred(
            stage.deliverReporting, message, envelope, addressees, report
        )
        return reported, d

    def test_reports(self) -> None:
        """It provides the interface; what it reports is what it answers."""
        stage = self.makeStage()
        self.assertTrue(verifyObject(IReportingDelivery, stage))
        addressees = self.makeAddressees()
        reported, d = self.reporting(stage, addressees)
        outcomes = self.resultOf(d)
        self.assertEqual({**outcomes, **reported}, {**reported, **outcomes})
        self.assertEqual({*outcomes, *reported}, set(addressees))

    def test_keepsWhatIsKnown(self) -> None:
        """
        While one recipient's delivery does not end the others are reported, at the
        latest when it is cancelled.
        """
        *others, last = self.makeAddressees()
        reported, d = self.reporting(self.makeHalting(), [*others, last])
        self.settle()
        self.assertLetsGo(d)
        for one in others:
            self.assertIsInstance(reported.get(one), Delivered | Failed, str(one))
        self.assertIsInstance(reported.get(last), Retry | None)


class TableContract(_StageContract):
    """
    What every L{ITable<deferrals.interfaces.ITable>} that a plugin builds does.
    """

    def makeTable(self, rows: dict[str, dict[str, JSON]]) -> ITable:
        """
        @param rows: what it has: by C{user@domain} or C{*@domain}, each with a column
            C{value}.
        @return: the table to be tested.
        """
        raise NotImplementedError

    def breakTable(self, table: ITable) -> None:
        """
        Let its source fail from now on.
        """
        raise NotImplementedError

    def found(self, table: ITable, address: str) -> JSON:
        """
        @return: what the column C{value} says for an address.
        """
        row = self.resultOf(table.lookUp(tableKeys(address)))
        return None if row is None else row["value"]

    def test_providesInterface(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(ITable, self.makeTable({})))

    def test_hashable(self) -> None:
        """It can be hashed, and is equal to itself alone."""
        self.assertHashable(self.makeTable({}))

    def test_order(self) -> None:
        """The address comes first, then its user, in lower case."""
        rows: dict[str, dict[str, JSON]] = {
            "anna@example.net": {"value": "user"},
            "anna+lists@example.net": {"value": "address"},
        }
        table = self.makeTable(rows)
        self.assertEqual(self.found(table, "anna+lists@example.net"), "address")
        self.assertEqual(self.found(table, "anna+other@example.net"), "user")
        self.assertEqual(self.found(table, "Anna@EXAMPLE.net"), "user")
        self.assertIsNone(self.found(table, "annalists@example.net"))

    def test_none(self) -> None:
        """Where there is no row, there is none."""
        table = self.makeTable({"a@example.net": {"value": "1"}})
        self.assertIsNone(self.found(table, "b@example.net"))
        self.assertIsNone(self.found(table, '"x \\" y"@example.net'))

    def test_fails(self) -> None:
        """A source that cannot be asked is a failure, and no answer."""
        table = self.makeTable({"a@example.net": {"value": "1"}})
        self.breakTable(table)
        d = table.lookUp(tableKeys("a@example.net"))
        answered = self.resultOf(d.addCallbacks(lambda row: True, lambda failure: False))
        self.assertFalse(answered)

    def test_letsGo(self) -> None:
        """When it is not waited for any longer, it ends."""
        table = self.makeTable({"a@example.net": {"value": "1"}})
        self.assertLetsGo(table.lookUp(tableKeys("a@example.net")))


class WideTableContract(TableContract):
    """
    What a table does besides whose source may know C{*@domain}.
    """

    def test_wide(self) -> None:
        """What is said of a domain counts for addresses without a row."""
        rows: dict[str, dict[str, JSON]] = {
            "anna@example.net": {"value": "user"},
            "*@example.net": {"value": "wide"},
        }
        table = self.makeTable(rows)
        self.assertEqual(self.found(table, "anna@example.net"), "user")
        self.assertEqual(self.found(table, "anna+x@example.net"), "user")
        self.assertEqual(self.found(table, "bob@example.net"), "wide")
        self.assertIsNone(self.found(table, "bob@other.example"))
