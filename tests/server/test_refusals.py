"""
What is kept of refusals, and that mail does not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.interfaces import IMessage
from deferrals.model.address import Mailbox
from deferrals.model.admission import Proofs
from deferrals.model.envelope import Client, Envelope, Recipient
from deferrals.model.refusal import Refusal, RefusalSettings
from deferrals.model.reply import R550_UNKNOWN_RECIPIENT, Reply
from deferrals.model.settings import Seconds
from deferrals.model.status import Status
from deferrals.model.verdict import Accept, EnvelopeAnswer, Refuse, Route
from deferrals.server import refusals as module
from deferrals.server.admissions import Admissions
from deferrals.server.notes import Notes
from deferrals.server.refusals import Refusals, storeAt
from deferrals.spool.sqlite.offline import immediately
from deferrals.testing import makeEnvelope, makeMessage, makeRecipient
from tests.memoryrefusals import MemoryRefusals
from tests.server.test_admissions import ANNA, BOB, SPAM, FakeProver

FRIEND = Client("192.0.2.7", 1, "mx.example.org", "ESMTP", hostname="mx.example.org")
LISTED = Refuse(Reply(550, "5.7.1", "listed"), stage="dnsbl", why="dnsbl: zen")
MESSAGE = makeMessage(
    b"From: =?utf-8?q?Fr=C3=A4nd?= <f@x.example>\r\nSubject: Hi\r\n\r\nsecret\r\n"
)


class FakePeople:
    """
    Those that it was told of.
    """

    def __init__(self) -> None:
        self.routes = {one: Route("strict", "box", subaddress="+") for one in (ANNA, BOB)}
        self.says: EnvelopeAnswer | None = Accept()
        self.asked: list[bool] = []

    def routeOf(self, address: Mailbox) -> Route | None:
        return self.routes.get(address.key)

    async def askSome(
        self, envelope: Envelope, recipient: Recipient, isAsked: Callable[[str], bool]
    ) -> EnvelopeAnswer | None:
        self.asked.append(isAsked("dnsbl"))
        return self.says


class RefusalsCase(SynchronousTestCase):
    """
    Tests with a store in memory.
    """

    keep = 14 * 86400.0

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(2e6)
        self.store = MemoryRefusals()
        self.people = FakePeople()
        self.prover = FakeProver()
        prover: Any = self.prover
        self.admissions = Admissions(Notes(self.clock), self.clock, prover, Status())
        self.admissions.lifted = {"strict": frozenset({"rspamd", "dnsbl"})}
        self.refusals = self.make(RefusalSettings(keep=Seconds(self.keep)))

    def make(
        self, settings: RefusalSettings, isFirst: bool = True, isShared: bool = False
    ) -> Refusals:
        clock: Any = self.clock
        prover: Any = self.prover
        kept = self.store, clock, self.people, prover, self.admissions
        return Refusals(*kept, settings, isFirst, isShared)

    def refuse(
        self,
        address: str = ANNA,
        kind: str = "content",
        verdict: Refuse = SPAM,
        message: IMessage | None = MESSAGE,
    ) -> Envelope:
        envelope = makeEnvelope("friend@example.org", client=FRIEND)
        recipient = (
            makeRecipient(address, subaddress="+")
            if kind == "content"
            else Recipient(Mailbox.parse(address))
        )
        self.refusals.refused(envelope, recipient, kind, verdict, message)
        return envelope

    def found(self, owner: str = ANNA) -> list[Refusal]:
        self.clock.advance(module.WRITE_SECONDS)
        return self.successResultOf(self.store.find(owner, 0.0, 100))


class AwayStoreTests(RefusalsCase):
    """
    While the database is away in which refusals are.
    """

    def test_waits(self) -> None:
        """They wait, so many at most, and are written when it is back; it is said once."""
        add, answers = self.store.add, [StoreAway("away"), OutcomeUnknown("lost")]
        self.patch(self.store, "add", lambda some: fail(answers[0]) if answers else add(some))
        self.patch(module, "MOST_WAITING", 5)
        with capturedLogs() as events:
            for _ in range(3):
                self.refuse()
            for _ in range(4):
                self.clock.advance(module.WRITE_SECONDS)
            answers.pop(0)
            for _ in range(4):
                self.refuse()
            for _ in range(4):
                self.clock.advance(module.WRITE_SECONDS)
            (said,) = events
            self.assertIn("wait", formatEvent(said))
            answers.clear()
            self.assertEqual(len(self.found()), 5)
            self.assertEqual(len(events), 2)
            self.assertIn("2 refusals were too many", formatEvent(events[1]))

    def test_bounded(self) -> None:
        """So many wait, too, with those that came while the others could not be written."""
        add, hung = self.store.add, Deferred[None]()
        self.patch(module, "MOST_WAITING", 5)
        self.patch(self.store, "add", lambda some: hung)
        for _ in range(2):
            for _ in range(4):
                self.refuse()
            self.clock.advance(module.WRITE_SECONDS)
        self.patch(self.store, "add", add)
        hung.errback(StoreAway("away"))
        self.assertEqual(len(self.found()), 5)

    def test_stops(self) -> None:
        """What could not be written until the end is said."""
        self.patch(self.store, "add", lambda some: fail(StoreAway("away")))
        self.refuse()
        with capturedLogs() as events:
            self.successResultOf(Deferred.fromCoroutine(self.refusals.stop()))
        self.assertIn("1 refusals were too many", formatEvent(events[-1]))

    def test_others(self) -> None:
        """Who keeps none removes what is over and no more, until it has kept some."""
        trimmed: list[tuple[float, int]] = []
        self.patch(self.store, "trim", lambda *args: trimmed.append(args) or succeed(0))
        self.refusals = self.make(RefusalSettings(), isShared=True)
        self.refusals.start()
        self.clock.advance(1)
        self.assertEqual(trimmed[-1], (0.0, 1_000_000))
        self.refusals.settings = RefusalSettings(keep=Seconds(60.0))
        self.clock.pump([module.TRIM_SECONDS - 1, 1])
        self.assertEqual(trimmed[-1], (self.clock.seconds() - 61.0, 1_000_000))
        self.refusals.settings = RefusalSettings()
        self.clock.pump([module.TRIM_SECONDS - 1, 1])
        self.assertEqual(trimmed[-1], (self.clock.seconds() - 1, 0))
        self.successResultOf(Deferred.fromCoroutine(self.refusals.stop()))


class KeptTests(RefusalsCase):
    """
    L{Refusals.refused}.
    """

    def test_kept(self) -> None:
        """A refusal by the content, with all that may be known of it, and no more."""
        self.prover.found = Proofs({"example.org"})
        envelope = self.refuse()
        (one,) = self.found()
        self.assertEqual((one.id, one.sender, one.client), (envelope.id, *_SENDER))
        self.assertEqual((one.policy, one.kind, one.rule), ("strict", "content", SPAM.why))
        self.assertEqual(one.reply, f"550 5.7.1 spam (id {envelope.id})")
        self.assertEqual(one.admits, ("dkim example.org", "network 192.0.2.0/24"))
        self.assertEqual((one.subject, one.headerFrom), (None, None))
        self.assertNotIn("secret", str(one.toJSON()))

    def test_fields(self) -> None:
        """Subject and From, where they are asked for."""
        settings = RefusalSettings(keep=Seconds(60.0), subject=True, header_from=True)
        self.refusals.settings = settings
        self.refuse()
        (one,) = self.found()
        self.assertEqual((one.subject, one.headerFrom), ("Hi", "Fränd <f@x.example>"))

    def test_off(self) -> None:
        """Nothing by default, and nothing that is refused for now."""
        self.refuse(verdict=Refuse(Reply(451, "4.7.1", "later"), stage="rspamd"))
        self.refusals.settings = RefusalSettings()
        self.refuse()
        self.assertEqual(self.found(), [])
        self.assertEqual(self.prover.asked, 0)

    def test_envelope(self) -> None:
        """Because of its sender, and only of a recipient that there is."""
        self.refuse(kind="envelope", verdict=LISTED, message=None)
        self.assertEqual(self.people.asked, [False])  # the list is not asked once more
        (one,) = self.found()
        self.assertEqual((one.kind, one.policy), ("envelope", "strict"))
        self.people.says = Refuse(R550_UNKNOWN_RECIPIENT)
        self.refuse(BOB, "envelope", LISTED, None)
        self.assertEqual(self.found(BOB), [])

    def test_notThere(self) -> None:
        """What no rule lets in, and what is refused because of the recipient, is not kept."""
        self.refuse("x@example.net", "envelope", LISTED, None)
        self.refuse(ANNA, "envelope", Refuse(R550_UNKNOWN_RECIPIENT, stage="users"), None)
        self.refuse(ANNA, "envelope", Refuse(R550_UNKNOWN_RECIPIENT), None)
        self.people.says = None
        self.refuse(ANNA, "envelope", LISTED, None)
        self.assertEqual(self.successResultOf(self.store.owners(0.0)), [])

    def test_subaddress(self) -> None:
        """What came for a subaddress is its user's."""
        self.refuse("anna+lists@example.net")
        self.assertEqual([one.recipient for one in self.found()], ["anna+lists@example.net"])

    def test_together(self) -> None:
        """Many are written at once."""
        written: list[int] = []
        self.patch(self.store, "add", lambda some: written.append(len(some)) or succeed(None))
        for _ in range(50):
            self.refuse()
        self.assertEqual(written, [])
        self.clock.advance(module.WRITE_SECONDS)
        self.assertEqual(written, [50])
        self.assertEqual(self.refusals.kept, 50)

    def test_waits(self) -> None:
        """One whose proofs take long holds up no other, and not for ever."""
        slow: Deferred[Proofs] = Deferred()

        async def wait(*_: object) -> Proofs:
            return await slow

        self.patch(self.prover, "proofs", wait)
        self.refuse()
        self.assertEqual(self.found(), [])
        self.clock.advance(module.PROOF_SECONDS)
        (one,) = self.found()
        self.assertEqual(one.admits, ("network 192.0.2.0/24",))

    def test_tooMany(self) -> None:
        """What is too much at once is not kept, and the log says how much it was."""

        async def wait(*_: object) -> Proofs:
            return await Deferred()

        self.patch(self.prover, "proofs", wait)
        self.patch(module, "MOST_WAITING", 5)
        for _ in range(module.CONCURRENCY + 8):
            self.refuse()
        self.assertEqual(len(self.refusals._waiting), 5)
        self.assertEqual(self.refusals._dropped, 3)
        self.assertEqual(self.refusals._octets, MESSAGE.size * (module.CONCURRENCY + 5))

    def test_octets(self) -> None:
        """Messages that wait take no more memory than they may."""
        self.patch(module, "MOST_OCTETS", MESSAGE.size)
        self.refusals.settings = RefusalSettings(keep=Seconds(60.0), subject=True)
        blocked: list[Deferred[Proofs]] = []

        async def wait(*_: object) -> Proofs:
            blocked.append(Deferred())
            return await blocked[-1]

        self.patch(self.prover, "proofs", wait)
        self.refuse()
        self.refuse(BOB)
        for one in blocked:
            one.callback(Proofs())
        subjects = [one.subject for one in (*self.found(), *self.found(BOB))]
        self.assertEqual(subjects, ["Hi", None])
        self.assertEqual(self.refusals._octets, 0)

    def test_disk(self) -> None:
        """Without a disk nothing is kept; the mail goes on."""
        self.patch(self.store, "add", lambda some: fail(SpoolError("full")))
        self.refuse()
        self.assertEqual(self.found(), [])

    def test_hangs(self) -> None:
        """Where the store hangs, one writing waits for it, and no more than so many refusals."""
        writing: list[Deferred[None]] = []
        written: list[int] = []

        def add(some: Sequence[tuple[str, Refusal]]) -> Deferred[None]:
            written.append(len(some))
            writing.append(Deferred())
            return writing[-1]

        self.patch(self.store, "add", add)
        self.patch(module, "MOST_WAITING", 5)
        for _ in range(9):
            self.refuse()
            self.clock.advance(module.WRITE_SECONDS)
        self.assertEqual(written, [1])
        self.assertEqual(len(self.refusals._known), 5)
        self.assertEqual(self.refusals._dropped, 3)
        writing[0].errback(SpoolError("locked"))
        self.clock.advance(module.WRITE_SECONDS)
        self.assertEqual(written, [1, 5])
        writing[1].callback(None)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_header(self) -> None:
        """A large message that is on the disk takes the memory of its header section."""
        message: Any = type("OnDisk", (), {"size": 10**9, "inMemory": False, "header": b"x" * 99})
        told = module._Happened(0.0, makeEnvelope(), makeRecipient(ANNA), "content", SPAM, message)
        self.assertEqual(told.octets, 99)

    def test_broken(self) -> None:
        """What a check raises is in the log, and nowhere else."""

        async def broken(*_: object) -> None:
            raise ValueError("a table")

        self.patch(self.people, "askSome", broken)
        self.refuse(kind="envelope", verdict=LISTED, message=None)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.refuse()
        self.assertEqual(len(self.found()), 1)


