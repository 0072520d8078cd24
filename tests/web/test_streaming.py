"""
What happens, as it happens.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred

from deferrals.errors import SpoolError
from deferrals.web.site import CONNECTION_SECONDS, MAX_CONNECTIONS
from deferrals.web.streaming import (
    EVERY_SECONDS,
    LISTENER_SECONDS,
    MAX_LISTENERS,
    SLOW_SECONDS,
)
from tests.web.rig import HOSTILE, Logins, SiteCase, Transport


class StreamTests(SiteCase):
    """
    C{/events}.
    """

    def heard(self, transport: Transport, name: str) -> list[Any]:
        """
        What a listener was told.
        """
        text = transport.value().decode()
        return [
            json.loads(part.split("data: ")[1].split("\n")[0])
            for part in text.split(f"event: {name}\n")[1:]
        ]

    def transaction(self, number: str) -> dict[str, Any]:
        return {"time": 1e9, "transaction": number, "event": "transaction", "sender": HOSTILE}

    def test_events(self) -> None:
        """Each two seconds how it is; and each transaction, once."""
        self.answers["recent"] = [self.transaction("A")]
        _, transport = self.send("/events")
        self.assertIn(b"text/event-stream", transport.value())
        self.answers["recent"] = [self.transaction(one) for one in "CBA"]
        self.clock.advance(EVERY_SECONDS)
        self.clock.advance(EVERY_SECONDS)
        self.assertEqual(len(self.heard(transport, "status")), 3)
        found = self.heard(transport, "transaction")
        self.assertEqual([one["transaction"] for one in found], ["B", "C"])
        self.assertEqual(found[0]["sender"], HOSTILE)
        self.assertEqual(found[0]["time"], "2001-09-09T01:46:40.000+00:00")
        self.assertEqual(self.heard(transport, "status")[0]["shown"]["ready"], "Mail is taken.")

    def test_nobody(self) -> None:
        """Where nobody listens, nothing is asked."""
        channel, _ = self.send("/events")
        self.assertTrue(self.asked)
        channel.connectionLost()
        self.asked.clear()
        self.clock.advance(10 * EVERY_SECONDS)
        self.assertEqual((self.asked, self.clock.getDelayedCalls()), ([], []))

    def test_againSoon(self) -> None:
        """One that comes while what its predecessor waited for is still made: one turn for all."""
        late: Deferred[Any] = Deferred()
        self.answers["status"] = late
        channel, _ = self.send("/events")
        channel.connectionLost()
        answer = {"parts": {}, "reasons": []}
        self.answers["status"] = answer
        channel, _ = self.send("/events")
        late.callback(answer)
        self.asked.clear()
        self.clock.pump([EVERY_SECONDS] * 3)
        self.assertEqual([one[0] for one in self.asked], ["status", "recent"] * 3)
        channel.connectionLost()
        self.clock.advance(EVERY_SECONDS)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stays(self) -> None:
        """It is there for longer than others, but not for ever; and takes no one's place."""
        _, transport = self.send("/events")
        for _ in range(MAX_CONNECTIONS):
            self.connect()
        self.clock.pump([EVERY_SECONDS] * int(2 * CONNECTION_SECONDS))
        self.assertFalse(transport.disconnecting or transport.aborted)
        self.clock.pump([EVERY_SECONDS] * int(LISTENER_SECONDS / EVERY_SECONDS))
        self.assertTrue(transport.disconnecting)

    def test_slow(self) -> None:
        """Who does not read what it is sent is let go, and nothing heaps up for it."""
        _, transport = self.send("/events")
        producer = transport.producer
        assert producer is not None
        producer.pauseProducing()
        said = len(transport.value())
        self.clock.pump([EVERY_SECONDS] * int(SLOW_SECONDS / EVERY_SECONDS - 1))
        producer.resumeProducing()
        self.assertEqual(len(transport.value()), said)
        self.clock.advance(EVERY_SECONDS)
        self.assertGreater(len(transport.value()), said)
        producer.pauseProducing()
        self.clock.pump([EVERY_SECONDS] * int(SLOW_SECONDS / EVERY_SECONDS + 1))
        self.assertTrue(transport.aborted)

    def test_many(self) -> None:
        """There are so many; all hear the same, which is asked for once."""
        transports = [self.send("/events")[1] for _ in range(MAX_LISTENERS)]
        self.assertEqual(self.get("/events").code, 503)
        self.asked.clear()
        self.clock.advance(EVERY_SECONDS)
        self.assertEqual([one[0] for one in self.asked], ["status", "recent"])
        for transport in transports:
            self.assertTrue(self.heard(transport, "status"))

    def test_close(self) -> None:
        """At a stop, and at a reload, they have to go."""
        _, transport = self.send("/events")
        self.stream.close()
        self.assertTrue(transport.disconnecting)

    def test_troubles(self) -> None:
        """A server that does not answer, or says no, ends nothing."""
        _, transport = self.send("/events")
        self.answers["status"] = Deferred
        self.clock.pump([EVERY_SECONDS] * 4)
        self.answers["status"] = SpoolError("the disk is gone")
        self.clock.advance(EVERY_SECONDS)
        self.answers["status"] = {"parts": {}, "reasons": ["spool"]}
        self.clock.pump([EVERY_SECONDS] * 3)
        self.assertFalse(transport.disconnecting)
        self.assertIn("No mail is taken", self.heard(transport, "status")[-1]["shown"]["ready"])
        self.answers["status"] = KeyError("x")
        self.clock.advance(EVERY_SECONDS)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_head(self) -> None:
        """One that only asks what it is."""
        answer = self.get("/events", "HEAD")
        self.assertEqual((answer.code, answer.text), (200, ""))

    def test_goneEarly(self) -> None:
        """One that has gone before it is known who it is."""
        known: Deferred[str] = Deferred()
        self.users = Logins(alice="secret")
        self.login()
        self.build()
        self.patch(self.users, "stamp", lambda user: known)
        before = self.clock.getDelayedCalls()
        channel, _ = self.send("/events")
        channel.connectionLost()
        known.callback("secret")
        self.assertEqual(self.clock.getDelayedCalls(), before)
