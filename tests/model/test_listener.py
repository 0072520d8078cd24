"""
The settings of listeners and their limits: the tables of the configuration are
what sessions are given.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.app.listeners import Keyring, listenerSettings
from deferrals.config.structuring import makeConverter
from deferrals.config.tables import Config
from deferrals.model.limits import Limits
from deferrals.model.listener import ListenerOptions, ListenerSettings
from deferrals.model.mixed import Mixed
from deferrals.model.settings import BadSetting


class ListenerTests(SynchronousTestCase):
    """
    L{ListenerSettings}.
    """

    def test_mixed(self) -> None:
        """Clients that submit never get a 452, unless the operator chose so."""
        self.assertIs(ListenerSettings().mixedChoice, Mixed.SPLIT)
        self.assertIs(ListenerSettings(protocol="submission").mixedChoice, Mixed.STRICTEST)
        self.assertIs(ListenerSettings(mixed=Mixed.FILE).mixedChoice, Mixed.FILE)

    def test_authentication(self) -> None:
        """Whoever submits has to log in, unless the operator chose otherwise."""
        self.assertEqual(ListenerSettings().authentication, "no")
        self.assertEqual(ListenerSettings(protocol="submission").authentication, "required")
        self.assertEqual(ListenerSettings(protocol="submission", auth="no").authentication, "no")

    def test_security(self) -> None:
        """Where there is a certificate, STARTTLS is offered; without one there is no TLS."""
        self.assertEqual(ListenerSettings().security, "none")
        self.assertEqual(ListenerSettings(certificates="one").security, "starttls")
        self.assertEqual(ListenerSettings(certificates="one", tls="implicit").security, "implicit")
        with self.assertRaises(BadSetting):
            ListenerSettings(tls="required")

    def test_networks(self) -> None:
        """Proxies and clients that may use XCLIENT are networks."""
        settings = ListenerSettings(proxies=("192.0.2.0/24",), xclient=("unix",))
        self.assertIn("192.0.2.9", settings.trustedProxies)
        self.assertNotIn("127.0.0.1", settings.trustedProxies)
        self.assertIn("local", settings.xclientNetworks)

    def test_wrong(self) -> None:
        """A value that cannot be is refused where it is made."""
        for values in ({"xclient": ("x",)}, {"withhold": ("AUTH",)}, {"reply_deadline": 60}):
            more: dict[str, Any] = values
            with self.assertRaises(BadSetting, msg=str(values)):
                ListenerSettings(**more)
        with self.assertRaises(BadSetting):
            Limits(**{"auth_timeout": 0})


class TableTests(SynchronousTestCase):
    """
    From the configuration to the session.
    """

    def test_everyKey(self) -> None:
        """Each key of [[listen]], of [limits] and for replies is what the session sees."""
        listen = {
            "endpoint": "haproxy:tcp:0",
            "protocol": "submission",
            "mixed": "file",
            "mixed_fallback": "notify",
            "retry_limit": 7,
            "bare_lf": "normalise",
            "tls": "none",
            "auth": "offered",
            "auth_without_tls": True,
            "greet_delay": "7s",
            "proxies": ["192.0.2.1"],
            "xclient": ["192.0.2.2"],
            "enumerate": "delivery",
            "delivery_deadline": "7s",
            "withhold": ["DSN"],
        }
        numbers = {field.name: 2000 + n for n, field in enumerate(attrs.fields(Limits))}
        times = {"reply_deadline": 7, "consolidation_window": 3}
        data = {"listen": [listen], "limits": numbers, **times, "hostname": "mx.example.net"}
        config = makeConverter().structure(data, Config)
        ((_, settings),) = listenerSettings(config, Keyring("", Clock()))
        self.assertEqual(attrs.asdict(settings.limits), numbers)
        self.assertEqual({name: getattr(settings, name) for name in times}, times)
        for field in attrs.fields(ListenerOptions):
            self.assertNotEqual(getattr(settings, field.name), field.default, field.name)
        self.assertIs(settings.mixed, Mixed.FILE)
        self.assertTrue(settings.proxied)
        self.assertEqual((settings.hostname, settings.name), ("mx.example.net", "haproxy:tcp:0"))
