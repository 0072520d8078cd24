"""
What deliveries to one server have in common; those of C{smtp} and C{lmtp} have the rest.
"""

from __future__ import annotations

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.outgoing import Login
from deferrals.model.settings import BadSetting
from deferrals.stages.delivery.lmtp import LMTPDelivery, LMTPSettings
from deferrals.stages.delivery.onehop import LoginSettings
from deferrals.stages.delivery.smtp import SMTPDelivery, SMTPSettings
from deferrals.testing import FakeServices, makeRecipient


class LoginSettingsTests(SynchronousTestCase):
    """
    L{LoginSettings}.
    """

    def test_login(self) -> None:
        """A user has a password, or a file with it, whose path begins at the configuration's."""
        self.assertIsNone(LoginSettings().login("/etc"))
        for password, file, path in (
            ("secret", None, None),
            (None, "hop.password", "/etc/hop.password"),
            (None, "/run/hop", "/run/hop"),
        ):
            settings = LoginSettings(user="me", password=password, password_file=file)
            self.assertEqual(settings.login("/etc"), Login("me", password, path))
            self.assertNotIn("secret", repr(settings))

    def test_wrong(self) -> None:
        """Not both, not one without a user, and no user without."""
        for user, password, file in (
            ("me", None, None),
            ("me", "secret", "file"),
            (None, "secret", None),
            (None, None, "file"),
        ):
            with self.assertRaises(BadSetting) as caught:
                LoginSettings(user=user, password=password, password_file=file)
            self.assertEqual(caught.exception.key, "user")


class OneHopDeliveryTests(SynchronousTestCase):
    """
    L{OneHopDelivery<deferrals.stages.delivery.onehop.OneHopDelivery>}.
    """

    def test_hops(self) -> None:
        """All mail goes to the one server, as the login that was configured."""
        login = {"user": "me", "password": "secret"}
        name = "tls:mail.example:24"
        endpoint = TCP4ClientEndpoint(MemoryReactor(), "127.0.0.1", 24)
        services = FakeServices(endpoints={name: endpoint})
        for delivery in (
            SMTPDelivery(SMTPSettings(endpoint=name, **login), services),
            LMTPDelivery(LMTPSettings(endpoint=name, **login), services),
        ):
            (hop,) = delivery.hops(makeRecipient("a@b.example"))
            self.assertEqual((hop.host, hop.login), ("mail.example", Login("me", "secret", None)))
