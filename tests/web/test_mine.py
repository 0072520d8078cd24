"""
The page behind a recipient's link.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import DeferralsError
from deferrals.model.admission import WARNING, AdmissionWish
from deferrals.model.json import JSON
from deferrals.model.link import SignedLink
from deferrals.web.asking import ServerSaid
from deferrals.web.mine import MOST_A_MINUTE, LinkParts, MinePages
from deferrals.web.site import siteOf
from tests.model.test_digest import HOSTILE
from tests.model.test_refusal import makeRefusal
from tests.web.test_site import Transport

KEY = bytes(range(32))
ANNA, BOB = "anna@example.net", "bob@example.net"


class FakeRecipients:
    """
    Two of them, each with a refusal of its own.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[JSON, ...]] = []
        self.kept = {ANNA: [makeRefusal(1)], BOB: [makeRefusal(2, BOB, sender="x@bob.example")]}
        self.error: Exception | None = None
        self.missing: dict[int, str] = {}

    def __call__(self, name: str, *args: JSON) -> Deferred[ServerSaid]:
        self.calls.append((name, *args))
        if self.error is not None:
            return fail(self.error)
        return succeed(ServerSaid(self.said(name, *args), self.missing))

    def said(self, name: str, *args: JSON) -> JSON:
        if self.missing:
            return None
        if name == "refusals":
            return [one.toJSON() for one in self.kept[str(args[0])]]
        recipient, wish = args[0], AdmissionWish.fromJSON(args[1])
        if all(one.id != wish.reference for one in self.kept[str(recipient)]):
            return None
        said: dict[str, JSON] = {"sender": "friend@example.org", "by": "dkim example.org"}
        return {**said, "once": wish.once, "how": wish.how, "warning": WARNING}

    @property
    def admitted(self) -> list[tuple[JSON, ...]]:
        return [one[1:] for one in self.calls if one[0] == "admit"]


