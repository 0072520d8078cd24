"""
Whose refusals are lifted, and how often.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import IMessage
from deferrals.model.address import Mailbox
from deferrals.model.admission import Admission, Proofs
from deferrals.model.envelope import Client, Envelope, Form, Recipient
from deferrals.model.reply import R250_CONTENT, R451_LOCAL_ERROR, Reply
from deferrals.model.status import Status
from deferrals.model.verdict import Accept, Defer, Refuse, Route
from deferrals.server.admissions import Admissions, ownersOf
from deferrals.server.notes import Notes
from deferrals.testing import makeEnvelope, makeMessage, makeRecipient
from tests.harness import FakeEnvelope

ANNA, BOB = "anna@example.net", "bob@example.net"
FRIEND = Client("192.0.2.7", 1, "mx.example.org", "ESMTP")
STRANGER = Client("203.0.113.9", 1, "mx.example.org", "ESMTP")
SPAM = Refuse(Reply(550, "5.7.1", "spam"), stage="rspamd", why="rspamd: score 16")
VIRUS = Refuse(Reply(550, "5.7.1", "virus"), stage="clamav")
NETWORK = "network 192.0.2.0/24"


class FakeProver:
    """
    Says what it was told.
    """

    def __init__(self) -> None:
        self.found: Any = Proofs()
        self.asked = 0

    async def proofs(self, envelope: Envelope, message: IMessage | None = None) -> Proofs:
        self.asked += 1
        found = self.found
        if isinstance(found, Exception):
            raise found
        proofs: Proofs = found
        return proofs


class AdmissionsCase(SynchronousTestCase):
    """
    Tests with admissions in memory.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.prover = FakeProver()
        self.notes = Notes(self.clock)
        self.status = Status()
        prover: Any = self.prover
        self.admissions = Admissions(self.notes, self.clock, prover, self.status)
        self.admissions.lifted = {"strict": frozenset({"rspamd", "dnsbl"})}

    def add(self, identity: str, once: bool = False, seconds: float = 60) -> None:
        one = Admission(identity, "friend@example.org", once, 1000.0 + seconds, 1000.0)
        self.successResultOf(self.admissions.add(ANNA, one))

    def envelope(self, client: Client = FRIEND, sender: str = "friend@example.org") -> Envelope:
        return makeEnvelope(sender, client=client)

    def placed(self, envelope: Envelope, address: str = ANNA, mark: str = "") -> Recipient:
        """
        A recipient as it is after RCPT TO.
        """
        recipient = Recipient(Mailbox.parse(address))
        said: Any = self.admissions.placed(
            Defer(Route("strict", "box", subaddress=mark)), envelope, recipient
        )
        return recipient.routed(said.route)

    def lifts(self, envelope: Envelope, recipient: Recipient, refusal: Refuse = SPAM) -> bool:
        d = self.admissions.lifts(makeMessage(), envelope, recipient, refusal)
        return d is not None and self.successResultOf(d)

    def tried(self, envelope: Envelope, address: str = ANNA, refusal: Refuse = SPAM) -> bool:
        return self.lifts(envelope, self.placed(envelope, address), refusal)

    def ended(self, envelope: Envelope, reply: Reply, final: Reply | None, to: str = ANNA) -> None:
        self.admissions.ended(envelope, [(makeRecipient(to), reply)], final)

    def left(self, owner: str = ANNA) -> list[Admission]:
        return self.successResultOf(Deferred.fromCoroutine(self.admissions.of(owner)))


