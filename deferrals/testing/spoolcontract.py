"""
What every spool has to do, as tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from deferrals.interfaces import IMessage, ISpool, MailKind, Turn, Work
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import (
    DelayNotified,
    Disposition,
    NotifyThenRemove,
    Remove,
    Reschedule,
    Undeliverable,
)
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.verdict import HeaderEdit, Marks, Route
from deferrals.testing.values import CLIENT, LATER, makeAddressees, makeEnvelope

if TYPE_CHECKING:
    from twisted.trial.unittest import SynchronousTestCase as _TestCase
else:
    _TestCase = object  # a mixin: it is no test by itself

_T = TypeVar("_T")


class SpoolContract(_TestCase):
    """
    What every L{ISpool} does.
    """

    clock: Clock

    def makeSpool(self) -> ISpool:
        """
        Called once per test; sets C{self.clock}.

        @return: the spool to be tested, open.
        """
        raise NotImplementedError

    def reopen(self, spool: Any) -> ISpool:  # each takes its own kind
        """
        @return: the same spool, after its process has died.
        """
        raise NotImplementedError

    def resultOf(self, d: Deferred[_T]) -> _T:
        """
        Wait for a Deferred.
        """
        return self.successResultOf(d)

    def body(self, spool: ISpool, envelope: Envelope, *chunks: bytes) -> IMessage:
        """
        @return: a message of the spool.
        """
        writer = spool.newBody(envelope.transaction)
        for chunk in chunks:
            writer.write(chunk)
        return self.resultOf(writer.finish())

    def staged(self, spool: ISpool, *addresses: str) -> Work:
        """
        @return: staged work for these addresses.
        """
        envelope = makeEnvelope()
        message = self.body(spool, envelope, b"Subject: x\r\n", b"\r\nhello\r\n")
        return self.resultOf(spool.stage(envelope, message, makeAddressees(*addresses)))

    def test_providesInterface(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(ISpool, self.makeSpool()))

    def test_identity(self) -> None:
        """It has a number of its own, which can be a part of a file's name."""
        one, other = self.makeSpool(), self.makeSpool()
        for spool in (one, other):
            self.assertRegex(spool.identity, "^[0-9A-Za-z]{8,64}$")

    def test_message(self) -> None:
        """What was written is what the message has."""
        spool, envelope = self.makeSpool(), makeEnvelope()
        content = b"Subject: a\r\n folded\r\nX: \xff\r\n\r\nbody\r\n"
        message = self.body(spool, envelope, content[:9], content[9:])
        self.assertTrue(verifyObject(IMessage, message))
        self.assertEqual(message.size, len(content))
        self.assertEqual(message.digest, hashlib.sha256(content).digest())
        self.assertEqual(message.fields(), [("Subject", "a folded"), ("X", "\ufffd")])
        with message.open() as file:
            self.assertEqual(file.read(), content)

    def test_large(self) -> None:
        """However large a message is, and however slow the disk: it comes to an end."""
        spool, envelope = self.makeSpool(), makeEnvelope()
        writer = spool.newBody(envelope.transaction)
        digest = hashlib.sha256()
        for number in range(100):
            chunk = b"%063d\r\n" % number * 1000
            digest.update(chunk)
            writer.write(chunk)
            if writer.congested:
                self.resultOf(writer.drained())
        message = self.resultOf(writer.finish())
        self.assertEqual((message.size, message.digest), (writer.size, digest.digest()))
        writer.abort()

    def claimed(self, spool: ISpool, limit: int = 10, share: int = 10, **shares: int) -> list[Work]:
        """
        @return: what is due.
        """
        return self.resultOf(spool.claim(limit, shares, share))

    def owned(self, spool: ISpool, *addresses: str) -> Work:
        """
        @return: released work for these addresses, leased to us.
        """
        work = self.staged(spool, *addresses)
        spool.release(work, {})
        return work

    def waits(self, destination: str = "there", seconds: float = 60.0, **more: Any) -> Reschedule:
        """
        @return: another attempt after so many seconds.
        """
        values = {"expireSeconds": 1000.0, "warnSeconds": 0.0, "reply": LATER, "host": "mx.test"}
        return Reschedule(destination, seconds, **{**values, **more})

    def queued(self, spool: ISpool, address: str, *args: Any, **more: Any) -> Work:
        """
        @return: released work, whose recipient L{waits}.
        """
        work = self.owned(spool, address)
        self.resultOf(spool.record(work, {work.addressees[0]: self.waits(*args, **more)}))
        return work

    def test_heldAtOnce(self) -> None:
        """
        A recipient that is put back to be held is not due, however long one waits.
        """
        spool = self.makeSpool()
        work = self.staged(spool, "a@example.net", "b@example.net")
        first, second = work.addressees
        later = {one: self.waits("", 0.0, attempted=False) for one in (first, second)}
        later[first] = attrs.evolve(later[first], isHeld=True)
        spool.release(work, later)
        (claimed,) = self.claimed(spool)
        self.assertEqual(list(claimed.addressees), [second])
        self.resultOf(spool.record(claimed, {second: Remove()}))
        self.clock.advance(900)
        self.assertEqual(self.claimed(spool), [])

    def test_lateOutcome(self) -> None:
        """
        A lease that has run out while nothing could be written: the outcome
        counts, as long as no other claim has the recipient.
        """
        spool = self.makeSpool()
        self.queued(spool, "a@b.example", seconds=1.0)
        self.clock.advance(2)
        (work,) = self.claimed(spool)
        self.clock.advance(1000)
        # All of this destination's slots are taken, by what is under way.
        self.assertEqual(self.claimed(spool, there=0), [])
        self.resultOf(spool.record(work, {work.addressees[0]: Remove()}))
        self.assertEqual(self.claimed(spool), [])

    def test_stagedIsNotClaimed(self) -> None:
        """What is not released is not delivered (D-20)."""
        spool = self.makeSpool()
        self.staged(spool, "a@example.net")
        self.clock.advance(10000)
        self.assertEqual(self.claimed(spool), [])

    def test_abandoned(self) -> None:
        """An abandoned message is gone (D-15)."""
        spool = self.makeSpool()
        spool.abandon(self.staged(spool, "a@example.net"))
        self.assertEqual(self.resultOf(spool.waiting()), (0, 0))
        spool = self.reopen(spool)
        self.assertEqual(self.claimed(spool), [])

    def test_leased(self) -> None:
        """Released work belongs to the one who staged it, until its lease runs out."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@example.net")
        self.assertEqual(self.claimed(spool), [])
        self.clock.advance(200)
        spool.renew([work])
        self.clock.advance(200)
        self.assertEqual(self.claimed(spool), [])
        self.clock.advance(101)
        self.assertEqual(len(self.claimed(spool)), 1)
        self.assertEqual(self.claimed(spool), [])

    def test_claimed(self) -> None:
        """What is claimed is what was stored, complete."""
        spool = self.makeSpool()
        envelope = makeEnvelope("", smtputf8=True, ret="HDRS", envid="e1")
        message = self.body(spool, envelope, b"\r\nhello\r\n")
        edits = (HeaderEdit("insert", "X", "gr\xfcn\n\tb", 0), HeaderEdit("remove", "Y", index=2))
        marks = Marks((("X-Score", "5"),), ("X-Old",), "[spam] ", True, edits)
        recipient = Recipient(
            Mailbox.parse("b@example.net"), frozenset({"NEVER"}), "rfc822;b", Route("strict", "box")
        )
        addressees = [*makeAddressees("a@example.net"), Addressee(recipient, marks, 1)]
        work = self.resultOf(spool.stage(envelope, message, addressees))
        spool.release(work, dict.fromkeys(addressees, self.waits("there", 0.0, attempted=False)))
        (claimed,) = self.claimed(spool)
        self.assertEqual(claimed.envelope, envelope)
        self.assertEqual(list(claimed.addressees), addressees)
        with claimed.message.open() as file:
            self.assertEqual(file.read(), b"\r\nhello\r\n")
        self.assertEqual(self.claimed(spool), [])

    def test_recorded(self) -> None:
        """A delivered recipient leaves; one that waits is due at its time, its attempts counted."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@example.net", "b@example.net")
        one, two = work.addressees
        self.resultOf(spool.record(work, {one: Remove(), two: self.waits()}))
        self.assertEqual(self.resultOf(spool.waiting()), (1, 1))
        self.assertEqual(self.claimed(spool), [])
        self.clock.advance(61)
        (again,) = self.claimed(spool)
        (addressee,) = again.addressees
        self.assertEqual((str(addressee), addressee.attempts), ("b@example.net", 1))
        self.assertEqual((addressee.reply, addressee.host), (LATER, "mx.test"))
        self.assertEqual(again.ageSeconds, 61)
        self.resultOf(spool.record(again, {addressee: Remove()}))
        self.assertEqual(self.resultOf(spool.waiting()), (0, 0))

    def test_putBack(self) -> None:
        """A recipient that was put back without an attempt has not used one up."""
        spool = self.makeSpool()
        self.queued(spool, "a@example.net", seconds=0.0, attempted=False)
        (again,) = self.claimed(spool)
        self.assertEqual(again.addressees[0].attempts, 0)

    def test_shares(self) -> None:
        """No destination gets more than its share, and all have their turn."""
        spool = self.makeSpool()
        for number in range(6):
            self.queued(spool, f"{number}@dead.example", "dead", 1.0)
        for number in range(2):
            self.queued(spool, f"{number}@live.example", "live", 2.0)
        self.clock.advance(3)
        names = [str(work.addressees[0]) for work in self.claimed(spool, 9, 9, dead=1)]
        self.assertEqual(sorted(names), ["0@dead.example", "0@live.example", "1@live.example"])
        self.assertEqual(self.claimed(spool, 9, 9, dead=0), [])
        self.assertEqual(len(self.claimed(spool, 4, 9)), 4)
        self.assertEqual(len(self.claimed(spool, 9, 9)), 1)

    def test_turns(self) -> None:
        """A destination that has just had its turn is behind the others."""
        spool = self.makeSpool()
        for number in range(3):
            self.queued(spool, f"{number}@a.example", "a", 1.0)
            self.queued(spool, f"{number}@b.example", "b", 1.0)
        self.clock.advance(2)
        found = [str(self.claimed(spool, 1, 1)[0].addressees[0]) for _ in range(2)]
        self.assertEqual({name.partition("@")[2] for name in found}, {"a.example", "b.example"})

    def test_only(self) -> None:
        """Where destinations are named, only these are served, each with its share."""
        spool = self.makeSpool()
        for name in ("a", "b", "c", "c"):
            self.queued(spool, f"x@{name}.example", name, 1.0)
        self.assertEqual(self.resultOf(spool.claim(9, {}, 9, ["a", "c"])), [])
        self.clock.advance(2)
        self.assertEqual(self.resultOf(spool.claim(9, {}, 9, [])), [])
        works = self.resultOf(spool.claim(9, {"c": 1}, 9, ["a", "c", "d"]))
        names = sorted(str(work.addressees[0]) for work in works)
        self.assertEqual(names, ["x@a.example", "x@c.example"])
        self.assertEqual(len(self.claimed(spool)), 2)

    def looked(self, spool: ISpool, after: Hashable) -> tuple[list[Turn], Hashable]:
        """
        @return: all turns that are left, and where they end.
        """
        found: list[Turn] = []
        while True:
            turns, after = self.resultOf(spool.turns(after))
            if not turns:
                return found, after
            found += turns

    def test_turnsSeen(self) -> None:
        """
        The destinations that are due can be looked at, with what waits there; what has
        become due since, or has had its turn, is found later.
        """
        spool = self.makeSpool()
        self.assertEqual(self.looked(spool, None)[0], [])
        self.queued(spool, "a@a.example", "a", 1.0)
        self.queued(spool, "b@a.example", "a", 1.0)
        self.queued(spool, "a@b.example", "b", 2.0)
        self.queued(spool, "a@c.example", "c", 5.0)
        self.clock.advance(3)
        kinds = (MailKind("box"),)
        found, after = self.looked(spool, None)
        self.assertEqual(found, [Turn("a", kinds), Turn("b", kinds)])
        self.assertEqual(self.looked(spool, after)[0], [])
        self.clock.advance(3)
        self.assertEqual(len(self.claimed(spool, 1, 1)), 1)
        found, _ = self.looked(spool, after)
        self.assertEqual(found, [Turn("c", kinds), Turn("a", kinds)])

    def test_kindsSeen(self) -> None:
        """Of what waits for a destination it is seen whose it is, and whether it is a notice."""
        spool = self.makeSpool()
        for sender, user in (("", None), ("a@example.net", "anna")):
            envelope = makeEnvelope(sender, client=attrs.evolve(CLIENT, user=user))
            message = self.body(spool, envelope, b"\r\nhello\r\n")
            work = self.resultOf(spool.stage(envelope, message, makeAddressees("a@b.example")))
            spool.release(work, {work.addressees[0]: self.waits("b", 0.0)})
        ((turn,), _) = self.looked(spool, None)
        kinds = {MailKind("box", True, None), MailKind("box", False, "anna")}
        self.assertEqual((turn.destination, {*turn.kinds}), ("b", kinds))

    def test_backOff(self) -> None:
        """A destination that is left alone is not due, and due again when that is taken back."""
        spool = self.makeSpool()
        self.queued(spool, "a@example.net", "dead", 1.0)
        spool.backOff("dead", 500.0)
        self.clock.advance(200)
        self.queued(spool, "b@example.net", "dead", 1.0)
        self.clock.advance(100)
        self.assertEqual(self.claimed(spool), [])
        spool.backOff("dead", 0)
        self.assertEqual(len(self.claimed(spool)), 2)
        self.assertEqual(self.claimed(spool), [])

    def test_backOffEnds(self) -> None:
        """A destination that was left alone is due when its time is over."""
        spool = self.makeSpool()
        self.queued(spool, "a@example.net", "dead", 1.0)
        spool.backOff("dead", 500.0)
        self.clock.advance(501)
        self.assertEqual(len(self.claimed(spool)), 1)

    def test_restart(self) -> None:
        """After a crash, what was staged is released: a duplicate is the lesser evil (RFC 1047)."""
        spool = self.makeSpool()
        self.staged(spool, "a@example.net")
        self.owned(spool, "b@example.net")
        spool = self.reopen(spool)
        self.assertEqual(
            sorted(str(work.addressees[0]) for work in self.claimed(spool)),
            ["a@example.net", "b@example.net"],
        )

    def told(self, spool: ISpool, transaction: int | None = None) -> list[tuple[str, str]]:
        """
        @return: whose sender is to be told of what, now.
        """
        works = self.resultOf(spool.notices(10, transaction))
        return sorted((str(a), a.action) for work in works for a in work.addressees)

    def test_ended(self) -> None:
        """A recipient whose outcome stands stays until its sender is told; one caller gets it."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@example.net", "b@example.net")
        reply = Reply(550, "5.1.1", "gone")
        dispositions: dict[Addressee, Disposition] = {
            work.addressees[0]: NotifyThenRemove("failed", reply, "mx.test"),
            work.addressees[1]: self.waits(),
        }
        self.resultOf(spool.record(work, dispositions))
        number = work.envelope.transaction
        (telling,) = self.resultOf(spool.notices(1, number))
        (addressee,) = telling.addressees
        self.assertEqual(
            (addressee.action, addressee.reply, addressee.host), ("failed", reply, "mx.test")
        )
        self.clock.advance(61)
        self.assertEqual(self.told(spool), [])
        self.assertEqual(self.resultOf(spool.waiting()), (1, 2))

    def test_endedAndDied(self) -> None:
        """When the process dies before the sender is told, the next one tells."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@example.net")
        self.resultOf(spool.record(work, {work.addressees[0]: NotifyThenRemove("failed", LATER)}))
        self.assertEqual(self.told(spool), [])
        spool = self.reopen(spool)
        self.assertEqual(self.told(spool), [("a@example.net", "failed")])

    def test_notice(self) -> None:
        """A notice is ours in the moment in which the recipients leave (RFC 3464)."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@example.net")
        self.resultOf(spool.record(work, {work.addressees[0]: NotifyThenRemove("failed", LATER)}))
        (telling,) = self.resultOf(spool.notices(1, work.envelope.transaction))
        envelope = makeEnvelope("")
        message = self.body(spool, envelope, b"\r\nsorry\r\n")
        notice = (envelope, message, makeAddressees("sender@example.com"))
        dispositions = {telling.addressees[0]: Remove("failed")}
        (leased,) = self.resultOf(spool.record(telling, dispositions, [notice]))
        self.assertEqual(str(leased.addressees[0]), "sender@example.com")
        self.assertEqual(self.resultOf(spool.waiting()), (1, 1))
        self.assertEqual(self.claimed(spool), [])
        (again,) = self.claimed(self.reopen(spool))
        self.assertEqual(again.envelope, envelope)

    def test_late(self) -> None:
        """A late recipient is told of once; one that is too late is given up, not delivered."""
        spool = self.makeSpool()
        self.queued(spool, "a@example.net", seconds=5000.0, warnSeconds=300.0)
        self.clock.advance(299)
        self.assertEqual(self.told(spool), [])
        self.clock.advance(2)
        (late,) = self.resultOf(spool.notices(10))
        self.assertEqual(late.addressees[0].action, "delayed")
        self.assertEqual(late.expireSeconds, 1000.0)
        self.resultOf(spool.record(late, {late.addressees[0]: DelayNotified()}))
        self.clock.advance(600)
        self.assertEqual(self.told(spool), [])
        self.clock.advance(100)
        self.assertEqual(self.told(spool), [("a@example.net", "expired")])
        self.clock.advance(10)
        self.assertEqual(self.told(spool), [])
        self.assertEqual(self.claimed(spool), [])

    def test_lateButDue(self) -> None:
        """A recipient that is merely late can still be delivered while its sender is told."""
        spool = self.makeSpool()
        self.queued(spool, "a@example.net", seconds=400.0, warnSeconds=300.0)
        self.clock.advance(301)
        (late,) = self.resultOf(spool.notices(10))
        self.clock.advance(100)
        (work,) = self.claimed(spool)
        self.resultOf(spool.record(late, {late.addressees[0]: DelayNotified()}))
        self.resultOf(spool.record(work, {work.addressees[0]: Remove()}))
        self.assertEqual(self.resultOf(spool.waiting()), (0, 0))

    def test_stuck(self) -> None:
        """A recipient whose sender cannot be told stays for the operator, until it is given up."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@example.net")
        self.resultOf(spool.record(work, {work.addressees[0]: NotifyThenRemove("failed", LATER)}))
        (telling,) = self.resultOf(spool.notices(1, work.envelope.transaction))
        self.resultOf(spool.record(telling, {telling.addressees[0]: Undeliverable(1000.0)}))
        self.clock.advance(900)
        self.assertEqual((self.told(spool), self.claimed(spool)), ([], []))
        self.assertEqual(self.resultOf(spool.waiting()), (1, 1))
        self.clock.advance(101)
        self.assertEqual(self.told(spool), [("a@example.net", "stuck")])

    def test_refusal(self) -> None:
        """A refusal that is to be told instead of a delivery is kept (P-11)."""
        spool = self.makeSpool()
        envelope = makeEnvelope()
        message = self.body(spool, envelope, b"\r\nhello\r\n")
        reply = Reply(550, "5.6.0", "refuses\nthe content")
        addressees = [attrs.evolve(one, refusal=reply) for one in makeAddressees("a@example.net")]
        spool.release(self.resultOf(spool.stage(envelope, message, addressees)), {})
        (work,) = self.claimed(self.reopen(spool))
        self.assertEqual(work.addressees[0].refusal, reply)

    def test_notes(self) -> None:
        """Notes survive the process, until they are forgotten or have expired."""
        spool = self.makeSpool()
        for name, seconds in (("a", 100.0), ("b", 100.0), ("c", 10.0)):
            spool.note(name, f"value {name}", seconds)
        spool.note("a", "another", 1000.0)
        spool.forget("b")
        spool.forget("unknown")
        self.clock.advance(20)
        spool = self.reopen(spool)
        self.assertEqual(self.resultOf(spool.notes()), {"a": "another"})
        self.clock.advance(1000)
        self.assertEqual(self.resultOf(spool.notes()), {})

    def test_owner(self) -> None:
        """It says who it is; and that mail can be taken."""
        spool = self.makeSpool()
        self.assertTrue(spool.owner)
        self.assertIs(spool.isThere, True)


