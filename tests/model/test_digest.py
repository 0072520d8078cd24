"""
What a recipient is told.
"""

from __future__ import annotations

import datetime
import email
import email.policy
import os
import time
from string import Template

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.digest import MOST_CHARACTERS, MOST_ENTRIES, Digest, Templates, dueBefore
from deferrals.model.refusal import SHOWN, Refusal
from tests.model.test_refusal import makeRefusal
from tests.work import linesRun

HOSTILE = (
    "<script>alert(1)</script>\" onload='x' $link ${entries} %s {0} \u202e\r\nBcc: x@y.example"
)


def make(*refusals: Refusal, address: str = "anna@example.net", **more: object) -> Digest:
    said: dict[str, object] = {"hostname": "mx.example.net", "url": "https://x.example/mine/T"}
    said |= more
    return Digest(
        Mailbox.parse(address),
        refusals,
        len(refusals),
        0.0,
        9000.0,
        **said,  # type: ignore[arg-type]
    )


class DigestTests(SynchronousTestCase):
    """
    L{Digest}.
    """

    def read(self, digest: Digest, author: str | None = None) -> email.message.EmailMessage:
        octets = digest.message(author, 1000.0, "U")
        self.assertNotRegex(octets, rb"[^\r]\n|\r[^\n]")
        found = email.message_from_bytes(octets, policy=email.policy.default)
        assert isinstance(found, email.message.EmailMessage)
        return found

    def test_count(self) -> None:
        """No more are counted than are looked for, and that is said."""
        digest = make(makeRefusal())
        for count, said in ((SHOWN - 1, "999 messages for"), (SHOWN, "1000 or more messages for")):
            some = attrs.evolve(digest, count=count)
            self.assertIn(said, some.text)
            self.assertIn(said, some.html)

    def test_message(self) -> None:
        """Two readings of the same, that say they were made by a program."""
        message = self.read(make(makeRefusal(rule="rspamd: score 16")))
        self.assertEqual(message.get_content_type(), "multipart/alternative")
        kinds = [part.get_content_type() for part in message.iter_parts()]
        self.assertEqual(kinds, ["text/plain", "text/html"])
        self.assertEqual(message["Auto-Submitted"], "auto-generated")
        self.assertEqual(message["From"], "postmaster@example.net")
        self.assertEqual(message["To"], "anna@example.net")
        for part in message.iter_parts():
            text = part.get_content()
            for what in ("friend@example.org", "550 5.7.1", "score 16", "https://x.example/mine/T"):
                self.assertIn(what, text)

    def test_author(self) -> None:
        """Who it is from can be said."""
        self.assertEqual(self.read(make(), "help@example.com")["From"], "help@example.com")

    def test_noLink(self) -> None:
        """Without an address of pages there is no link."""
        self.assertNotIn("mine", make(makeRefusal(), url="").html)

    def test_foreignAddress(self) -> None:
        """A recipient with letters of its own is written as it is."""
        message = self.read(make(address="änna@example.net"))
        self.assertEqual(message["To"], "änna@example.net")

    def test_hostile(self) -> None:
        """Nothing that a sender says becomes a tag, an attribute, a template or a field."""
        one = makeRefusal(
            sender=HOSTILE,
            client=HOSTILE,
            hostname=HOSTILE,
            subject=HOSTILE,
            headerFrom=HOSTILE,
            rule=HOSTILE,
            reply=HOSTILE,
        )
        digest = make(one)
        self.assertNotIn("<script", digest.html)
        self.assertNotRegex(digest.html, '"[^">]*\' onload')
        self.assertIn("&lt;script&gt;", digest.html)
        self.assertEqual(digest.html.count("https://x.example/mine/T"), 1)
        self.assertIn("$link", digest.text)
        self.assertNotIn("\u202e", digest.text + digest.html)
        self.assertIsNone(self.read(digest)["Bcc"])
        self.assertNotIn("\nBcc:", digest.text)

    def test_long(self) -> None:
        """A long text has its beginning and its end; the mail of a hundred has a bound."""
        for text in ('"' * 500, "\U0001f600" * 500, "\u202e" * 500, "&" * 101, "a\u202e" * 50):
            one = makeRefusal(
                sender=f"begin{text}@example.org",
                hostname=text,
                subject=text,
                headerFrom=text,
                rule=text,
                reply=f"550 5.7.1 {text} (id 1M84B9SJQ005Q)",
            )
            digest = make(*[one] * MOST_ENTRIES)
            self.assertLess(len(digest.message(None, 1000.0, "U")), 1 << 20)
            entry = make(one).text
            self.assertLess(len(max(entry.splitlines(), key=len)), 3 * MOST_CHARACTERS)
            self.assertIn("<begin", entry)
            self.assertIn("@example.org> from", entry)
            self.assertIn("(id 1M84B9SJQ005Q)", entry)
            self.assertIn("\u2026", make(one).html)

    def test_work(self) -> None:
        """What is made of a text does not grow with it; of so many entries, as they do."""

        def made(count: int, length: int) -> str:
            text = '\u202e"' * length
            one = makeRefusal(subject=text, headerFrom=text, reply=text, rule=text, sender=text)
            digest = make(*[one] * count)
            return digest.text + digest.html

        made(1, 100)
        few = linesRun(made, 10, 100)
        self.assertLess(linesRun(made, 10, 400), 1.1 * few)
        self.assertLess(linesRun(made, 40, 100), 4.4 * few)

    @given(st.text(max_size=100))
    def test_anything(self, text: str) -> None:
        """Whatever it is, there are as many tags as without it."""

        def tags(one: Refusal) -> int:
            return make(one).html.count("<")

        self.assertEqual(
            tags(makeRefusal(subject=text or "-", sender=text)),
            tags(makeRefusal(subject="a", sender="b")),
        )


