"""
What a configuration says of monitoring.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.settings import BadSetting
from deferrals.model.web import WebSettings

LOCAL = "tcp:8025:interface=127.0.0.1"


class WebSettingsTests(SynchronousTestCase):
    """
    L{WebSettings}.
    """

    def test_loopback(self) -> None:
        """On loopback nothing more is wanted."""
        for endpoint in (LOCAL, "tcp6:8025:interface=\\:\\:1", "unix:/run/web", f"{LOCAL}.0.1"):
            isLocal = endpoint != f"{LOCAL}.0.1"
            if isLocal:
                self.assertTrue(WebSettings(endpoint=endpoint).isLocal, endpoint)
            else:
                self.assertRaises(BadSetting, WebSettings, endpoint=endpoint)

    def test_elsewhere(self) -> None:
        """Elsewhere TLS, a token and users are; with one of them missing it is refused."""
        whole = {"certificate": "c.pem", "token_file": "token", "users": "users"}
        for endpoint in ("tcp:8025", "tcp:8025:interface=192.0.2.1", "systemd:domain=INET:index=0"):
            self.assertFalse(WebSettings(endpoint=endpoint, **whole).isLocal)
            for name in whole:
                some = {key: one for key, one in whole.items() if key != name}
                error = self.assertRaises(BadSetting, WebSettings, endpoint=endpoint, **some)
                self.assertEqual(error.key, "endpoint")
                self.assertIn("loopback, or users and token_file with TLS", str(error))

    def test_names(self) -> None:
        """The hosts that are answered."""
        settings = WebSettings(endpoint=LOCAL, url="https://mx.example.net/")
        self.assertEqual(settings.names, {"127.0.0.1", "localhost", "mx.example.net"})
        self.assertEqual(WebSettings(endpoint=LOCAL, hosts=("A.example",)).names, {"a.example"})
        six = WebSettings(endpoint="tcp6:1:interface=\\:\\:1")
        self.assertEqual(six.names, {"::1", "localhost"})

    def test_nonsense(self) -> None:
        """A URL that is none, a key without a certificate."""
        self.assertRaises(ValueError, WebSettings, endpoint=LOCAL, url="mx.example.net")
        self.assertRaises(BadSetting, WebSettings, endpoint=LOCAL, key="k.pem")

    def test_root(self) -> None:
        """Pages are at the root of a host, or below a path that none of them has."""
        for more, root in (
            ("", ""),
            (":8025/", ""),
            ("/mail", "/mail"),
            ("/a-b/c.d/", "/a-b/c.d"),
            ("/minerals", "/minerals"),
        ):
            settings = WebSettings(endpoint=LOCAL, url=f"https://mx.example.net{more}")
            self.assertEqual(settings.root, root)
            self.assertIn("mx.example.net", settings.names)
        self.assertEqual(WebSettings(endpoint=LOCAL).root, "")
        for more in (*("/?a", "?a=b", "#c", "/a b", "/é"), *("/a/../b", "//a", "/a%2fb", "/mine")):
            url = f"https://mx.example.net{more}"
            self.assertRaises(ValueError, WebSettings, endpoint=LOCAL, url=url)

    def test_hosts(self) -> None:
        """A name that no Host header can have, once its port is off."""
        WebSettings(endpoint=LOCAL, hosts=("mx.example.net", "192.0.2.1", "2001:db8::1"))
        for name in ("mx.example.net:8025", "[2001:db8::1]", "https://mx.example.net", "a b", ""):
            error = self.assertRaises(BadSetting, WebSettings, endpoint=LOCAL, hosts=(name,))
            self.assertEqual(error.key, "hosts")
