"""
The Sender Rewriting Scheme.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import attrs
from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.settings import Seconds
from deferrals.model.srs import DAY_SECONDS, SRS, SRSError, SRSSettings, isTagged, parse

DAY = 20000
NOW = DAY * DAY_SECONDS + 43200.0

OURS = SRS("here.example", (b"secret",))
THERE = SRS("there.example", (b"another",))

LETTERS = st.characters(categories=("L", "N", "P", "S"), max_codepoint=0x17F)
LOCALS = st.text(LETTERS, min_size=1, max_size=60)
DOMAINS = st.from_regex(r"[a-z0-9]{1,20}(\.[a-z0-9]{1,20}){1,2}", fullmatch=True)
SENDERS = st.builds(Mailbox, LOCALS, DOMAINS)


def reversed_(text: str, srs: SRS = OURS, seconds: float | None = NOW) -> str:
    return str(srs.reverse(Mailbox.parse(text), seconds))


class SRSTests(SynchronousTestCase):
    """
    L{SRS} and L{parse}.
    """

    def test_forms(self) -> None:
        """A first forwarder's path, a second one's, and a third one's, which is no longer."""
        rows = [
            ("me@example.org", r"SRS0=[A-Za-z0-9+/]{4}=RA=example\.org=me"),
            ("SRS0=ab+c=RA=example.org=me@there.example", r"SRS1=.{4}=there.example==ab\+c=RA=.*"),
            ("srs0+abcd=RA=a.example=me@there.example", r"SRS1=.{4}=there.example=\+abcd=RA=.*"),
            ("SRS1=abcd=first.example==efgh=RA=a.example=me@there.example", r"SRS1=.{4}=first.*me"),
            ("srs1-abcd=first.example=-efgh=RA=a.example=me@b.example", r"SRS1=.{4}=first.*me"),
            ("SRS1=no@there.example", r"SRS0=.{4}=RA=there.example=SRS1=no"),
            ("SRS0=@there.example", r"SRS0=.{4}=RA=there.example=SRS0="),
            ("srs0@there.example", r"SRS0=.{4}=RA=there.example=srs0"),
        ]
        for text, form in rows:
            made = OURS.forward(Mailbox.parse(text), NOW)
            self.assertRegex(made.local, f"^{form}$")
            self.assertEqual(made.domain, "here.example")
            self.assertTrue(OURS.has(made))

    def test_known(self) -> None:
        """The hash that postsrsd makes of these."""
        made = SRS("here.example", (b"tell no one",)).forward(Mailbox.parse("Me@Example.org"), NOW)
        self.assertEqual(str(made), "SRS0=OS6v=RA=example.org=Me@here.example")

    def test_case(self) -> None:
        """Servers on the way may change it."""
        made = str(OURS.forward(Mailbox.parse("me@example.org"), NOW))
        self.assertEqual(reversed_(made.upper()), "ME@example.org")
        self.assertEqual(reversed_(made.lower()), "me@example.org")

    def test_age(self) -> None:
        """As many days as are configured, and none from the future."""
        made = OURS.forward(Mailbox.parse("me@example.org"), NOW)
        for days in (0, 1, 21):
            self.assertEqual(str(OURS.reverse(made, NOW + days * DAY_SECONDS)), "me@example.org")
        for days in (-1, 22, 1023):
            with self.assertRaises(SRSError):
                OURS.reverse(made, NOW + days * DAY_SECONDS)
        self.assertEqual(str(OURS.reverse(made, None)), "me@example.org")

    def test_wraps(self) -> None:
        """After 1024 days the days begin anew."""
        before = (1023 + 19 * 1024) * DAY_SECONDS
        made = OURS.forward(Mailbox.parse("me@example.org"), before)
        self.assertIn("=77=", made.local)
        self.assertEqual(str(OURS.reverse(made, before + 2 * DAY_SECONDS)), "me@example.org")

    def test_longer(self) -> None:
        """A hash of more letters counts whole."""
        made = str(OURS.forward(Mailbox.parse("me@example.org"), NOW))
        digest = hmac.new(b"secret", b"raexample.orgme", hashlib.sha1).digest()
        longer = base64.b64encode(digest)[:8].decode()
        self.assertEqual(made[5:9], longer[:4])
        self.assertEqual(reversed_(made.replace(longer[:4], longer)), "me@example.org")
        with self.assertRaises(SRSError):
            reversed_(made.replace(longer[:4], longer[:7] + "!"))

    def test_secrets(self) -> None:
        """The first one signs, all verify."""
        newer = attrs.evolve(OURS, secrets=(b"newer", b"secret"))
        old = str(OURS.forward(Mailbox.parse("me@example.org"), NOW))
        new = str(newer.forward(Mailbox.parse("me@example.org"), NOW))
        self.assertNotEqual(old, new)
        self.assertEqual(reversed_(old, newer), "me@example.org")
        self.assertEqual(reversed_(new, newer), "me@example.org")
        with self.assertRaises(SRSError):
            reversed_(new)
        self.assertNotIn("newer", repr(newer))

    def test_refused(self) -> None:
        """What this server has not made."""
        good = str(OURS.forward(Mailbox.parse("me@example.org"), NOW))
        hashed = good[5:9]
        wrong = [
            good.replace("example.org", "example.com"),
            good.replace("=me@", "=you@"),
            good.replace("=RA=", "=RB="),
            good.replace("=RA=", "=R1="),
            good.replace("=RA=", "=RAA="),
            good.replace("=RA=", "=" + "A" * 100 + "="),
            good.replace(hashed, hashed[:3]),
            good.replace(hashed, hashed + "A"),
            good.replace(hashed, "\u00e4" * 4),
            good.replace("here.example", "there.example"),
            "me@here.example",
            "SRS0=abcd@here.example",
        ]
        for text in wrong:
            with self.assertRaises(SRSError):
                reversed_(text)

    def test_noDomain(self) -> None:
        """A hash that is good, of something that is no domain."""
        made = OURS.forward(Mailbox("me", "no domain"), NOW)
        with self.assertRaises(SRSError):
            OURS.reverse(made, NOW)

    def test_own(self) -> None:
        """Parts in the same form, and others: only of its own domain."""
        for text, isOurs in [
            ("SRS0=abcd=RA=example.org=me@here.example", True),
            ("srs1+abcd=example.org==a@HERE.example", True),
            ("SRS0=abcd=RA=example.org=me@there.example", False),
            ("srs0-team@here.example", False),
            ("SRS2=abcd=RA=example.org=me@here.example", False),
        ]:
            self.assertIs(OURS.has(Mailbox.parse(text)), isOurs, text)

    def test_tagged(self) -> None:
        """A forwarder's, whatever its parts are; and nothing that only begins alike."""
        for local, found in [
            ("SRS0=abcd=RA=example.org=me", True),
            ("srs0+me", True),
            ("Srs1-abcd=example.org==a", True),
            ("SRS1=a", True),
            ("SRS1=", False),
            ("srs2=abcd=RA=example.org=me", False),
            ("srs0", False),
            ("srs0.me", False),
            ("me=srs0=abcd", False),
        ]:
            self.assertIs(isTagged(local), found, local)

    def test_around(self) -> None:
        """A path that comes around through another forwarder leads back at once."""
        sender = Mailbox.parse("me@example.org")
        first = OURS.forward(sender, NOW)
        around = OURS.forward(THERE.forward(first, NOW), NOW)
        self.assertTrue(around.local.startswith("SRS1="))
        self.assertEqual(OURS.reverse(around, NOW), sender)
        with self.assertRaises(SRSError):
            OURS.reverse(around, NOW + 30 * DAY_SECONDS)

    def test_tooLong(self) -> None:
        """What no address can carry stays as it is."""
        sender = Mailbox("a" * 250, "example.org")
        self.assertIs(OURS.forward(sender, NOW), sender)

    @given(SENDERS)
    def test_thereAndBack(self, sender: Mailbox) -> None:
        """Any sender comes back, whatever stands in its local part; only tags lose their case."""
        assume(sender.domain not in (OURS.domain, THERE.domain))
        made = OURS.forward(sender, NOW)
        if made is sender:
            return
        self.assertEqual(Mailbox.parse(str(made)), made)
        back = OURS.reverse(made, NOW)
        if isinstance(parse(made.local), type(parse("SRS0=a=b=c=d"))):
            self.assertEqual(back, sender)
        else:
            self.assertEqual(back.local[:4], "SRS0")

    @given(SENDERS)
    def test_twoForwarders(self, sender: Mailbox) -> None:
        """From forwarder to forwarder, and back the same way."""
        assume(not re.match("srs[01]", sender.local, re.I))
        first = THERE.forward(sender, NOW)
        second = OURS.forward(first, NOW)
        assume(second is not first and first is not sender)
        self.assertEqual(OURS.reverse(second, NOW), first)
        self.assertEqual(THERE.reverse(first, NOW), sender)
        third = SRS("third.example", (b"third",)).forward(second, NOW)
        self.assertEqual(
            len(str(third)) - len("third.example"), len(str(second)) - len("here.example")
        )

    @given(st.text(max_size=80))
    def test_anything(self, local: str) -> None:
        """No local part does more than not be one."""
        assume(local.isprintable())
        with self.assertRaises(SRSError):
            OURS.reverse(Mailbox(local, "here.example"), NOW)


class SettingsTests(SynchronousTestCase):
    """
    L{SRSSettings}.
    """

    def test_wrong(self) -> None:
        """Domains and times that cannot be."""
        for domain, valid in (("no domain", 86400), ("a.example", 3600), ("a.example", 1e9)):
            with self.assertRaises(ValueError):
                SRSSettings(domain=domain, secret_file="x", valid=Seconds(valid))

    def test_made(self) -> None:
        """Its days are whole ones."""
        settings = SRSSettings(domain="Here.Example", secret_file="x", valid=Seconds(90000))
        self.assertEqual(SRS.make(settings, [b"a", b"b"]), SRS("here.example", (b"a", b"b"), 2))