class SharedSpoolContract(SpoolContract):
    """
    What every L{ISpool} does whose content several processes share, each of them an owner.
    """

    def makeOther(self, spool: ISpool) -> ISpool:
        """
        @return: another owner of what is in a spool, open.
        """
        raise NotImplementedError

    def endOf(self, spool: ISpool) -> None:
        """
        The process of an owner has died, and its lease is over.
        """
        raise NotImplementedError

    def shared(self) -> tuple[ISpool, ISpool]:
        """
        @return: two owners of the same.
        """
        one = self.makeSpool()
        other = self.makeOther(one)
        self.assertEqual(one.identity, other.identity)
        self.assertNotEqual(one.owner, other.owner)
        return one, other

    def test_sharedTurns(self) -> None:
        """What waits is any owner's, and is handed out once."""
        one, other = self.shared()
        for name in ("a", "b", "c"):
            self.queued(one, f"{name}@b.example", name, 1.0)
        self.clock.advance(2)
        works = [*self.claimed(one, 1), *self.claimed(other, 1), *self.claimed(one, 9)]
        found = sorted(str(one) for work in works for one in work.addressees)
        self.assertEqual(found, ["a@b.example", "b@b.example", "c@b.example"])
        self.assertEqual((self.claimed(one), self.claimed(other)), ([], []))

    def test_othersStaged(self) -> None:
        """What one owner has staged is not released, claimed or abandoned by another."""
        one, other = self.shared()
        work = self.staged(one, "a@example.net")
        other.release(work, {})
        other.abandon(work)
        self.assertEqual(self.claimed(other), [])
        self.assertEqual(self.claimed(self.makeOther(one)), [])
        self.assertEqual(self.resultOf(other.waiting()), (1, 1))
        one.abandon(work)
        self.assertEqual(self.resultOf(one.waiting()), (0, 0))

    def test_othersLeased(self) -> None:
        """What is leased to one owner is not recorded, told of or claimed by another."""
        one, other = self.shared()
        work = self.owned(one, "a@example.net", "b@example.net")
        first, second = work.addressees
        for what in (Remove(), self.waits(), NotifyThenRemove("failed", LATER)):
            self.resultOf(other.record(work, {first: what}))
            self.assertEqual(self.claimed(other), [])
        self.resultOf(other.record(work, dict.fromkeys(work.addressees, Remove())))
        self.assertEqual(self.resultOf(one.waiting()), (1, 2))
        self.resultOf(one.record(work, {first: NotifyThenRemove("failed", LATER)}))
        number = work.envelope.transaction
        self.assertEqual(self.told(other, number), [])
        self.assertEqual(self.told(one, number), [("a@example.net", "failed")])
        self.resultOf(one.record(work, {second: Remove()}))
        self.assertEqual(self.resultOf(one.waiting()), (1, 1))

    def test_dead(self) -> None:
        """What a dead owner had staged, leased or begun to tell comes to another one."""
        one, other = self.shared()
        self.staged(one, "a@example.net")
        self.owned(one, "b@example.net")
        ended = self.owned(one, "c@example.net")
        self.resultOf(one.record(ended, {ended.addressees[0]: NotifyThenRemove("failed", LATER)}))
        self.resultOf(one.waiting())
        self.endOf(one)
        works = self.claimed(other)
        found = sorted(str(one) for work in works for one in work.addressees)
        self.assertEqual(found, ["a@example.net", "b@example.net"])
        self.assertEqual(self.told(other), [("c@example.net", "failed")])
        for work in works:
            self.resultOf(other.record(work, {work.addressees[0]: Remove()}))
        self.assertEqual(self.resultOf(other.waiting()), (1, 1))

    def test_woken(self) -> None:
        """
        An owner that was thought dead, and is not, changes nothing that another one has
        taken since; what none has taken it may still say.
        """
        one, other = self.shared()
        taken, free = self.owned(one, "a@example.net"), self.owned(one, "b@example.net")
        self.resultOf(one.waiting())
        self.endOf(one)
        (work,) = self.claimed(other, 1)
        lost, kept = (taken, free) if work.envelope == taken.envelope else (free, taken)
        one.abandon(lost)
        one.renew([lost])
        self.resultOf(one.record(lost, {lost.addressees[0]: self.waits(seconds=0.0)}))
        self.resultOf(one.record(lost, {lost.addressees[0]: Remove()}))
        self.assertEqual(self.resultOf(one.waiting()), (2, 2))
        self.resultOf(one.record(kept, {kept.addressees[0]: Remove()}))
        self.resultOf(one.waiting())  # what one has said is written
        self.assertEqual(self.claimed(other), [])
        self.resultOf(other.record(work, {work.addressees[0]: Remove()}))
        self.assertEqual(self.resultOf(other.waiting()), (0, 0))
