"""
Time spans and sizes as text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.limits import Limits
from deferrals.model.listener import ListenerSettings
from deferrals.model.mixed import Mixed
from deferrals.model.schedule import Schedule
from deferrals.model.settings import BadSetting, parseOctets, parseSeconds, template


class UnitTests(SynchronousTestCase):
    """
    Numbers with a unit.
    """

    def test_seconds(self) -> None:
        """Time spans."""
        for text, seconds in (
            (5, 5),
            (0.5, 0.5),
            ("5m", 300),
            ("1h 30m", 5400),
            ("5d", 432000),
            ("1.5s", 1.5),
        ):
            self.assertEqual(parseSeconds(text), seconds)
        for bad in ("", "5", "m", -1, True, None, "5 m", [5]):
            self.assertRaises(ValueError, parseSeconds, bad)

    def test_octets(self) -> None:
        """Sizes."""
        for text, octets in ((5, 5), ("5", 5), ("5K", 5120), ("1M", 1 << 20), ("2G", 2 << 30)):
            self.assertEqual(parseOctets(text), octets)
        for bad in ("", "K", -1, True, None, "5k", 1.5):
            self.assertRaises(ValueError, parseOctets, bad)


class TypeTests(SynchronousTestCase):
    """
    Settings that a program makes are of the types that are said of them.
    """

    def test_wrong(self) -> None:
        """Each wrong value is told with its key, by the constructor."""
        nan, infinite = float("nan"), float("inf")
        wrong: list[tuple[Callable[..., object], str, tuple[Any, ...]]] = [
            (Limits, "message_size", (None, 0, -1, "10M", 2.5, True)),
            (Limits, "recipients", ("5", 2.5, None)),
            (Limits, "command_timeout", (None, 0, nan, infinite, "5m")),
            (Limits, "auth_delay", (-1, None)),
            (ListenerSettings, "protocol", ("esmtp", None)),
            (ListenerSettings, "mixed", ("split", 5)),
            (ListenerSettings, "mixed_fallback", (Mixed.RETRY, Mixed.STRICTEST)),
            (ListenerSettings, "tls", ("sometimes",)),
            (ListenerSettings, "greet_delay", (-1, "5s", None)),
            (ListenerSettings, "reply_deadline", (None, 60, nan)),
            (ListenerSettings, "consolidation_window", (-1, nan)),
            (ListenerSettings, "proxies", ("10.0.0.0/8", ["unix"], (5,))),
            (ListenerSettings, "limits", (None, 5)),
            (ListenerSettings, "hostname", ("a b", "a\r\nb", None)),
            (Schedule, "retry", (60, "5m", (), (0,), (nan,), [60.0])),
            (Schedule, "expire", (-1, None)),
            (Schedule, "warn", (-1, "x")),
            (Schedule, "concurrency", (0, 2.5)),
        ]
        for make, key, values in wrong:
            for value in values:
                with self.assertRaises(BadSetting, msg=f"{key}={value!r}") as caught:
                    make(**{key: value})
                self.assertEqual(caught.exception.key, key)

    def test_right(self) -> None:
        """Plain numbers will do."""
        Limits(message_size=1000, command_timeout=20, auth_delay=0, recipients=1)
        ListenerSettings(mixed=Mixed.STRICTEST, greet_delay=0.5, auth=None, proxies=("unix",))
        Schedule(retry=(60, 300.0), expire=3600, warn=0)


class TemplateTests(SynchronousTestCase):
    """
    L{template}.
    """

    def test_names(self) -> None:
        """Names that are known, as they are; braces that are doubled are braces."""
        for good in ("", "a{local}@{domain}", "{{x}}", "{local}{local}"):
            template(good, "local", "domain")
        for bad in (
            *("{", "}", "{}", "{0}", "{other}", "{local.__class__}", "{local[0]}", "{local!r}"),
            *("{local:>99}", "{local:{domain}}", "{ local}"),
        ):
            with self.assertRaisesRegex(
                ValueError, "^text in which {local} and {domain} may stand$"
            ):
                template(bad, "local", "domain")
