"""
What all pages look like.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.template import Flattenable, flattenString, tags

from deferrals.web.layout import (
    Viewer,
    choice,
    document,
    facts,
    field,
    moment,
    octets,
    rooted,
    shown,
    span,
    table,
)

HOSTILE = "\"'><img src=x onerror=alert(1)>&amp;\u202e\x1b"


class LayoutTests(SynchronousTestCase):
    """
    The parts of pages.
    """

    def flat(self, content: Flattenable) -> str:
        return self.successResultOf(flattenString(None, content)).decode()

    def test_document(self) -> None:
        """Landmarks, a language, one heading; ways only for those who may go them."""
        text = self.flat(document("Queue", tags.p("x"), Viewer("alice", csrf="c"), "/queue"))
        for part in ('lang="en"', "<main ", "<nav ", "<header>", "<h1>Queue</h1>"):
            self.assertEqual(text.count(part), 1, part)
        self.assertIn('<a href="/queue" aria-current="page">', text)
        self.assertIn('action="/logout"', text)
        for viewer in (None, Viewer()):
            text = self.flat(document("Queue", "", viewer))
            self.assertEqual("<nav" in text, viewer is not None)
            self.assertNotIn("/logout", text)

    def test_rooted(self) -> None:
        """Ways to pages get the root wherever they stand; text, and ways elsewhere, do not."""

        def way(href: str) -> Flattenable:
            return tags.a('href="/text"', href=href)

        made = [way("/a"), (one for one in (way("/b"), way("#c"))), ("x", [way("https://x/d")])]
        text = self.flat(rooted(tags.p(made, class_="/e"), "/mail"))
        for part in ('"/mail/a"', '"/mail/b"', '"#c"', '"https://x/d"', 'class="/e"', '="/text"'):
            self.assertIn(part, text)
        text = self.flat(document("Queue", tags.p("x"), Viewer("alice", csrf="c"), "/queue", "/m"))
        self.assertIn('<a href="/m/queue" aria-current="page">', text)

    def test_hostile(self) -> None:
        """Wherever it stands, what comes from outside is text."""
        made = [
            table(HOSTILE, [HOSTILE], [[shown(HOSTILE)], [HOSTILE]]),
            facts([(HOSTILE, shown(HOSTILE))]),
            field(HOSTILE, "x", HOSTILE),
            choice(HOSTILE, "x", [(HOSTILE, HOSTILE)], HOSTILE),
            document(HOSTILE, shown(HOSTILE), Viewer(HOSTILE, csrf=HOSTILE)),
        ]
        for one in made:
            text = self.flat(one)
            self.assertNotIn("<img", text)
            self.assertNotIn("\"'>", text)
        self.assertNotIn("\u202e", self.flat(shown(HOSTILE)))
        self.assertNotIn("\x1b", self.flat(shown(HOSTILE)))
        self.assertLess(len(self.flat(shown("x" * 10**6))), 1100)

    def test_table(self) -> None:
        """Heads say of what they are; without rows there is a sentence, or what a script fills."""
        text = self.flat(table("Two", ["a", "b"], [["1", "2"]]))
        self.assertEqual(text.count('scope="col"'), 2)
        self.assertIn('data-label="b"', text)
        self.assertIn("None here", self.flat(table("Two", ["a"], [], "None here")))
        self.assertIn("data-live-rows", self.flat(table("Two", ["a"], [], live="x")))

    def test_labels(self) -> None:
        """Each field has a label of its own."""
        text = self.flat([field("Name", "user"), choice("Kind", "kind", [("a", "A")], "a")])
        for name in ("user", "kind"):
            self.assertIn(f'for="f-{name}"', text)
            self.assertIn(f'id="f-{name}"', text)
        self.assertIn('selected="selected"', text)

    def test_amounts(self) -> None:
        """Times and sizes, for people."""
        self.assertEqual(
            [span(one) for one in (-1, 90, 7200, 200000)], ["0 s", "90 s", "2 h", "2 d"]
        )
        self.assertEqual(
            [octets(one) for one in (5, 2048, 3 << 20)], ["5 octets", "2.0 KiB", "3.0 MiB"]
        )
        self.assertIn("datetime=", self.flat(moment(0)))
        self.assertIn("at no time", self.flat(moment(1e300)))
