"""
All pages, put together.
"""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.web.rig import ID, Answer, SiteCase, recipient

PIECES = st.sampled_from(
    [
        *(
            "queue",
            "message",
            ID,
            "search",
            "policy",
            "strict",
            "login",
            "logout",
            "static",
            "events",
        ),
        *("/", "//", "..", "%2e", "%00", "%ff", "%", "?", "&", "=", ";", "#", "é", "+", "\\"),
        *("at=", "q=", "to=", "from=", "after=", "status=", "older=", "id=", "all=yes", "csrf="),
        *("1e9", "-1", "nan", "1d", "WzEsMl0", "[", "*", "<>", "hold", "remove", "user=", "a@b.c"),
    ]
)

PAGES = ("/", "/queue", f"/message/{ID}", "/search?q=x", "/policy", "/policy/strict")


class PagesTests(SiteCase):
    """
    L{pagesOf<deferrals.web.pages.pagesOf>}.
    """

    def test_own(self) -> None:
        """Nothing of any page comes from elsewhere, or is written into it as style or script."""
        self.operators = frozenset({"alice"})
        self.answers["look"] = ([recipient()], None)
        self.login()
        for path in (*PAGES, "/login"):
            text = self.get(path).text
            for where in re.findall(r'(?:src|href|action|formaction)="([^"]*)"', text):
                self.assertTrue(
                    (where.startswith("/") and where[1:2] != "/") or where[0] == "#", where
                )
            self.assertIsNone(re.search(r"<style|\sstyle=|<script[^>]*>[^<]|\son\w+=", text), path)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(PIECES, max_size=8).map("".join), st.sampled_from(["GET", "HEAD", "POST", "X"]))
    def test_nonsense(self, path: str, method: str) -> None:
        """Whatever is asked for, however it is written: an answer, and no fault of ours."""
        self.answers["look"] = ([recipient()], None)
        body = path.partition("?")[2] if method == "POST" else ""
        _, transport = self.send(f"/{path}", method, body)
        self.assertLess(Answer(transport.value()).code, 500)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_labels(self) -> None:
        """Each field has a label, and no two things have one name."""
        self.operators = frozenset({"alice"})
        self.answers["look"] = ([recipient()], None)
        self.login()
        for path in PAGES:
            text = self.get(path).text
            ids = re.findall(r'\sid="([^"]*)"', text)
            self.assertEqual(len(ids), len(set(ids)), path)
            for one in re.findall(r"<(?:input|select)[^>]*>", text):
                if 'type="hidden"' not in one and "aria-label" not in one:
                    name = re.search(r'id="([^"]*)"', one)
                    assert name is not None, one
                    self.assertIn(f'for="{name[1]}"', text)
