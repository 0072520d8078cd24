"""
What one client may ask for, and how long each side may take.
"""

from __future__ import annotations

import inspect
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.config.tables import Config
from deferrals.model.limits import Limits, ReplyTimes
from deferrals.model.settings import BadSetting
from deferrals.server import MailServer
from tests.requirements import requirement


def refusal(cls: Any, **values: float) -> str:
    """
    @return: why these values are refused.
    """
    try:
        cls(**values)
    except BadSetting as error:
        return f"{error.key}: {error}"
    raise AssertionError(f"{values} are taken")


class LimitsTests(SynchronousTestCase):
    """
    L{Limits}.
    """

    def test_positive(self) -> None:
        """No limit but the delay after a wrong password can be switched off by a zero."""
        for field in attrs.fields(Limits):
            if field.name == "auth_delay":
                self.assertEqual(Limits(auth_delay=0).auth_delay, 0)
            else:
                self.assertIn(field.name, refusal(Limits, **{field.name: 0}))

    def test_edges(self) -> None:
        """The header and the command line have bounds on both sides."""
        for name, least, most in (
            ("header_size", 1, 256 << 10),
            ("command_line", 1024, 64 << 10),
        ):
            for value in (least, most):
                self.assertEqual(getattr(Limits(**{name: value}), name), value)
            for value in (least - 1, most + 1):
                self.assertIn(name, refusal(Limits, **{name: value}))

    def test_recipients(self) -> None:
        """By default an extension costs no client a recipient."""
        limits = Limits()
        self.assertGreaterEqual(limits.extension_recipients, limits.recipients)
        self.assertGreaterEqual(limits.recipients, 100)  # RFC 5321 section 4.5.3.1.8

    def test_commandLine(self) -> None:
        """The shortest command line that can be set holds what RFC 5321 and its extensions ask."""
        refusal(Limits, command_line=1023)
        self.assertGreaterEqual(Limits().command_line, 1024)


class ReplyTimesTests(SynchronousTestCase):
    """
    L{ReplyTimes}.
    """

    @requirement("D-25")
    def test_underAMinute(self) -> None:
        """Each reply is due within a minute, whatever the operator wishes."""
        self.assertEqual(ReplyTimes(reply_deadline=55).reply_deadline, 55)
        for seconds in (0, 55.1, 60):
            self.assertIn("D-25", refusal(ReplyTimes, reply_deadline=seconds))
        self.assertLess(ReplyTimes().reply_deadline, 60)

    def test_window(self) -> None:
        """By default 353 is held back for less than the deadline; it may come at once."""
        times = ReplyTimes()
        self.assertLess(times.consolidation_window, times.reply_deadline)
        self.assertEqual(ReplyTimes(consolidation_window=0).consolidation_window, 0)


class DefaultTests(SynchronousTestCase):
    """
    What is set neither in the configuration nor by a program.
    """

    def test_once(self) -> None:
        """The program and a server that is embedded have the same defaults."""
        given = {
            **inspect.signature(MailServer).parameters,
            **inspect.signature(MailServer.stop).parameters,
        }
        fields = attrs.fields_dict(Config)
        for name, key in (
            ("maxJudging", "max_judging"),
            ("maxDelivering", "max_delivering"),
            ("returnOctets", "bounce_size"),
            ("graceSeconds", "grace"),
        ):
            self.assertEqual(given[name].default, fields[key].default, name)