class LiftTests(AdmissionsCase):
    """
    L{Admissions.lifts} and L{Admissions.pardons}.
    """

    def test_none(self) -> None:
        """Without admissions nothing is asked, and nothing is different."""
        recipient = self.placed(self.envelope())
        self.assertEqual(recipient.route, Route("strict", "box"))
        self.assertFalse(self.lifts(self.envelope(), recipient))
        self.assertEqual(self.prover.asked, 0)

    def test_lifted(self) -> None:
        """A sender that is let in is; a stranger that uses its name is not."""
        self.add(NETWORK)
        self.assertTrue(self.tried(self.envelope()))
        self.assertFalse(self.tried(self.envelope(STRANGER)))
        self.assertFalse(self.tried(self.envelope(sender="other@example.org")))
        self.assertFalse(self.tried(self.envelope(), BOB))

    def test_nothingToLift(self) -> None:
        """Of a policy that lifts nothing no notes are asked for."""
        self.add(NETWORK)
        asked: list[object] = []
        find = self.notes.find
        self.patch(self.notes, "find", lambda *args: asked.append(args) or find(*args))
        self.admissions.lifted = {"strict": frozenset()}
        self.assertEqual(self.placed(self.envelope()).route, Route("strict", "box"))
        self.assertEqual(asked, [])

    def test_ownCohort(self) -> None:
        """Only for a transaction that may be of the sender, a recipient is judged for itself."""
        self.add(NETWORK)
        isOwn = [
            bool(route is not None and route.admitted)
            for route in (
                self.placed(self.envelope()).route,
                self.placed(self.envelope(STRANGER)).route,
                self.placed(self.envelope(sender="other@example.org")).route,
                self.placed(self.envelope(), BOB).route,
            )
        ]
        self.assertEqual(isOwn, [True, False, False, False])

    def test_proved(self) -> None:
        """What a signature proves is asked for only where a stage refuses."""
        self.add("dkim example.org")
        envelope = self.envelope(STRANGER)
        recipient = self.placed(envelope)
        self.assertEqual(self.prover.asked, 0)
        self.assertFalse(self.lifts(envelope, recipient))
        self.prover.found = Proofs({"example.org"})
        self.assertTrue(self.lifts(envelope, recipient))

    def test_stages(self) -> None:
        """A virus is none of the stages, unless the policy says so; nor is any other policy."""
        self.add(NETWORK)
        self.assertFalse(self.tried(self.envelope(), refusal=VIRUS))
        self.assertFalse(self.tried(self.envelope(), refusal=Refuse(SPAM.reply)))
        self.admissions.lifted = {"strict": frozenset({"clamav"})}
        self.assertTrue(self.tried(self.envelope(), refusal=VIRUS))
        self.admissions.lifted = {"other": frozenset({"rspamd"})}
        self.assertFalse(self.tried(self.envelope()))

    def test_subaddress(self) -> None:
        """What a user has said counts for its subaddresses."""
        self.add(NETWORK)
        envelope = self.envelope()
        self.assertTrue(self.lifts(envelope, self.placed(envelope, "anna+x@example.net", "+")))
        self.assertFalse(self.lifts(envelope, self.placed(envelope, "anna+x@example.net")))
        self.assertEqual(len(list(ownersOf(makeRecipient(ANNA, subaddress="+")))), 1)

    def test_ends(self) -> None:
        """It ends by itself, and when it is taken back."""
        self.add(NETWORK, seconds=60)
        self.clock.advance(60.0)
        self.assertFalse(self.tried(self.envelope()))
        self.add(NETWORK, seconds=600)
        self.assertTrue(self.tried(self.envelope()))
        removed = Deferred.fromCoroutine(self.admissions.remove(ANNA))
        self.assertEqual(self.successResultOf(removed), 1)
        self.assertFalse(self.tried(self.envelope()))

    def test_broken(self) -> None:
        """Where it cannot be known what is proved, the refusal stands, and the log has why."""
        self.add("dkim example.org")
        self.prover.found = ValueError("no DNS")
        self.assertFalse(self.tried(self.envelope()))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_before(self) -> None:
        """Before the data a network counts, and SPF; a signature cannot be known."""
        recipient, dnsbl = makeRecipient(ANNA), Refuse(SPAM.reply, stage="dnsbl")

        def pardons(client: Client = FRIEND) -> Any:
            said: Any = self.admissions.pardons(self.envelope(client), recipient, dnsbl)
            return said if said is False else self.successResultOf(Deferred.fromCoroutine(said))

        self.add("dkim example.org")
        self.assertFalse(pardons())
        self.add("spf example.org")
        self.assertFalse(pardons())
        self.prover.found = Proofs(spf="example.org")
        self.assertTrue(pardons(STRANGER))
        self.prover.found = Proofs()
        self.add(NETWORK)
        self.assertTrue(pardons())
        self.assertFalse(pardons(STRANGER))
        self.assertIs(self.admissions.pardons(self.envelope(), recipient, VIRUS), False)

    def test_placing(self) -> None:
        """The envelope's stages are asked as before; what they accept is as it was."""
        stage = FakeEnvelope()
        placing: Any = self.admissions.placing(stage)
        self.add(NETWORK)
        stage.verdicts = {ANNA: "x", BOB: "accept"}
        said = [placing.judgeRecipient(self.envelope(), makeRecipient(one)) for one in (ANNA, BOB)]
        self.assertEqual(said[1], Accept(route=Route("open", "box")))
        self.assertTrue(said[0].route.admitted)
        stage.verdicts = {ANNA: "pending"}
        d = placing.judgeRecipient(self.envelope(), makeRecipient(ANNA))
        stage.decide(ANNA, "x")
        self.assertTrue(self.successResultOf(d).route.admitted)

    def test_elsewhere(self) -> None:
        """Notes that have to be asked for are waited for."""
        self.add(NETWORK)
        find = self.notes.find
        self.patch(self.notes, "find", lambda *args: succeed(find(*args)))
        envelope = self.envelope()
        d: Any = self.admissions.placed(
            Defer(Route("strict", "box")), envelope, Recipient(Mailbox.parse(ANNA))
        )
        recipient = Recipient(Mailbox.parse(ANNA), route=self.successResultOf(d).route)
        self.assertTrue(self.lifts(envelope, recipient))

    def test_away(self) -> None:
        """Where others' notes cannot be had, mail goes on as if no sender was let in."""
        self.add(NETWORK)
        self.patch(self.notes, "find", lambda *_: fail(ValueError("away")))
        recipient, defer = Recipient(Mailbox.parse(ANNA)), Defer(Route("strict", "box"))
        d: Any = self.admissions.placed(defer, self.envelope(), recipient)
        self.assertEqual(self.successResultOf(d), defer)

    def test_owners(self) -> None:
        """Those who have let in someone are known, for as long as they have."""
        self.add(NETWORK, seconds=600)
        self.add("spf example.org", seconds=60)

        def owners() -> list[str]:
            return self.successResultOf(Deferred.fromCoroutine(self.admissions.owners()))

        self.clock.advance(100.0)
        self.assertEqual(owners(), [ANNA])
        self.clock.advance(500.0)
        self.assertEqual(owners(), [])

    def test_starts(self) -> None:
        """A recipient that is named while a server starts waits for what was noted."""
        self.admissions.reading()
        envelope, defer = self.envelope(), Defer(Route("strict", "box"))
        first, second = (
            self.admissions.placed(defer, envelope, Recipient(Mailbox.parse(ANNA)))
            for _ in range(2)
        )
        assert isinstance(first, Deferred) and isinstance(second, Deferred)
        second.addErrback(lambda _: None)
        second.cancel()
        self.assertNoResult(first)
        self.add(NETWORK)
        self.admissions.read()
        said: Any = self.successResultOf(first)
        self.assertTrue(said.route.admitted)
        self.assertTrue(self.tried(envelope))

    def test_counted(self) -> None:
        """What is let in is counted by how it was said."""
        self.add(NETWORK)
        self.assertEqual(self.status.counted("admissions", "command"), 1)


