"""
What operators and recipients ask, and say.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from deferrals.model.admission import WARNING, AdmissionWish
from deferrals.model.refusal import RefusalSettings
from deferrals.model.settings import Seconds
from deferrals.server.refusaldesk import RefusalDesk
from tests.model.test_refusal import makeRefusal
from tests.server.test_admissions import ANNA, BOB
from tests.server.test_refusals import RefusalsCase


class FakeDigests:
    """
    Tells no one.
    """

    async def tellNow(self, owner: str | None, isDry: bool) -> list[dict[str, object]]:
        return [{"recipient": owner, "dry": isDry}]


class RefusalDeskTests(RefusalsCase):
    """
    L{RefusalDesk}.
    """

    def setUp(self) -> None:
        super().setUp()
        digests: Any = FakeDigests()
        self.desk = RefusalDesk(self.refusals, self.admissions, digests, self.clock)
        now = self.clock.seconds()
        self.one, self.two = makeRefusal(1, time=now - 10), makeRefusal(2, time=now - 100)
        self.other = makeRefusal(3, BOB, time=now, admits=())
        kept = [(ANNA, self.one), (ANNA, self.two), (BOB, self.other)]
        self.successResultOf(self.store.add(kept))

    def call(self, name: str, *args: Any) -> Any:
        method: Any = getattr(self.desk, name)
        return self.successResultOf(Deferred.fromCoroutine(method(*args)))

    def admit(
        self, reference: str, recipient: str = ANNA, once: bool = False, by: str | None = None
    ) -> Any:
        return self.call("admit", recipient, AdmissionWish(reference, once, by=by))

    def test_about(self) -> None:
        """What is kept of all recipients, by words of its Subject."""
        now = self.clock.seconds()
        named = makeRefusal(4, BOB, time=now - 1, subject="A prize")
        self.successResultOf(self.store.add([(BOB, named)]))
        self.assertEqual([one["id"] for one in self.call("about", "PRIZE", 100)], [named.id])

    def test_refusals(self) -> None:
        """A recipient's own, whatever letters it is written in; not older than is asked for."""
        ids = [one["id"] for one in self.call("refusals", "anna@EXAMPLE.net", None, 100)]
        self.assertEqual(ids, [self.one.id, self.two.id])
        ids = [one["id"] for one in self.call("refusals", ANNA, 50.0, 100)]
        self.assertEqual(ids, [self.one.id])
        self.assertEqual(self.call("refusals", "x@example.net", None, 100), [])

    def test_expired(self) -> None:
        """What is to be removed is not shown, although it is still there."""
        self.refusals.settings = RefusalSettings(keep=Seconds(50.0))
        ids = [one["id"] for one in self.call("refusals", ANNA, 1e6, 100)]
        self.assertEqual(ids, [self.one.id])
        self.assertIsNone(self.admit(self.two.id))

    def test_admit(self) -> None:
        """The sender of what was refused is let in, for as long as is configured."""
        said = self.admit(self.one.id.lower())
        self.assertEqual((said["by"], said["once"]), ("network 192.0.2.0/24", False))
        self.assertEqual(said["until"], round(self.clock.seconds() + 90 * 86400))
        self.assertNotIn("warning", said)
        self.assertEqual(self.call("admissions", None), [said])
        self.assertEqual(self.call("admissions", BOB), [])

    def test_others(self) -> None:
        """A reference opens nothing for a recipient whose it is not."""
        self.assertIsNone(self.admit(self.one.id, BOB))
        self.assertIsNone(self.admit("x"))
        self.assertEqual(self.call("admissions", None), [])

    def test_warning(self) -> None:
        """A bare address is said to be one."""
        self.assertEqual(self.admit(self.other.id, BOB)["warning"], WARNING)
        self.assertEqual(self.admit(self.one.id, by="sender")["warning"], WARNING)
        method = Deferred.fromCoroutine(
            self.desk.admit(ANNA, AdmissionWish(self.one.id, by="dkim"))
        )
        self.failureResultOf(method, ValueError)

    def test_remove(self) -> None:
        """Whom one has let in, or all have."""
        self.admit(self.one.id)
        self.admit(self.other.id, BOB)
        self.assertEqual(self.call("removeAdmissions", ANNA), 1)
        self.assertEqual(self.call("removeAdmissions", ANNA), 0)
        self.admit(self.two.id)
        self.assertEqual(self.call("removeAdmissions", None), 2)

    def test_digest(self) -> None:
        """It is handed on."""
        self.assertEqual(self.call("digest", ANNA, True), [{"recipient": ANNA, "dry": True}])
        self.assertEqual(self.call("digest", None, False), [{"recipient": None, "dry": False}])
