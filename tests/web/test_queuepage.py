"""
The queue, and what operators do with it.
"""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from deferrals.errors import SpoolError
from deferrals.model.json import asObject
from deferrals.model.selection import Selection
from deferrals.web.answers import BadRequest
from deferrals.web.queuepage import (
    CHANGE_SECONDS,
    LOOKS,
    MAX_WAITING,
    ROWS,
    cursorText,
    readCursor,
    selectionText,
)
from tests.web.rig import HOSTILE, ID, Answer, SiteCase, recipient

CURSORS = st.none() | st.lists(st.integers(-1, 1 << 60), min_size=2, max_size=2)


class QueueTests(SiteCase):
    """
    C{/queue}.
    """

    def test_empty(self) -> None:
        """Nothing waits."""
        self.answers["numbers"].update(messages=0, deliveries=[])
        self.assertIn("The queue is empty", self.get("/queue").text)

    def test_rows(self) -> None:
        """Each with its age, its destination, and what was said last."""
        self.answers["look"] = ([recipient(), recipient(status="stuck", destination="")], None)
        text = self.get("/queue").text
        for part in ("2 h", "in 60 s", "stuck", "2x: mx1.example.net 451 4.4.1 away", "held"):
            self.assertIn(part, text)
        self.assertIn('href="/queue?destination=example.net"', text)
        self.assertNotIn("checkbox", text)  # no one here may change anything

    def test_destinations(self) -> None:
        """By where they go; the link finds them, whatever there is in a name."""
        self.answers["numbers"]["destinations"] = [
            {"destination": "smtp tcp:[::1]:25", "recipients": 1234, "oldest_seconds": 9000.0},
            {"destination": "", "recipients": 5, "oldest_seconds": 1.0},
        ]
        answer = self.get("/queue")
        for part in ("by destination", "1,234", "not known yet"):
            self.assertIn(part, answer.text)
        path = re.search(r'href="(/queue\?destination=[^"]*)"', answer.text)
        assert path is not None
        self.asked.clear()
        self.get(path[1])
        asked = next(one for one in self.asked if one[0] == "look")
        selection = Selection.fromJSON(asObject(asked[1]))
        self.assertTrue(selection.matches(recipient(destination="smtp tcp:[::1]:25")))
        self.assertFalse(selection.matches(recipient(destination="smtp tcp::25")))

    def test_hostile(self) -> None:
        """Whatever stands in the queue, and in the filter."""
        fields = ("sender", "recipient", "destination", "reply", "host", "delivery")
        self.answers["look"] = ([recipient(**dict.fromkeys(fields, HOSTILE))], None)
        self.answers["numbers"]["deliveries"][0]["delivery"] = HOSTILE
        self.answers["numbers"]["destinations"] = [
            {"destination": HOSTILE, "recipients": 1, "oldest_seconds": 1.0}
        ]
        self.login_()
        self.harmless(self.get("/queue"))
        sought = "%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E"
        for name in ("from", "to", "destination"):
            self.harmless(self.get(f"/queue?{name}={sought}"))

    def login_(self) -> None:
        self.operators = frozenset({"alice"})
        self.assertEqual(self.login().code, 303)

    def test_filters(self) -> None:
        """They are those of the command line."""
        self.get("/queue?from=*@c.test&to=x&destination=d&status=held&older=2h&newer=90&after=")
        asked = next(one for one in self.asked if one[0] == "look")
        selection = Selection((), "*@c.test", "x", "d", "held", 7200.0, 90.0)
        self.assertEqual(asked[1:], (selection.toJSON(), ROWS, None))
        self.asked.clear()
        self.get("/queue?from=%3C%3E&to=")
        asked = next(one for one in self.asked if one[0] == "look")
        self.assertEqual(asked[1], Selection(sender="").toJSON())
        for wrong in (
            "status=x",
            "older=soon",
            "after=x",
            "newer=-1",
            "to=%ff",
            f"to={'x' * 1500}",
        ):
            self.assertEqual(self.get(f"/queue?{wrong}").code, 400, wrong)

    def test_pages(self) -> None:
        """A page is bounded, however much there is; and so is what is looked through for it."""
        rows = [recipient() for _ in range(ROWS)]
        self.answers["look"] = lambda selection, limit, after: (rows[:limit], [7, 0])
        text = self.get("/queue?to=x").text
        self.assertEqual(text.count("/message/"), ROWS)
        found = re.search(r'href="(/queue\?to=x&amp;after=[^"]*)"', text)
        assert found is not None
        self.asked.clear()
        further = self.get(found[1].replace("&amp;", "&"))
        asked = next(one for one in self.asked if one[0] == "look")
        self.assertEqual(asked[3], [7, 0])
        self.assertIn("To the beginning", further.text)
        self.answers["look"] = ([], [7, 0])
        self.asked.clear()
        self.assertIn("further on", self.get("/queue?to=x").text)
        self.assertEqual(len([one for one in self.asked if one[0] == "look"]), LOOKS)

    def test_missing(self) -> None:
        """A worker that does not answer is named."""
        self.missing = {3: "does not answer"}
        self.assertIn("Worker 3 does not answer", self.get("/queue").text)

    @given(CURSORS | st.dictionaries(st.integers(0, 9).map(str), CURSORS, max_size=5))
    def test_cursor(self, after: Any) -> None:
        """Where a page has ended can be read again."""
        self.assertEqual(readCursor(cursorText(after)), after)

    @given(st.text() | st.from_regex(r"[A-Za-z0-9_-]*"))
    def test_noCursor(self, text: str) -> None:
        """What is none is refused, and harms nothing."""
        try:
            readCursor(text)
        except BadRequest:
            return

    def test_wrongCursors(self) -> None:
        """What only looks like one."""
        wrong: tuple[Any, ...] = ("x", [1], [1, 2, 3], [1.5, 2], [True, 1], {"x": None}, [[]], 7)
        for one in (*wrong, [1 << 70, 0], {"1": "x"}):
            self.assertRaises(BadRequest, readCursor, cursorText(one))
        self.assertRaises(BadRequest, readCursor, "x" * 10**4)


