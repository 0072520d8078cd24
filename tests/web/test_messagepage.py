"""
A message's story.
"""

from __future__ import annotations

from typing import Any

from deferrals.web.messagepage import MAX_LINES, MAX_RECIPIENTS
from tests.web.rig import HOSTILE, ID, Answer, SiteCase, recipient


def verdict(address: str, stage: str, reply: str, **more: Any) -> dict[str, Any]:
    """
    A recipient's answer.
    """
    return {
        "event": "recipient",
        "time": 1e9,
        "recipient": address,
        "stage": stage,
        "reply": reply,
        "cohort": "strict/1",
        "why": None,
        "alias": None,
        "milliseconds": 1.5,
        **more,
    }


def delivery(address: str, outcome: str, **more: Any) -> dict[str, Any]:
    """
    What became of a recipient.
    """
    known = {"attempt": 1, "delivery": "mx", "seconds": 0.2, "host": "mx1", "reply": "250 ok"}
    return {
        "event": "delivery",
        "time": 1e9,
        "recipient": address,
        "outcome": outcome,
        **known,
        **more,
    }


def end(rung: str = "prdr", **more: Any) -> dict[str, Any]:
    """
    How it has ended.
    """
    return {
        "event": "transaction",
        "time": 1e9,
        "client": "192.0.2.1",
        "helo": "c.test",
        "tls": None,
        "user": None,
        "sender": "me@c.test",
        "messageId": "1@c.test",
        "size": 2048,
        "rung": rung,
        "recipients": 2,
        "accepted": 1,
        "milliseconds": 20.5,
        "reply": "250 2.6.0 taken",
        **more,
    }


class MessageTests(SiteCase):
    """
    C{/message/ID}.
    """

    def told(self, *events: dict[str, Any], **spool: Any) -> Answer:
        self.answers["events"] = {"events": list(events), "dropped": 0}
        self.answers["show"] = spool or None
        return self.get(f"/message/{ID}")

    def lines(self, answer: Answer) -> list[str]:
        """
        The dialogue.
        """
        _, _, text = answer.text.partition('<ol class="transcript">')
        found = text.partition("</ol>")[0].split("<bdi>")[1:]
        return [one.partition("</bdi>")[0] for one in found]

    def test_unknown(self) -> None:
        """Nothing is known, or it is no id."""
        answer = self.told()
        self.assertEqual(answer.code, 404)
        self.assertIn("deferrals explain", answer.text)
        for path in ("/message/x", "/message/../queue", f"/message/{ID}/x", "/message/%00"):
            self.assertEqual(self.get(path).code, 404, path)

    def test_story(self) -> None:
        """Recipient by recipient, stage by stage."""
        answer = self.told(
            verdict("a@x.test", "envelope", "250 2.1.5 ok"),
            verdict("b@x.test", "content", "550 5.7.1 spam", why="rspamd: score 16", marked=None),
            verdict("c@x.test", "content", "250 2.1.5 ok", marked=True),
            end(),
            delivery("a@x.test", "retry", reply="451 4.4.1 away", tls="TLSv1.3"),
            delivery("a@x.test", "delivered"),
            {"event": "notice", "time": 1e9, "recipient": "b@x.test", "text": "it was told"},
        )
        for text in (
            "[rspamd: score 16]",
            "marked",
            "451 4.4.1 away TLSv1.3",
            "delivered",
            "it was told",
            "2.0 KiB",
            "1@c.test",
        ):
            self.assertIn(text, answer.text)

    def test_dialogue(self) -> None:
        """Who was told what, by each rung of the ladder."""
        events = [
            verdict("a@x.test", "envelope", "250 2.1.5 ok"),
            verdict("no@x.test", "envelope", "550 5.1.1 no"),
            verdict("m@x.test", "content", "250 member", alias="all@x.test"),
            verdict("b@x.test", "content", "550 5.7.1 spam"),
        ]
        lines = self.lines(self.told(*events, end("prdr")))
        self.assertEqual(lines[:2], ["EHLO c.test", "MAIL FROM:&lt;me@c.test&gt; PRDR"])
        self.assertEqual(
            lines[-4:],
            [
                "353 the recipients' replies follow",
                "250 2.1.5 ok (for &lt;a@x.test&gt;)",
                "550 5.7.1 spam (for &lt;b@x.test&gt;)",
                "250 2.6.0 taken",
            ],
        )
        lines = self.lines(self.told(*events, end("deferrals")))
        self.assertIn("352 decided after the data", lines)
        self.assertEqual(lines[-2], "550 5.7.1 spam (for &lt;b@x.test&gt;)")
        self.assertIn("353", lines[-3])
        lines = self.lines(self.told(*events, end("lmtp")))
        self.assertEqual(lines[0], "LHLO c.test")
        lines = self.lines(self.told(*events, end("mixed")))
        self.assertIn("DATA, or BDAT: 2.0 KiB", lines[-2])
        lines = self.lines(self.told(events[1], end("aborted", size=0, reply="gone")))
        self.assertEqual(lines[-2:], ["550 5.1.1 no", "gone"])

    def test_queue(self) -> None:
        """What only the spool knows: one that waits, and one that has gone."""
        spool = {
            "gone": False,
            "received": 1e9,
            "size": 99,
            "envelope": {"sender": HOSTILE},
            "recipients": [recipient(recipient=HOSTILE, reply=HOSTILE, due_seconds=-3.0)],
            "history": [
                {"seq": 0, "time": 1e9, "event": "retry", "reply": HOSTILE, "host": HOSTILE}
            ],
        }
        answer = self.harmless(self.told(**spool))
        self.assertIn("99 octets", answer.text)
        self.assertIn("retry", answer.text)
        self.harmless(self.told(**{**spool, "envelope": "(cannot be read)"}))
        answer = self.told(gone=True, history=spool["history"])
        self.assertIn("The spool", answer.text)
        self.assertNotIn("In the queue", answer.text)

    def test_hostile(self) -> None:
        """Whatever anybody says of a message."""
        one = verdict(HOSTILE, "content", HOSTILE, why=HOSTILE, cohort=HOSTILE)
        fields = ("client", "helo", "tls", "user", "sender", "messageId", "reply", "rung")
        sent = delivery(HOSTILE, HOSTILE, host=HOSTILE, reply=HOSTILE, cause=HOSTILE, tls=HOSTILE)
        other = {"event": HOSTILE, "time": 1e9, "recipient": HOSTILE, "text": HOSTILE}
        self.harmless(self.told(one, end(**dict.fromkeys(fields, HOSTILE)), sent, other))

    def test_bounds(self) -> None:
        """A thousand recipients make no endless page."""
        events = [verdict(f"{one}@x.test", "content", "250 ok") for one in range(1000)]
        answer = self.told(*events, end())
        self.assertEqual(answer.text.count("<h3>"), MAX_RECIPIENTS)
        self.assertIn("800 further recipients", answer.text)
        self.assertEqual(len(self.lines(answer)), MAX_LINES)
        self.answers["events"]["dropped"] = 7
        self.assertIn("7 of its events", self.get(f"/message/{ID}").text)

    def test_small(self) -> None:
        """An id is one in small letters, too."""
        self.told(end())
        self.assertEqual(self.get(f"/message/{ID.lower()}").code, 200)
