"""
What is searched for.
"""

from __future__ import annotations

from deferrals.model.selection import Selection
from deferrals.web.searchpage import LOOKS, MOST
from tests.web.rig import HOSTILE, ID, SiteCase, recipient


class SearchTests(SiteCase):
    """
    C{/search}.
    """

    def test_nothing(self) -> None:
        """An empty form asks for nothing."""
        for path in ("/search", "/search?q=", "/search?q=%20"):
            self.assertEqual(self.get(path).code, 200)
        self.assertEqual(self.asked, [])

    def test_id(self) -> None:
        """An id leads to its message."""
        self.assertEqual(self.get(f"/search?q={ID.lower()}").headers["location"], f"/message/{ID}")

    def test_found(self) -> None:
        """What happened lately, and what waits: each once."""
        self.answers["find"] = [
            {"time": 1e9, "transaction": ID, "recipient": "you@x.test", "reply": "550 no"},
            {"time": 1e9, "transaction": ID, "sender": "me@c.test", "text": "late"},
        ]
        self.answers["look"] = ([recipient()], None)
        text = self.get("/search?q=%3Cme@c.test%3E").text
        for part in ("550 no", "late", "me@client.test"):
            self.assertIn(part, text)
        self.assertEqual(text.count("you@example.net"), 1)
        self.assertEqual(
            [one[1] for one in self.asked if one[0] == "look"],
            [Selection(sender="me@c.test").toJSON(), Selection(recipient="me@c.test").toJSON()],
        )

    def test_subject(self) -> None:
        """What was refused, by words of its Subject."""
        self.assertNotIn("by Subject", self.get("/search?q=a+prize").text)
        one = dict.fromkeys(("sender", "recipient", "reply"), "x")
        self.answers["about"] = [{"time": 1e9, "id": ID, "subject": "A prize", **one}]
        page = self.get("/search?q=a+prize").text
        self.assertIn("A prize", page)
        self.assertIn(f"/message/{ID}", page)
        self.assertEqual(
            [one[1:] for one in self.asked if one[0] == "about"], [("a prize", MOST)] * 2
        )

    def test_domain(self) -> None:
        """A domain, and what would be a pattern."""
        self.get("/search?q=@c.test")
        self.get("/search?q=*[?@c.test")
        found = [one[1] for one in self.asked if one[0] == "look"]
        self.assertEqual(found[0], Selection(sender="*@c.test").toJSON())
        self.assertEqual(found[2], Selection(sender="[*][[][?]@c.test").toJSON())

    def test_bounds(self) -> None:
        """A long queue is looked through in part."""
        rows = [recipient(seq=one) for one in range(MOST)]
        self.answers["look"] = ([], [1, 0])
        self.assertIn("There may be more", self.get("/search?q=x@c.test").text)
        self.assertEqual(len([one for one in self.asked if one[0] == "look"]), 2 * LOOKS)
        self.answers["look"] = (rows, [1, 0])
        self.assertEqual(self.get("/search?q=x@c.test").text.count("/message/"), MOST)

    def test_hostile(self) -> None:
        """Whatever is sought, and found."""
        one = dict.fromkeys(("sender", "recipient", "reply", "text"), HOSTILE)
        self.answers["find"] = [{"time": 1e9, "transaction": ID, **one}]
        self.answers["look"] = ([recipient(sender=HOSTILE, recipient=HOSTILE)], None)
        self.answers["about"] = [{"time": 1e9, "id": ID, "subject": HOSTILE, **one}]
        self.harmless(self.get("/search?q=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E"))
