"""
What an outcome makes of a queued recipient, as a table.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.delivery import Addressee
from deferrals.model.disposition import (
    UNFIT,
    DelayNotified,
    Disposition,
    NotifyThenRemove,
    Queued,
    Remove,
    Reschedule,
    afterNotice,
    disposition,
    handedBack,
    putBack,
)
from deferrals.model.reply import Reply
from deferrals.model.schedule import Schedule, parseSteps
from deferrals.model.settings import Seconds
from deferrals.model.verdict import Delivered, Failed, Outcome, Retry
from deferrals.testing import makeAddressees

OK = Reply(250, "2.0.0", "ok")
GONE = Reply(550, "5.1.1", "gone")
LATER = Reply(451, "4.2.0", "later")
SCHEDULE = Schedule(parseSteps("60s 5m"), Seconds(1000.0), Seconds(300.0))

DELIVERED = Delivered(OK, "mx")
RELAYED = Delivered(OK, "mx", "relayed")
PASSED = Delivered(OK, "mx", "passed")
FAILED = Failed(GONE, "mx")
TOLD = Failed(GONE, "mx", told=True)
RETRY = Retry(LATER, "mx")
RETRY_AFTER = Retry(LATER, "mx", after=400.0)

#: NOTIFY= of the recipient; the outcome; the message's age; what follows, where
#: there is a sender; and where there is none.
TABLE: list[tuple[Collection[str] | None, Outcome, float, Disposition, Disposition]] = []


def row(
    notify: str | None, outcome: Outcome, age: float, told: Disposition, untold: Disposition
) -> None:
    words = None if notify is None else frozenset(notify.split())
    TABLE.append((words, outcome, age, told, untold))


def remove(event: str, reply: Reply = OK) -> Remove:
    return Remove(event, reply, "mx")


def notify(action: str, reply: Reply = OK) -> NotifyThenRemove:
    return NotifyThenRemove(action, reply, "mx")


def wait(seconds: float) -> Reschedule:
    return Reschedule("there", seconds, 1000.0, 300.0, LATER, "mx", True)


for asked in (None, "NEVER", "FAILURE", "DELAY", "FAILURE DELAY"):
    for outcome in (DELIVERED, RELAYED, PASSED):
        row(asked, outcome, 0.0, remove("delivered"), remove("delivered"))
for asked in ("SUCCESS", "SUCCESS FAILURE DELAY"):
    row(asked, DELIVERED, 0.0, notify("delivered"), remove("delivered"))
    row(asked, RELAYED, 0.0, notify("relayed"), remove("delivered"))
    row(asked, PASSED, 0.0, remove("delivered"), remove("delivered"))
for asked in (None, "FAILURE", "SUCCESS FAILURE DELAY"):
    row(asked, FAILED, 0.0, notify("failed", GONE), remove("failed", GONE))
    row(asked, RETRY, 1000.0, notify("expired", LATER), remove("expired", LATER))
    row(asked, RETRY_AFTER, 1e9, notify("expired", LATER), remove("expired", LATER))
for asked in ("NEVER", "SUCCESS", "DELAY", "SUCCESS DELAY"):
    row(asked, FAILED, 0.0, remove("failed", GONE), remove("failed", GONE))
    row(asked, RETRY, 1000.0, remove("expired", LATER), remove("expired", LATER))
for asked in (None, "NEVER", "SUCCESS FAILURE DELAY"):
    row(asked, TOLD, 0.0, remove("failed", GONE), remove("failed", GONE))
    for age in (0.0, 999.9):
        row(asked, RETRY, age, wait(60.0), wait(60.0))
        row(asked, RETRY_AFTER, age, wait(400.0), wait(400.0))


def addressee(notify: Collection[str] | None = None, **more: Any) -> Addressee:
    (one,) = makeAddressees("a@x.example")
    words = None if notify is None else frozenset(notify)
    return attrs.evolve(one, recipient=attrs.evolve(one.recipient, notify=words), **more)


def queued(hasSender: bool = True, age: float = 0.0, chance: float = 0.5) -> Queued:
    return Queued(
        hasSender=hasSender,
        destination="there",
        schedule=SCHEDULE,
        ageSeconds=age,
        chance=chance,
    )


class DispositionTests(SynchronousTestCase):
    """
    L{disposition}, and what belongs to it.
    """

    def test_table(self) -> None:
        """Each outcome under each NOTIFY=, with a sender and without (RFC 3461 §4.1, §5.2)."""
        for words, outcome, age, told, untold in TABLE:
            one = addressee(words)
            self.assertEqual(disposition(outcome, one, queued(True, age)), told)
            self.assertEqual(disposition(outcome, one, queued(False, age)), untold)

    def test_attempts(self) -> None:
        """The schedule's steps are those of the attempts; the last one repeats."""
        for attempts, seconds in ((0, 60.0), (1, 300.0), (2, 300.0), (50, 300.0)):
            found = disposition(RETRY, addressee(attempts=attempts), queued())
            self.assertEqual(found, wait(seconds))

    def test_jitter(self) -> None:
        """What failed together does not come back together."""
        for chance, seconds in ((0.0, 54.0), (1.0, 66.0)):
            found = disposition(RETRY, addressee(), queued(chance=chance))
            assert isinstance(found, Reschedule)
            self.assertAlmostEqual(found.seconds, seconds)

    def test_putBack(self) -> None:
        """A recipient that was put back is due at once, and has used up no attempt."""
        self.assertEqual(
            putBack(queued(), LATER, "mx"),
            Reschedule("there", 0.0, 1000.0, 300.0, LATER, "mx", attempted=False),
        )

    def test_afterNotice(self) -> None:
        """Once its sender has been told, a recipient leaves, unless it is merely late."""
        for action, found in (
            ("delayed", DelayNotified()),
            ("failed", remove("failed", GONE)),
            ("expired", remove("expired", GONE)),
            ("delivered", remove("delivered", GONE)),
            ("relayed", remove("relayed", GONE)),
            ("damaged", remove("damaged", GONE)),
            ("stuck", remove("given up", GONE)),
        ):
            self.assertEqual(afterNotice(addressee(action=action, reply=GONE, host="mx")), found)

    def test_handedBack(self) -> None:
        """A client that keeps refused recipients has been told (S-6, RFC 2033 §4.2)."""
        self.assertEqual(handedBack(DELIVERED), DELIVERED)
        self.assertEqual(handedBack(FAILED), TOLD)
        self.assertEqual(handedBack(RETRY_AFTER), Failed(LATER, "mx", told=True))


class NoticeTests(SynchronousTestCase):
    """
    What becomes of notices of ours.
    """

    def test_unfit(self) -> None:
        """One that is refused for its form is written anew; for another reason it is over."""
        queued = Queued(
            hasSender=False,
            destination="mx a",
            schedule=SCHEDULE,
            ageSeconds=0.0,
            chance=0.5,
            isNotice=True,
        )
        (one,) = makeAddressees("a@x.example")
        for code, enhanced, isUnfit in (
            (552, "5.3.4", True),
            (552, None, True),
            (554, "5.6.3", True),
            (553, "5.6.7", True),
            (550, "5.2.3", True),
            (550, "5.1.1", False),
            (554, None, False),
            (550, "5.7.1", False),
        ):
            reply = Reply(code, enhanced, "no")
            found = disposition(Failed(reply, "mx"), one, queued)
            wanted = (
                NotifyThenRemove(UNFIT, reply, "mx") if isUnfit else Remove("failed", reply, "mx")
            )
            self.assertEqual(found, wanted)
            other = attrs.evolve(queued, isNotice=False)
            self.assertEqual(
                disposition(Failed(reply, "mx"), one, other), Remove("failed", reply, "mx")
            )
