"""
What the server does now.
"""

from __future__ import annotations

from typing import Any

from deferrals.errors import DeferralsError
from deferrals.model.events import happened
from deferrals.web.now import liveTexts
from tests.web.rig import HOSTILE, ID, SiteCase


class NowTests(SiteCase):
    """
    C{/}.
    """

    def test_empty(self) -> None:
        """A server that has done nothing yet."""
        answer = self.get("/")
        self.assertEqual(answer.code, 200)
        for text in ("Mail is taken.", "Nothing within the last hour", "None."):
            self.assertIn(text, answer.text)

    def test_headers(self) -> None:
        """What a browser may do with it is little."""
        headers = self.get("/").headers
        self.assertEqual(
            headers["content-security-policy"],
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
            " connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        )
        self.assertEqual(headers["x-content-type-options"], "nosniff")
        self.assertEqual(headers["referrer-policy"], "no-referrer")
        self.assertEqual(headers["cache-control"], "no-store")

    def test_counts(self) -> None:
        """The funnel, the ladder and the waits are those of the counters."""
        self.looks.start()
        self.addCleanup(self.looks.stop)
        base: dict[str, Any] = {"cohort": "strict/1", "milliseconds": 4.0}
        for stage, reply, count in (("content", "550 no", 3), ("envelope", "250 ok", 5)):
            for _ in range(count):
                happened(self.status, "recipient", {**base, "stage": stage, "reply": reply})
        happened(self.status, "transaction", {"rung": "prdr", "answered": 20.0})
        happened(self.status, "delivery", {"use": "mx", "outcome": "delivered", "seconds": 1.0})
        text = self.get("/").text
        for part in (
            'Content: refused</span></div></td><td role="cell" data-label="minute"><div>'
            '<span class="number">3</span>',
            'Recipients answered</span></div></td><td role="cell" data-label="minute"><div>'
            '<span class="number">8</span>',
            "100.0 %",
            "25 ms",
            "5 ms",
        ):
            self.assertIn(part, text)

    def test_troubles(self) -> None:
        """Why no mail is taken, what rests, where mail cannot go, and who is away."""
        self.missing = {1: "does not answer"}
        worker = {"seconds": 5.0, "pid": 7, "restarts": 2}
        self.answers["status"].update(
            reasons=["spool"],
            ready=False,
            parts={
                f"rspamd {HOSTILE}": {"state": "resting", "last_error": HOSTILE, "under_way": 2},
                "destinations": {
                    HOSTILE: {
                        "failures": 3,
                        "seconds": 60,
                        "reply": HOSTILE,
                        "host": HOSTILE,
                        "cause": HOSTILE,
                    }
                },
                "next hops": {"state": "x"},
            },
            workers=[
                {**worker, "worker": 0, "state": "running"},
                {**worker, "worker": 1, "state": "running"},
                {**worker, "worker": 2, "state": "stopped"},
            ],
        )
        answer = self.harmless(self.get("/"))
        for text in (
            "the spool cannot be written",
            "resting",
            "Worker 1 does not answer",
            "stopped",
        ):
            self.assertIn(text, answer.text)
        self.assertIn("destination=%22%27%3E%3C", answer.text)

    def test_recent(self) -> None:
        """The last transactions, whatever a client says of itself."""
        one = dict.fromkeys(("client", "sender", "reply"), HOSTILE)
        self.answers["recent"] = [
            {"time": 1e9, "transaction": ID, "accepted": 1, "recipients": 2, **one}
        ]
        answer = self.harmless(self.get("/"))
        self.assertIn(f'href="/message/{ID}"', answer.text)

    def test_starting(self) -> None:
        """Before it answers."""
        self.answers["status"] = DeferralsError("it starts")
        answer = self.get("/")
        self.assertEqual(answer.code, 503)
        self.assertIn("it starts", answer.text)

    def test_else(self) -> None:
        """What is not there."""
        for path in ("/x", "//", "/index.html", "/static", "/static/", "/message", "/message/"):
            self.assertEqual(self.get(path).code, 404, path)
        self.assertEqual(self.get("/", "HEAD").text, "")
        self.assertEqual(self.post("/", {}).code, 405)
        self.assertEqual(self.get("/", host="evil.test").code, 421)

    def test_live(self) -> None:
        """What a script puts into the page."""
        found = liveTexts({"reasons": [], "rates": {"accepted": 2.5}})
        self.assertEqual((found["accepted"], found["refused"]), ("2.5", "0"))