class OnceTests(AdmissionsCase):
    """
    Admissions for one message.
    """

    def test_used(self) -> None:
        """One that is accepted uses it up."""
        self.add(NETWORK, once=True)
        envelope = self.envelope()
        self.assertTrue(self.tried(envelope))
        self.ended(envelope, R250_CONTENT, R250_CONTENT)
        self.assertEqual(self.left(), [])
        self.assertFalse(self.tried(self.envelope()))

    def test_notUsed(self) -> None:
        """One that is refused, cut off or not taken does not."""
        self.add(NETWORK, once=True)
        for reply, final in (
            (SPAM.reply, SPAM.reply),
            (SPAM.reply, R250_CONTENT),
            (R250_CONTENT, R451_LOCAL_ERROR),
            (R250_CONTENT, None),
        ):
            envelope = self.envelope()
            self.assertTrue(self.tried(envelope), (reply, final))
            self.ended(envelope, reply, final)
            self.assertEqual([one.taker for one in self.left()], [""])

    def test_each(self) -> None:
        """LMTP has no final reply: each recipient's own counts."""
        self.add(NETWORK, once=True)
        envelope = makeEnvelope("friend@example.org", client=FRIEND, form=Form.LMTP)
        self.assertTrue(self.tried(envelope))
        self.ended(envelope, R250_CONTENT, R451_LOCAL_ERROR)
        self.assertEqual(self.left(), [])

    def test_two(self) -> None:
        """Of two that come at once, one is let in; the other, where that one is not."""
        self.add(NETWORK, once=True)
        first, second = self.envelope(), self.envelope()
        one, two = self.placed(first), self.placed(second)
        self.assertTrue(self.lifts(first, one))
        self.assertFalse(self.lifts(second, two))
        self.assertTrue(self.lifts(first, one))  # the next stage of the same message
        self.ended(first, SPAM.reply, SPAM.reply)
        self.assertTrue(self.lifts(second, two))

    def test_race(self) -> None:
        """Also where both have seen it before one has it."""
        self.add(NETWORK, once=True)
        proofs: list[Deferred[Proofs]] = []

        async def wait(*_: object) -> Proofs:
            proofs.append(Deferred())
            return await proofs[-1]

        self.patch(self.prover, "proofs", wait)
        envelopes = [self.envelope(), self.envelope()]
        waiting = [
            self.admissions.lifts(makeMessage(), one, self.placed(one), SPAM) for one in envelopes
        ]
        for one in proofs:
            one.callback(Proofs())
        results = sorted(self.successResultOf(one) for one in waiting if one is not None)
        self.assertEqual(results, [False, True])

    def test_cancelled(self) -> None:
        """For a client that has gone nothing is asked on, and the log has no error."""

        async def wait(*_: object) -> Proofs:
            return await Deferred()

        self.add(NETWORK, once=True)
        self.patch(self.prover, "proofs", wait)
        envelope = self.envelope()
        d = self.admissions.lifts(makeMessage(), envelope, self.placed(envelope), SPAM)
        assert d is not None
        d.cancel()
        self.assertFalse(self.successResultOf(d))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_alias(self) -> None:
        """A member has it where its alias took the message."""
        self.add(NETWORK, once=True)
        envelope = self.envelope()
        alias = Mailbox.parse("all@example.net")
        member = Recipient(Mailbox.parse(ANNA), route=self.placed(envelope).route, aliases=(alias,))
        self.assertTrue(self.lifts(envelope, member))
        self.ended(envelope, R250_CONTENT, R250_CONTENT, "all@example.net")
        self.assertEqual(self.left(), [])

    def test_notNoted(self) -> None:
        """Where that cannot be noted, the log says so, and the refusal has its answer."""
        self.add(NETWORK, once=True)
        envelope = self.envelope()
        self.assertTrue(self.tried(envelope))
        self.patch(self.notes, "forget", lambda *_: fail(ValueError("no line")))
        self.ended(envelope, R250_CONTENT, R250_CONTENT)
        self.assertEqual(len(self.left()), 1)

    @given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["try", "yes", "no", "add"]))))
    @settings(max_examples=60, deadline=None)
    def test_model(self, events: list[tuple[int, str]]) -> None:
        """
        Whatever is tried, accepted and refused in whichever order: never are more messages
        let in than were said, and a refused one takes nothing.
        """
        self.setUp()
        said = taken = 0
        holder: int | None = None
        envelopes = {number: self.envelope() for number in range(4)}
        for number, event in events:
            if event == "add" and holder is None and not self.left():
                self.add(NETWORK, once=True)
                said += 1
            elif event == "try":
                isFree = said > taken and holder in (None, number)
                self.assertEqual(self.tried(envelopes[number]), isFree)
                holder = number if isFree else holder
            elif event in ("yes", "no"):
                reply = R250_CONTENT if event == "yes" else SPAM.reply
                self.ended(envelopes[number], reply, reply)
                if holder == number:
                    holder, taken = None, taken + (event == "yes")
                envelopes[number] = self.envelope()
        self.assertLessEqual(taken, said)