class TemplatesTests(SynchronousTestCase):
    """
    L{Templates}.
    """

    def test_own(self) -> None:
        """An operator's own texts, with the values that there are."""
        own = Templates.of("For $recipient: $count\n$entries", "<p>$recipient</p>$entries")
        digest = make(makeRefusal(), templates=own)
        self.assertTrue(digest.text.startswith("For anna@example.net: 1\n"))
        self.assertTrue(digest.html.startswith("<p>anna@example.net</p>"))

    def test_wrong(self) -> None:
        """What there is not is said before anything is sent."""
        self.assertRaises(ValueError, Templates.of, "$nothing", "")
        self.assertRaises(ValueError, Templates.of, "", "100 $ a day")

    def test_builtIn(self) -> None:
        """Those that come with the server are templates."""
        self.assertIsInstance(Templates().text, Template)


class DueTests(SynchronousTestCase):
    """
    L{dueBefore}, by the local time of a place whose clock changes.
    """

    def setUp(self) -> None:
        before = os.environ.get("TZ")
        os.environ["TZ"] = "Europe/Berlin"
        time.tzset()
        self.addCleanup(self.restore, before)

    def restore(self, zone: str | None) -> None:
        os.environ.pop("TZ")
        if zone is not None:
            os.environ["TZ"] = zone
        time.tzset()

    def due(self, text: str, minute: int = 420, weekly: bool = False) -> str:
        now = datetime.datetime.fromisoformat(text).timestamp()
        found = dueBefore(now, minute, weekly)
        return datetime.datetime.fromtimestamp(found).astimezone().isoformat()

    def test_daily(self) -> None:
        """Today's, from its minute on; before that, yesterday's."""
        self.assertEqual(self.due("2026-11-30T07:00:00"), "2026-11-30T07:00:00+01:00")
        self.assertEqual(self.due("2026-11-30T06:59:59"), "2026-11-29T07:00:00+01:00")

    def test_weekly(self) -> None:
        """Monday's."""
        self.assertEqual(self.due("2026-11-29T23:00:00", weekly=True), "2026-11-23T07:00:00+01:00")
        self.assertEqual(self.due("2026-11-30T08:00:00", weekly=True), "2026-11-30T07:00:00+01:00")
        self.assertEqual(self.due("2026-11-30T06:00:00", weekly=True), "2026-11-23T07:00:00+01:00")

    def test_changes(self) -> None:
        """The same time of day in summer and in winter; one that is left out is there once."""
        self.assertEqual(self.due("2026-10-25T12:00:00"), "2026-10-25T07:00:00+01:00")
        self.assertEqual(self.due("2026-10-24T12:00:00"), "2026-10-24T07:00:00+02:00")
        day = [f"2026-03-29T{hour:02}:{minute:02}:00" for hour in range(24) for minute in (0, 45)]
        found = {self.due(one, 150) for one in day}  # 02:30, which is not there
        self.assertEqual(len(found), 2)  # yesterday's, and today's
