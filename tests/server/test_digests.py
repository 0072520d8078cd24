"""
Who is told what was refused, when, and how often.
"""

from __future__ import annotations

import email
import email.policy
import os
import time
from typing import Any

from twisted.internet.defer import Deferred, fail

from deferrals.errors import SpoolError
from deferrals.interfaces import Work
from deferrals.model.address import Mailbox
from deferrals.model.admission import keyOf
from deferrals.model.ids import TransactionIds
from deferrals.model.link import SignedLink
from deferrals.model.refusal import DAY_SECONDS, RefusalSettings
from deferrals.model.settings import Seconds
from deferrals.model.status import Status
from deferrals.model.verdict import Accept, Defer, Expand, Refuse, Route
from deferrals.relay.notices import Author
from deferrals.server.digests import LOOK_SECONDS, SETTLE_SECONDS, Digests, Post
from deferrals.server.linkkey import LinkKey
from deferrals.spool.memory import MemorySpool
from tests.model.test_refusal import makeRefusal
from tests.server.test_admissions import ANNA, BOB, SPAM
from tests.server.test_refusals import RefusalsCase

#: Midnight, by UTC.
MIDNIGHT = 20_000 * DAY_SECONDS
SEVEN = MIDNIGHT + 7 * 3600


class DigestsTests(RefusalsCase):
    """
    L{Digests}, at a place whose time is UTC.
    """

    def setUp(self) -> None:
        before = os.environ.get("TZ")
        os.environ["TZ"] = "UTC"
        time.tzset()
        self.addCleanup(self.restore, before)
        super().setUp()
        self.clock.advance(MIDNIGHT - 3600 - self.clock.seconds())
        self.spool = MemorySpool(self.clock)
        self.released: list[Work] = []
        self.key = LinkKey(os.path.join(self.mktemp(), "link.key"))
        self.people.says = Defer(Route("strict", "box", overrides=(("digest", "daily"),)))
        self.refusals.settings = RefusalSettings(keep=Seconds(self.keep))
        self.digests = self.started()

    def restore(self, zone: str | None) -> None:
        os.environ.pop("TZ")
        if zone is not None:
            os.environ["TZ"] = zone
        time.tzset()

    def started(self) -> Digests:
        """
        Those of a process that has just started.
        """
        author = Author("mx.example.net", TransactionIds(), self.clock.seconds)
        clock: Any = self.clock
        post = Post(self.spool, author, self.released.append)
        digests = Digests(self.refusals, clock, self.people, post, self.key, Status())
        digests.url = "https://mail.example.net"
        digests.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(digests.stop()))
        return digests

    def stop(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.digests.stop()))

    def add(self, when: float, owner: str = ANNA, number: int = 1, **more: object) -> None:
        one = makeRefusal(number, owner, time=when, **more)
        self.successResultOf(self.store.add([(owner, one)]))

    def until(self, when: float) -> None:
        """
        Let time pass.
        """
        while self.clock.seconds() < when:
            self.clock.advance(min(LOOK_SECONDS * 20, when - self.clock.seconds()))

    def sent(self) -> list[tuple[str, str]]:
        """
        Recipients, each with the text of its digest.
        """
        found = []
        for work in self.released:
            with work.message.open() as file:
                message = email.message_from_bytes(file.read(), policy=email.policy.default)
            (part, _) = message.iter_parts()  # type: ignore[attr-defined]
            found.append((str(work.addressees[0]), part.get_content()))
            self.assertIsNone(work.envelope.sender)
            self.assertEqual(work.addressees[0].recipient.notify, {"NEVER"})
        self.released.clear()
        return found

    def test_daily(self) -> None:
        """At its time, once, with what was refused since the last time."""
        self.add(MIDNIGHT, number=1)
        self.until(SEVEN - 1)
        self.assertEqual(self.sent(), [])
        self.until(SEVEN + LOOK_SECONDS * 20)
        ((to, text),) = self.sent()
        self.assertEqual(to, ANNA)
        self.assertIn("1 messages for anna@example.net", text)
        self.add(SEVEN + 3600, number=2, sender="next@example.org")
        self.until(SEVEN + DAY_SECONDS - 1)
        self.assertEqual(self.sent(), [])
        self.until(SEVEN + DAY_SECONDS + LOOK_SECONDS * 20)
        ((_, text),) = self.sent()
        self.assertIn("next@example.org", text)
        self.assertNotIn("friend@example.org", text)
        self.until(SEVEN + 3 * DAY_SECONDS)
        self.assertEqual(self.sent(), [])  # there is nothing to tell

    def test_settled(self) -> None:
        """What was refused just before, and is kept a moment later, is told, too."""
        self.add(MIDNIGHT)
        for seconds in range(0, int(SETTLE_SECONDS), 5):
            self.until(SEVEN + seconds)
        self.assertEqual(self.sent(), [])
        self.add(SEVEN - 1, number=2, sender="next@example.org")
        self.until(SEVEN + SETTLE_SECONDS + 2 * LOOK_SECONDS)
        ((_, text),) = self.sent()
        self.assertIn("next@example.org", text)
        self.assertIn("2 messages", text)

    def test_weekly(self) -> None:
        """On Mondays, where that is wanted."""
        self.people.says = Defer(Route("strict", "box", overrides=(("digest", "weekly"),)))
        self.add(MIDNIGHT)
        days = []
        for day in range(14):
            self.until(SEVEN + day * DAY_SECONDS + LOOK_SECONDS * 20)
            days += [time.gmtime(self.clock.seconds()).tm_wday] * len(self.sent())
        self.assertEqual(days, [0])

    def test_wanted(self) -> None:
        """Only those who want it; by default, as the configuration has it."""
        route = Route("strict", "box")
        off = Route("strict", "box", overrides=(("digest", "off"),))
        for said, isTold in (
            (Defer(route), False),
            (Defer(off), False),
            (Refuse(SPAM.reply), False),
            (None, False),
            (Expand((Mailbox.parse(BOB),)), False),
        ):
            self.people.says = said
            self.add(MIDNIGHT)
            self.until(SEVEN + LOOK_SECONDS * 20)
            self.assertEqual(bool(self.sent()), isTold, said)
        self.people.says = Accept(route=route)
        keep = Seconds(self.keep)
        self.refusals.settings = RefusalSettings(keep=keep, digest="daily")
        self.add(SEVEN + 3600)
        self.until(SEVEN + DAY_SECONDS + LOOK_SECONDS * 20)
        self.assertEqual(len(self.sent()), 1)

    def test_restart(self) -> None:
        """A process that starts anew tells no one twice, and leaves no one out."""
        self.add(MIDNIGHT, ANNA)
        self.until(SEVEN + LOOK_SECONDS * 20)
        self.assertEqual(len(self.sent()), 1)
        self.add(MIDNIGHT, BOB, 2)  # one whose digest the crash has kept from being sent
        self.stop()
        self.digests = self.started()
        self.assertEqual([to for to, _ in self.sent()], [BOB])
        self.stop()
        self.digests = self.started()
        self.assertEqual(self.sent(), [])

    def test_late(self) -> None:
        """A server that was down at the time tells them when it is back."""
        self.stop()
        self.add(MIDNIGHT)
        self.until(SEVEN + 2 * 3600)
        self.add(SEVEN + 3600, number=2)  # for the next time
        self.digests = self.started()
        ((_, text),) = self.sent()
        self.assertIn("1 messages", text)

    def test_noDisk(self) -> None:
        """What cannot be ours is sent later."""
        stage = self.spool.stage
        self.patch(self.spool, "stage", lambda *_: fail(SpoolError("full")))
        self.add(MIDNIGHT)
        self.until(SEVEN + SETTLE_SECONDS + LOOK_SECONDS)
        self.assertEqual(self.sent(), [])
        self.patch(self.spool, "stage", stage)
        self.until(SEVEN + LOOK_SECONDS * 40)
        self.assertEqual(len(self.sent()), 1)

    def test_oneTransaction(self) -> None:
        """That it was sent is noted in the turn in which it becomes ours."""
        events: list[str] = []
        note, stage = self.spool.note, self.spool.stage

        def noted(*args: Any) -> None:
            events.append("note")
            note(*args)

        def staged(*args: Any) -> Any:
            events.append("stage")
            return stage(*args)

        self.patch(self.spool, "note", noted)
        self.patch(self.spool, "stage", staged)
        self.add(MIDNIGHT)
        self.until(SEVEN + LOOK_SECONDS * 20)
        self.assertEqual(events, ["note", "stage"])

    def test_broken(self) -> None:
        """One recipient's trouble keeps no other from being told."""
        asked = self.people.askSome

        async def some(envelope: Any, recipient: Any, isAsked: Any) -> Any:
            if str(recipient) == ANNA:
                raise ValueError("a table")
            return await asked(envelope, recipient, isAsked)

        self.patch(self.people, "askSome", some)
        self.add(MIDNIGHT, ANNA, 1)
        self.add(MIDNIGHT, BOB, 2)
        self.until(SEVEN + LOOK_SECONDS * 20)
        self.assertEqual([to for to, _ in self.sent()], [BOB])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_link(self) -> None:
        """It opens that recipient's page, as long as it may."""
        self.add(MIDNIGHT)
        self.until(SEVEN + LOOK_SECONDS * 20)
        ((_, text),) = self.sent()
        (token,) = [line.rpartition("/")[2] for line in text.splitlines() if "/mine/" in line]
        now, week = self.clock.seconds(), 7 * DAY_SECONDS
        link = SignedLink.read(token, self.key.get(), now)
        assert link is not None
        self.assertEqual(keyOf(link.recipient), ANNA)
        self.assertIsNone(SignedLink.read(token, self.key.get(), now + week))
        self.digests.url = None
        self.assertEqual(self.digests.linkTo(Mailbox.parse(ANNA)), "")

    def test_now(self) -> None:
        """An operator can have it sent now, or only see it."""
        self.add(MIDNIGHT - 3600)
        self.until(MIDNIGHT)

        def tell(owner: str | None, isDry: bool) -> list[dict[str, str | int]]:
            return self.successResultOf(Deferred.fromCoroutine(self.digests.tellNow(owner, isDry)))

        (said,) = tell(ANNA, True)
        self.assertIn("friend@example.org", str(said["text"]))
        self.assertEqual(self.sent(), [])
        self.assertEqual(tell(BOB, False), [])
        (said,) = tell(None, False)
        self.assertEqual((said["recipient"], said["count"]), (ANNA, 1))
        self.assertEqual(len(self.sent()), 1)
        self.assertEqual(tell(None, False), [])
        self.until(SEVEN + LOOK_SECONDS * 20)
        self.assertEqual(self.sent(), [])  # it has been told of that

    def test_hardAddress(self) -> None:
        """A recipient whose address needs quotes has a link to what is its own."""
        address = Mailbox('"q', "example.net")
        link = self.digests.linkTo(address)
        found = SignedLink.read(link.rpartition("/")[2], self.key.get(), 0.0)
        assert found is not None
        self.assertEqual(keyOf(found.recipient), address.key)

    def test_off(self) -> None:
        """Where nothing is kept, no one is told."""
        self.add(MIDNIGHT)
        self.refusals.settings = RefusalSettings()
        self.until(SEVEN + DAY_SECONDS)
        self.assertEqual(self.sent(), [])