_SENDER = ("friend@example.org", "192.0.2.7")


class LifeTests(RefusalsCase):
    """
    From the start to the end.
    """

    def test_old(self) -> None:
        """What is older than it may be is removed."""
        self.refusals.start()
        self.refuse()
        self.assertEqual(len(self.found()), 1)
        self.clock.pump([module.TRIM_SECONDS] * 3)
        self.assertEqual(self.refusals.kept, 1)
        self.clock.advance(self.keep)
        self.clock.pump([module.TRIM_SECONDS, 1.0, 1.0])
        self.assertEqual(self.found(), [])
        self.assertEqual(self.refusals.kept, 0)
        self.successResultOf(Deferred.fromCoroutine(self.refusals.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_turnedOff(self) -> None:
        """Where nothing is to be kept any longer, nothing is left."""
        self.refusals.start()
        self.refuse()
        self.assertEqual(len(self.found()), 1)
        self.refusals.settings = RefusalSettings()
        self.clock.pump([module.TRIM_SECONDS, 1.0, 1.0])
        self.assertEqual(self.found(), [])

    def test_others(self) -> None:
        """Only the first of several processes removes anything."""
        other = self.make(RefusalSettings(), isFirst=False)
        other.start()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop(self) -> None:
        """What is known is written; what is not waits for no one."""

        async def wait(*_: object) -> Proofs:
            return await Deferred()

        self.refuse()
        self.patch(self.prover, "proofs", wait)
        self.refuse(BOB)
        self.successResultOf(Deferred.fromCoroutine(self.refusals.stop()))
        self.assertEqual(len(self.successResultOf(self.store.find(ANNA, 0.0, 9))), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_store(self) -> None:
        """That of a server is a file of its own."""
        path = self.mktemp()
        store = storeAt(path, immediately)
        self.assertEqual(self.successResultOf(store.owners(0.0)), [])