class ChangeTests(SiteCase):
    """
    C{/queue/VERB}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.operators = frozenset({"alice"})
        self.answers["look"] = ([recipient()], None)

    def change(self, verb: str = "hold", **fields: Any) -> Answer:
        csrf = self.get("/queue").csrf
        return self.post(f"/queue/{verb}", {"csrf": csrf, "id": ID, **fields})

    def test_change(self) -> None:
        """An operator's form; the log says who, and what has come of it."""
        self.login()
        for verb in ("retry", "hold", "release", "remove"):
            with capturedLogs() as events:
                answer = self.change(verb)
            self.assertEqual(answer.code, 303)
            self.assertEqual(answer.headers["location"], f"/queue?did={verb}&count=2")
            (event,) = [one for one in events if one.get("event") == "operator"]
            self.assertEqual(
                [event[key] for key in ("user", "action", "recipients", "outcome", "client")],
                ["alice", verb, 2, "done", "192.0.2.7"],
            )
            self.assertIn(ID, event["selection"])
            self.assertEqual(self.asked[-1], ("change", verb, Selection((ID,)).toJSON(), None))
            self.assertIn("2 recipients", self.get(answer.headers["location"]).text)
        self.assertEqual(self.status.counted("events", "operator"), 4)

    def test_others(self) -> None:
        """No one else, and no other site."""
        self.login("bob", "other")
        csrf = self.get("/queue").csrf
        said = {"csrf": csrf, "id": ID}
        self.assertEqual(self.post("/queue/hold", said).code, 403)
        self.assertNotIn("formaction", self.get("/queue").text)
        self.cookie = ""
        self.assertEqual(self.post("/queue/hold", said).code, 403)
        self.login()
        self.assertEqual(self.post("/queue/hold", said).code, 400)  # bob's
        csrf = self.get("/queue").csrf
        said = {"csrf": csrf, "id": ID}
        self.assertEqual(self.post("/queue/hold", said, origin="http://evil.test").code, 400)
        self.assertEqual(self.get("/queue/hold").code, 405)
        for path in ("/queue/burn", "/queue/hold/x"):
            self.assertEqual((self.post(path, said).code, self.get(path).code), (405, 404))
        self.assertEqual([one for one in self.asked if one[0] == "change"], [])

    def test_whole(self) -> None:
        """All that a filter finds; never everything."""
        self.login()
        self.change(all="yes", to="*@example.net")
        self.assertEqual(self.asked[-1][2], Selection(recipient="*@example.net").toJSON())
        self.asked.clear()
        for fields in ({"all": "yes"}, {"id": []}, {"id": "x"}, {"id": "", "to": "x"}):
            self.assertEqual(self.change(**fields).code, 400, fields)
        self.assertEqual([one for one in self.asked if one[0] == "change"], [])

    def test_parts(self) -> None:
        """A large one is made in parts, and added up."""
        self.login()
        parts = [(2, 1, [5, 0]), (3, 0, None)]
        self.answers["change"] = lambda *args: parts.pop(0)
        answer = self.change()
        self.assertEqual(answer.headers["location"], "/queue?did=hold&count=5&active=1")
        self.assertIn("being delivered now", self.get(answer.headers["location"]).text)

    def test_missing(self) -> None:
        """Of workers that did not answer nothing was changed, and that is said."""
        self.login()
        csrf = self.get("/queue").csrf
        self.missing = {1: "does not answer"}
        answer = self.post("/queue/hold", {"csrf": csrf, "id": ID})
        self.assertIn("missing=1", answer.headers["location"])
        self.assertIn("1 workers did not answer", self.get(answer.headers["location"]).text)

    def test_late(self) -> None:
        """One that takes long goes on; the next one waits for it; too many are refused."""
        self.login()
        slow: Deferred[Any] = Deferred()
        self.answers["change"] = lambda *args: slow
        csrf = self.get("/queue").csrf
        body = f"csrf={csrf}&id={ID}"
        _, transport = self.send("/queue/hold", "POST", body)
        self.clock.advance(CHANGE_SECONDS)
        answer = Answer(transport.value())
        self.assertEqual(answer.headers["location"], "/queue?did=hold&count=later")
        self.assertIn("goes on", self.get(answer.headers["location"]).text)
        waiting = [self.send("/queue/hold", "POST", body) for _ in range(MAX_WAITING)]
        self.assertEqual(self.post("/queue/hold", {"csrf": csrf, "id": ID}).code, 503)
        with capturedLogs() as events:
            self.answers["change"] = (1, 0, None)
            slow.callback((4, 0, None))
        counts = [one["recipients"] for one in events if one.get("event") == "operator"]
        self.assertEqual(counts, [4] + [1] * MAX_WAITING)
        self.assertTrue(all(b"303 See" in one.value() for _, one in waiting))

    def test_failed(self) -> None:
        """One that fails is in the log, too."""
        self.login()
        self.answers["change"] = SpoolError("the disk is gone")
        with capturedLogs() as events:
            self.assertEqual(self.change().code, 503)
        (event,) = [one for one in events if one.get("event") == "operator"]
        self.assertEqual((event["outcome"], event["recipients"]), ("failed", 0))
        slow: Deferred[Any] = Deferred()
        self.answers["change"] = lambda *args: slow
        csrf = self.get("/queue").csrf
        self.send("/queue/hold", "POST", f"csrf={csrf}&id={ID}")
        self.clock.advance(CHANGE_SECONDS)
        with capturedLogs() as events:
            slow.errback(SpoolError("the disk is gone"))
        self.assertIn("has failed", [one["log_format"] for one in events][-1])

    def test_gone(self) -> None:
        """An operator whose browser has gone: what was begun goes on."""
        self.login()
        slow: Deferred[Any] = Deferred()
        self.answers["change"] = lambda *args: slow
        csrf = self.get("/queue").csrf
        channel, _ = self.send("/queue/hold", "POST", f"csrf={csrf}&id={ID}")
        channel.connectionLost()
        with capturedLogs() as events:
            slow.callback((4, 0, None))
        self.assertEqual([one["outcome"] for one in events if "outcome" in one], ["done"])

    def test_selectionText(self) -> None:
        """A selection for the log."""
        self.assertEqual(selectionText(Selection(("A", "B"), sender="")), "ids=A B sender=")
        self.assertLessEqual(len(selectionText(Selection(("A" * 13,) * 500))), 1000)
