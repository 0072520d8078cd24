"""
All pages, put together.
"""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from deferrals.model.web import PAGES as PATHS
from deferrals.web.assets import ASSETS
from tests.web.rig import ID, Answer, Logins, SiteCase, recipient

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

    def test_root(self) -> None:
        """
        Below a path of their host all ways have it, and those of a proxy that takes it off
        lead to the same page as those of one that does not.
        """
        self.operators, self.root = frozenset({"alice"}), "/mail/pages"
        self.answers["look"] = ([recipient()], None)
        self.login()
        for path in (*PAGES, "/login"):
            answer = self.get(path)
            ways = re.findall(
                r'(?:src|href|action|formaction|data-live-\w+)="(/[^"]*)"', answer.text
            )
            self.assertEqual([one for one in ways if not one.startswith("/mail/pages/")], [], path)
            self.assertEqual(self.get(f"/mail/pages{path}").text, answer.text)
            for way in {one for one in ways if "/static/" in one or "/queue?" in one}:
                self.assertEqual(self.get(way.replace("&amp;", "&")).code, 200, way)
        self.assertEqual(self.get("/mail/pages").text, self.get("/").text)
        self.assertEqual(self.get("/mail/pagesqueue").code, 404)
        self.assertEqual(self.get("/mail/queue").code, 404)

    def test_rootOfScripts(self) -> None:
        """What scripts and styles lead to they have from the page, which knows its root."""
        for name, (content, _) in ASSETS.files.items():
            if not name.endswith(".svg"):
                self.assertEqual(re.findall(rb"[\"'(]/[a-z]\w*", content), [], name)
        text = self.get("/").text
        self.assertIn('data-live-source="/events"', text)
        self.assertIn('data-live-message="/message/"', text)

    def test_rootElsewhere(self) -> None:
        """A login below a path: where it leads, and where its cookie counts."""
        self.root, self.users = "/mail", Logins(alice="secret")
        self.build()
        for path in ("/queue?status=held", "/mail/queue?status=held"):
            to = self.get(path).headers["location"]
            self.assertEqual(to, "/mail/login?to=%2Fqueue%3Fstatus%3Dheld")
        self.assertIn('action="/mail/login"', self.get(to).text)
        answer = self.login()
        self.assertEqual(answer.headers["location"], "/mail/queue")
        self.assertIn("Path=/mail;", answer.headers["set-cookie"])
        self.assertEqual(self.get("/mail/queue").code, 200)
        # Browsers send those of shorter ways, too, behind it.
        self.cookie += "; deferrals=of-before"
        self.assertEqual(self.get("/mail/queue").code, 200)

    def test_names(self) -> None:
        """A path that the pages may be below begins as none of them."""
        there = {one.decode() for one in self.site.resource.children} - {""}
        self.assertEqual(there | {"mine"}, set(PATHS))

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
