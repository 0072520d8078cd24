"""
What listeners' sessions are given.
"""

from __future__ import annotations

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.app.listeners import Keyring, listenerSettings
from deferrals.config.structuring import makeConverter
from deferrals.config.tables import Config, Listener
from deferrals.model.limits import Limits
from deferrals.model.listener import ListenerOptions
from deferrals.model.mixed import Mixed
from deferrals.model.settings import Seconds


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
            "bare_lf": "refuse",
            "strict": True,
            "tls": "none",
            "auth": "offered",
            "auth_without_tls": True,
            "greet_delay": "7s",
            "proxies": ["192.0.2.1"],
            "xclient": ["192.0.2.2"],
            "exdata": ["192.0.2.3"],
            "enumerate": "delivery",
            "delivery_deadline": "7s",
            "withhold": ["DSN"],
        }
        numbers = {field.name: 2000 + n for n, field in enumerate(attrs.fields(Limits))}
        times = {"reply_deadline": 7, "consolidation_window": 3}
        converter = makeConverter()
        config = Config(
            listen=(converter.structure(listen, Listener),),
            limits=converter.structure(numbers, Limits),
            hostname="mx.example.net",
            reply_deadline=Seconds(times["reply_deadline"]),
            consolidation_window=Seconds(times["consolidation_window"]),
        )
        (settings,) = listenerSettings(config, Keyring("", Clock()))
        self.assertEqual(attrs.asdict(settings.limits), numbers)
        self.assertEqual({name: getattr(settings, name) for name in times}, times)
        for field in attrs.fields(ListenerOptions):
            self.assertNotEqual(getattr(settings, field.name), field.default, field.name)
        self.assertIs(settings.mixed, Mixed.FILE)
        self.assertTrue(settings.proxied)
        self.assertEqual((settings.hostname, settings.name), ("mx.example.net", "haproxy:tcp:0"))
