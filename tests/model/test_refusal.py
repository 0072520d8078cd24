"""
Refusals as they are kept.
"""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.refusal import (
    MOST_CHARACTERS,
    Refusal,
    RefusalSettings,
    headerText,
    short,
)
from deferrals.model.settings import BadSetting, Seconds


def makeRefusal(number: int = 1, recipient: str = "anna@example.net", **more: object) -> Refusal:
    """
    @param number: tells it from others.
    """
    said: dict[str, object] = {
        "time": 1000.0 + number,
        "id": f"ID{number:011}",
        "recipient": recipient,
        "sender": "friend@example.org",
        "client": "192.0.2.7",
        "reply": "550 5.7.1 refused as spam",
        "policy": "strict",
        "admits": ("network 192.0.2.0/24",),
        **more,
    }
    return Refusal(**said)  # type: ignore[arg-type]


class RefusalTests(SynchronousTestCase):
    """
    L{Refusal}.
    """

    def test_shape(self) -> None:
        """What programs are shown has these keys, and no other."""
        self.assertEqual(
            list(makeRefusal().toJSON()),
            [
                *("time", "id", "recipient", "sender", "client", "hostname", "header_from"),
                *("subject", "stage", "policy", "rule", "score", "reply", "admits"),
            ],
        )

    def test_roundTrip(self) -> None:
        """It comes back as it was."""
        for one in (makeRefusal(), makeRefusal(2, subject="s", headerFrom="f", score=7.5)):
            self.assertEqual(Refusal.fromJSON(json.loads(json.dumps(one.toJSON()))), one)

    def test_noRefusal(self) -> None:
        """What is none is said to be none."""
        self.assertRaises(ValueError, Refusal.fromJSON, {"time": 1})
        self.assertRaises(ValueError, Refusal.fromJSON, {**makeRefusal().toJSON(), "time": "x"})

    @given(st.text(max_size=2000))
    def test_short(self, text: str) -> None:
        """Whatever comes is one short line, in which nothing acts or hides."""
        for found in (short(text), headerText(text)):
            self.assertLessEqual(len(found), MOST_CHARACTERS)
            self.assertNotRegex(found, "[\x00-\x1f\x7f\u202e\u2028\ud800-\udfff]")

    def test_words(self) -> None:
        """MIME words are decoded; what only looks like some stays."""
        self.assertEqual(headerText("=?utf-8?q?Gr=C3=BC=C3=9Fe?= all"), "Grüße all")
        self.assertEqual(headerText("=?no-such?q?x?="), "=?no-such?q?x?=")
        self.assertEqual(headerText("=?utf-8?b?!!!!?="), headerText("=?utf-8?b?!!!!?="))
        self.assertNotIn("\n", headerText("=?utf-8?q?a=0Ab?="))


class SettingsTests(SynchronousTestCase):
    """
    L{RefusalSettings}.
    """

    def test_off(self) -> None:
        """By default nothing is kept."""
        self.assertEqual((RefusalSettings().keep, RefusalSettings().digest), (0.0, "off"))

    def test_time(self) -> None:
        """A time of day has two numbers, as a clock shows them."""
        self.assertEqual(RefusalSettings(digest_at="23:59").digestMinute, 1439)
        for wrong in ("24:00", "7:00", "07:60", "", "07:00:00"):
            self.assertRaises(BadSetting, RefusalSettings, digest_at=wrong)

    def test_since(self) -> None:
        """Not older than is asked for, nor than is kept."""
        settings = RefusalSettings(keep=Seconds(100.0))
        for seconds, wanted in ((None, 900.0), (30.0, 970.0), (1e9, 900.0), (0.0, 1000.0)):
            self.assertEqual(settings.since(1000.0, seconds), wanted)

    def test_nothingToTell(self) -> None:
        """A digest of what is not kept cannot be."""
        error = self.assertRaises(BadSetting, RefusalSettings, digest="daily")
        self.assertEqual(error.key, "digest")

    def test_author(self) -> None:
        """The author is an address."""
        self.assertRaises(BadSetting, RefusalSettings, digest_from="Postmaster <a@b>")
        RefusalSettings(digest_from="postmaster@example.net")