class MineTests(SynchronousTestCase):
    """
    C{/mine/TOKEN}, over HTTP.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.recipients = FakeRecipients()
        self.mine = LinkParts(self.recipients, lambda: KEY, self.clock)
        hosts, pages = frozenset({"localhost"}), {b"mine": MinePages(self.mine)}
        self.site = siteOf(Deferred, "x", list, hosts, lambda: None, self.clock, pages)
        self.token = SignedLink(2000, ANNA).token(KEY)

    def ask(self, path: str, method: str = "GET", form: dict[str, str] | None = None) -> str:
        channel: Any = self.site.buildProtocol(None)
        transport = Transport()
        channel.makeConnection(transport)
        body = urlencode(form or {})
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(body)}",
            "",
            body,
        ]
        channel.dataReceived("\r\n".join(lines).encode())
        return transport.value().decode()

    def page(self, token: str | None = None) -> str:
        return self.ask(f"/mine/{token or self.token}")

    def csrf(self, token: str | None = None) -> str:
        found = re.search('name="csrf" value="([^"]+)"', self.page(token))
        assert found is not None
        return found[1]

    def admit(self, token: str | None = None, **form: str) -> str:
        said = {"n": makeRefusal(1).id, "for": "once", **form}
        return self.ask(f"/mine/{token or self.token}/admit", "POST", said)

    def test_root(self) -> None:
        """Below a path of the host the link, its form, and where that leads are all there."""
        pages = {b"mine": MinePages(self.mine)}
        hosts = frozenset({"localhost"})
        self.site = siteOf(Deferred, "x", list, hosts, lambda: None, self.clock, pages, "/mail")
        page = self.ask(f"/mail/mine/{self.token}")
        self.assertIn(f'action="/mail/mine/{self.token}/admit"', page)
        form = {"n": makeRefusal(1).id, "for": "once", "csrf": self.csrf()}
        for path in ("/mail/mine", "/mine"):  # as the proxy leaves it
            self.assertIn("is let in by", self.ask(f"{path}/{self.token}/admit", "POST", form))
        self.assertEqual(len(self.recipients.admitted), 2)

    def test_page(self) -> None:
        """It shows what was refused for the recipient, and who that is."""
        page = self.page()
        self.assertIn("HTTP/1.1 200", page)
        for what in (ANNA, "friend@example.org", "550 5.7.1 refused as spam", "192.0.2.7"):
            self.assertIn(what, page)

    def test_others(self) -> None:
        """Nothing of anyone else's: not of one who is there, nor the way to other pages."""
        page = self.page()
        self.assertNotIn("bob", page)
        self.assertNotIn("/queue", page)
        self.assertEqual([call[1] for call in self.recipients.calls], [ANNA])

    def test_headers(self) -> None:
        """What a browser may do with it, and that no one keeps it or hears of its address."""
        page = self.page().partition("\r\n\r\n")[0].lower()
        for line in (
            "referrer-policy: no-referrer",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "form-action 'self'",
        ):
            self.assertIn(line, page)

    def test_strangers(self) -> None:
        """
        Without a link, with one that is changed by an octet, too old, or another server's,
        there is one answer.
        """
        changed = self.token[:-3] + ("A" if self.token[-3] != "A" else "B") + self.token[-2:]
        old = SignedLink(1000, ANNA).token(KEY)
        foreign = SignedLink(2000, ANNA).token(bytes(32))
        answers = {
            self.page(one).rpartition("\r\nDate")[2].partition("\r\n")[2]
            for one in (changed, old, foreign, "x", "%00", "%ff%ff", "A" * 3000)
        }
        self.assertEqual(len(answers), 1)
        self.assertIn("opens nothing", answers.pop())
        for path in ("/mine", "/mine/", f"/mine/{self.token}/x", f"/mine/{self.token}/admit/x"):
            self.assertIn("HTTP/1.1 404", self.ask(path), path)
        self.assertEqual(self.recipients.calls, [])

    def test_aged(self) -> None:
        """A link that opens ends: its form, too."""
        csrf = self.csrf()
        self.clock.advance(1000.0)
        self.assertIn("HTTP/1.1 404", self.page())
        self.assertIn("HTTP/1.1 405", self.admit(csrf=csrf))
        self.assertEqual(self.recipients.admitted, [])

    def test_noKey(self) -> None:
        """Without a key nothing opens."""
        for error in (OSError("no"), ValueError("no")):

            def broken(error: Exception = error) -> bytes:
                raise error

            self.mine.key = broken
            self.assertIn("HTTP/1.1 404", self.page())

    def test_read(self) -> None:
        """To open it changes nothing, whatever the address says: scanners follow links."""
        for path in ("", "?n=ID00000000001&for=always", "/admit", "/admit?for=always"):
            self.ask(f"/mine/{self.token}{path}")
            self.ask(f"/mine/{self.token}{path}", "HEAD")
        self.assertEqual(self.recipients.admitted, [])
        self.assertIn("HTTP/1.1 405", self.ask(f"/mine/{self.token}/admit"))

    def test_admit(self) -> None:
        """A form of that page lets a sender in: once, or from now on."""
        csrf = self.csrf()
        for span in ("once", "always"):
            page = self.admit(csrf=csrf, **{"for": span})
            self.assertIn("HTTP/1.1 200", page)
            self.assertIn("is let in by dkim example.org", page)
            self.assertIn(WARNING, page)
        one = makeRefusal(1).id
        self.assertEqual(
            self.recipients.admitted,
            [(ANNA, AdmissionWish(one, once, how="link").toJSON()) for once in (True, False)],
        )

    def test_forged(self) -> None:
        """A form that is not that page's changes nothing: another link's, none, any."""
        other = self.csrf(SignedLink(2000, BOB).token(KEY))
        for csrf in ("", "x", other, self.csrf()[:-1]):
            self.assertIn("HTTP/1.1 400", self.admit(csrf=csrf), csrf)
        self.assertEqual(self.recipients.admitted, [])

    def test_otherRefusal(self) -> None:
        """What is another's cannot be admitted; nor what is not there, nor otherwise."""
        csrf = self.csrf()
        for form in ({"n": makeRefusal(2).id}, {"n": ""}, {"n": "\0"}, {"for": "ever"}):
            self.assertIn("HTTP/1.1 400", self.admit(csrf=csrf, **form), form)
        self.assertEqual({one[0] for one in self.recipients.admitted}, {ANNA})

    def test_away(self) -> None:
        """Where the server does not answer, the page says so."""
        self.recipients.error = DeferralsError("it does not answer")
        self.assertIn("HTTP/1.1 503", self.page())
        self.recipients.error, self.recipients.missing = None, {0: "does not answer"}
        self.assertIn("HTTP/1.1 503", self.page())

    def test_notKnown(self) -> None:
        """A sender that cannot be known is an answer, and no fault."""
        csrf = self.csrf()
        self.recipients.error = ValueError("it proved nothing")
        self.assertIn("HTTP/1.1 400", self.admit(csrf=csrf))

    def test_often(self) -> None:
        """
        A link that is asked for too often has to wait; so has an address that asks for what
        opens nothing, which keeps out no one who has a link.
        """
        for _ in range(MOST_A_MINUTE):
            self.assertIn("HTTP/1.1 404", self.page("x"))
        self.assertIn("HTTP/1.1 429", self.page("x"))
        for _ in range(MOST_A_MINUTE):
            self.assertIn("HTTP/1.1 200", self.page())
        self.assertIn("HTTP/1.1 429", self.page())
        self.assertIn("HTTP/1.1 200", self.page(SignedLink(2000, BOB).token(KEY)))
        self.clock.advance(61.0)
        self.assertIn("HTTP/1.1 200", self.page())

    def test_hostile(self) -> None:
        """Nothing that a sender says becomes a part of the page."""
        fields = dict.fromkeys(
            ("sender", "client", "hostname", "subject", "headerFrom", "reply"), HOSTILE
        )
        one = attrs.evolve(makeRefusal(1), **fields, admits=(HOSTILE,))
        self.recipients.kept[ANNA] = [one]
        page = self.page()
        self.assertIn("&lt;script&gt;", page)
        self.assertNotIn("<script>alert", page)
        self.assertNotIn("\u202e", page)
        self.recipients.kept[ANNA] = [makeRefusal(1, subject="s", headerFrom="f")]
        plain = self.page()
        self.assertEqual(page.count("<form"), plain.count("<form"))
        self.assertEqual(page.count("<input"), plain.count("<input"))
        self.recipients.kept[ANNA] = [makeRefusal(1, subject="&" * 400)]
        self.assertLess(self.page().count("&amp;"), 120, "senders say how long it is")
