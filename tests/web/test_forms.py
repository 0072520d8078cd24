"""
Whether a form is one of ours.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.test.requesthelper import DummyRequest

from deferrals.web.answers import BadRequest
from deferrals.web.forms import FormKey, checkField, checkOrigin


class FormTests(SynchronousTestCase):
    """
    L{FormKey}.
    """

    def setUp(self) -> None:
        self.key = FormKey()

    def request(self, csrf: str | None, **headers: str) -> Any:
        request: Any = DummyRequest([b""])
        request.args = {} if csrf is None else {b"csrf": [csrf.encode()]}
        for name, value in {"host": "mx.test:8025", **headers}.items():
            request.requestHeaders.setRawHeaders(name.replace("_", "-"), [value])
        return request

    def test_own(self) -> None:
        """Only what was made here, and for this subject, is taken."""
        value = self.key.of("alice")
        self.key.check(self.request(value), "alice")
        for wrong in (None, "", value[:-1], value.upper(), self.key.of("bob"), "é", "\ud7ff"):
            self.assertRaises(BadRequest, self.key.check, self.request(wrong), "alice")
        self.assertRaises(BadRequest, FormKey().check, self.request(value), "alice")
        FormKey(b"s").check(self.request(FormKey(b"s").of("x")), "x")

    def test_nothing(self) -> None:
        """Where nothing is expected, nothing is enough."""
        self.assertRaises(BadRequest, checkField, self.request(""), "")

    def test_origin(self) -> None:
        """A browser says where a form comes from."""
        for headers in (
            {},
            {"origin": "http://mx.test:8025", "sec_fetch_site": "same-origin"},
            {"origin": "null", "sec_fetch_site": "same-origin"},
            {"sec_fetch_site": "none"},
        ):
            checkOrigin(self.request("", **headers))
        for headers in (
            {"origin": "http://evil.test"},
            {"origin": "http://mx.test:8026"},
            {"origin": "http://[::1"},
            {"sec_fetch_site": "cross-site"},
            {"sec_fetch_site": "same-site", "origin": "null"},
        ):
            self.assertRaises(BadRequest, checkOrigin, self.request("", **headers))
