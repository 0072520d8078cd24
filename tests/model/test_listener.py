"""
The settings of listeners and their limits: the tables of the configuration are
what sessions are given.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.limits import Limits
from deferrals.model.listener import ListenerSettings
from deferrals.model.mixed import Mixed
from deferrals.model.settings import BadSetting


class ListenerTests(SynchronousTestCase):
    """
    L{ListenerSettings}.
    """

    def test_mixed(self) -> None:
        """Clients that submit never get a 452, unless the operator chose so."""
        self.assertIs(ListenerSettings().mixedChoice, Mixed.RETRY)
        self.assertIs(ListenerSettings(protocol="submission").mixedChoice, Mixed.STRICTEST)
        self.assertIs(ListenerSettings(mixed=Mixed.FILE).mixedChoice, Mixed.FILE)

    def test_authentication(self) -> None:
        """A client that submits has to log in, unless the operator chose otherwise."""
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
