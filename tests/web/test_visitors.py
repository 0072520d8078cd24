"""
Who looks at the pages.
"""

from __future__ import annotations

from twisted.logger import capturedLogs

from deferrals.errors import TooManyFailures
from deferrals.web.visitors import MAX_SESSIONS, SESSION_SECONDS, Sessions, ownPath
from tests.web.rig import Logins, SiteCase

PAGES = ("/", "/queue", "/message/1M8MZTAC60041", "/search?q=x", "/policy", "/policy/open")


class VisitorTests(SiteCase):
    """
    L{Visitors<deferrals.web.visitors.Visitors>}, and the pages to log in and out.
    """

    def test_nobody(self) -> None:
        """Without users all may look, and no one may change anything."""
        for path in PAGES:
            self.assertIn(self.get(path).code, (200, 404), path)
        self.assertEqual(self.get("/login").headers["location"], "/")
        answer = self.post("/queue/hold", {"csrf": "", "id": "1M8MZTAC60041"})
        self.assertEqual(answer.code, 403)

    def test_stranger(self) -> None:
        """With users, a stranger is shown nothing, and led to the login."""
        self.users = Logins(alice="secret")
        self.build()
        for cookie in ("", "x", "é" * 50):
            self.cookie = cookie
            for path in PAGES:
                answer = self.get(path)
                self.assertEqual(answer.code, 303, path)
                self.assertTrue(answer.headers["location"].startswith("/login?to=%2F"), path)
            self.assertEqual(self.get("/events").code, 401)
        self.assertEqual(self.asked, [])
        for path in ("/login", "/healthz", "/readyz"):
            self.assertEqual(self.get(path).code, 200)

    def test_names(self) -> None:
        """A stranger does not learn what there is: what is not there is answered alike."""
        paths = ("/policy/gone", "/policy/a/b", "/message/x", "/message", "/gone", "/queue/gone")
        for path in paths:
            answer = self.get(path)
            self.assertEqual(answer.code, 404, path)
            self.assertIn("<h1>Not here</h1>", answer.text)
            self.assertIn('href="/queue"', answer.text)
        self.users = Logins(alice="secret")
        self.build()
        for path in paths:
            answer = self.get(path)
            self.assertEqual(answer.code, 303, path)
            self.assertTrue(answer.headers["location"].startswith("/login?to=%2F"), path)

    def test_login(self) -> None:
        """A cookie that scripts and other sites do not get; and where one wanted to go."""
        with capturedLogs() as events:
            answer = self.login()
        self.assertEqual((answer.code, answer.headers["location"]), (303, "/queue"))
        cookie = answer.headers["set-cookie"]
        for part in ("HttpOnly", "SameSite=strict", "Path=/"):
            self.assertIn(part.lower(), cookie.lower())
        self.assertNotIn("Secure", cookie)
        (event,) = [one for one in events if one.get("event") == "authentication"]
        self.assertEqual(
            [event[key] for key in ("client", "outcome", "user", "mechanism")],
            ["192.0.2.7", "accepted", "alice", "web"],
        )
        self.assertEqual(self.status.counted("authentications", "accepted"), 1)
        self.assertEqual(self.get("/queue").code, 200)
        self.assertIn("alice", self.get("/").text)

    def test_secure(self) -> None:
        """Under TLS the cookie does not go over anything else."""
        self.isSecure = True
        self.assertIn("Secure", self.login().headers["set-cookie"])

    def test_wrong(self) -> None:
        """A wrong password is told, logged, and lets nobody in."""
        for user, password in (("alice", "wrong"), ("<b>", ""), ("", "")):
            answer = self.login(user, password)
            self.assertEqual(answer.code, 403)
            self.assertIn("not the password", answer.text)
            self.assertNotIn("<b>", answer.text)
        self.assertEqual(self.status.counted("authentications", "failed"), 3)
        self.assertEqual(self.cookie, "")

    def test_throttled(self) -> None:
        """Who guesses is told to wait."""
        self.users = Logins(alice="secret")
        self.users.error = TooManyFailures(limit="auth_address_failures")
        self.build()
        self.assertEqual(self.login().code, 429)
        self.assertEqual(self.status.counted("limits", "auth_address_failures"), 1)
        self.users.error = ValueError("the file is broken")
        self.assertEqual(self.login().code, 500)
        self.assertEqual(self.status.counted("authentications", "not possible"), 1)
        self.flushLoggedErrors(ValueError)

    def test_otherSite(self) -> None:
        """Another site cannot log anybody in."""
        self.users = Logins(alice="secret")
        self.build()
        said = {"user": "alice", "password": "secret"}
        for headers in ({"origin": "http://evil.test"}, {"sec_fetch_site": "cross-site"}):
            self.assertEqual(self.post("/login", said, **headers).code, 400)
        self.assertEqual(self.users.addresses, [])

    def test_logout(self) -> None:
        """It ends with a form of ours, and the cookie is worth nothing then."""
        self.login()
        before = self.cookie
        self.assertEqual(self.post("/logout", {"csrf": "x"}).code, 400)
        self.assertEqual(self.get("/").code, 200)
        csrf = self.get("/").csrf
        self.assertEqual(self.post("/logout", {"csrf": csrf}).code, 303)
        self.assertEqual(self.cookie, "")
        self.cookie = before
        self.assertEqual(self.get("/").code, 303)
        self.assertEqual(self.get("/logout").code, 405)

    def test_ends(self) -> None:
        """A login ends by itself, with the user, and with the password."""
        assert self.users is None
        self.login()
        users = self.users
        assert isinstance(users, Logins)
        self.clock.advance(SESSION_SECONDS - 1)
        self.assertEqual(self.get("/").code, 200)
        self.clock.advance(1)
        self.assertEqual(self.get("/").code, 303)
        for change in ({"alice": "new"}, {}):
            users.passwords = {"alice": "secret"}
            self.login()
            self.assertEqual(self.get("/").code, 200)
            users.passwords = change
            self.assertEqual(self.get("/").code, 303)

    def test_reload(self) -> None:
        """Another configuration: who is a user still stays; the others have to log in."""
        self.login()
        self.users = Logins(alice="secret", carol="x")
        self.build()
        self.assertEqual(self.get("/").code, 200)
        self.users = Logins(carol="x")
        self.build()
        self.assertEqual(self.get("/").code, 303)

    def test_many(self) -> None:
        """There are so many logins; the oldest goes first."""
        sessions = Sessions(self.clock)
        tokens = [sessions.begin("a", "s") for _ in range(MAX_SESSIONS + 1)]
        self.assertIsNone(sessions.find(tokens[0]))
        self.assertIsNotNone(sessions.find(tokens[1]))

    def test_ownPath(self) -> None:
        """A login leads to us, and nowhere else."""
        for text in ("/queue?to=a%40b", "/"):
            self.assertEqual(ownPath(text), text)
        for text in ("//evil.test", "http://evil.test", "", "/\\evil.test", "/\r\nX: y", "/é", "x"):
            self.assertEqual(ownPath(text), "/")
