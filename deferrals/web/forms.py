"""
Whether a form is one of ours: another site can make a browser send one, but it cannot
read what ours carry.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from urllib.parse import urlsplit

from twisted.web.server import Request

from deferrals.web.answers import BadRequest, parameter

#: The field's name.
FIELD = "csrf"


class FormKey:
    """
    Makes what forms carry, from a secret.

    @param secret: octets that only this server knows; by default new ones, with which
        forms from before a restart are none.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secrets.token_bytes(32) if secret is None else secret

    def of(self, subject: str) -> str:
        """
        @param subject: for whom the form is: a session, a link.
        @return: the value of the field.
        """
        octets = b"csrf\0" + subject.encode("utf-8", "surrogatepass")
        return hmac.digest(self._secret, octets, hashlib.sha256).hex()

    def check(self, request: Request, subject: str) -> None:
        """
        @raise BadRequest: the form was not made here for this subject.
        """
        checkField(request, self.of(subject))


def checkField(request: Request, expected: str) -> None:
    """
    @param expected: what the form has to carry.
    @raise BadRequest: the form was not made here, or another site sends it.
    """
    shown = parameter(request, FIELD).encode("utf-8")
    if not expected or not hmac.compare_digest(shown, expected.encode("ascii")):
        raise BadRequest("This form is not from here, or too old: load the page again.")
    checkOrigin(request)


def checkOrigin(request: Request) -> None:
    """
    @raise BadRequest: the browser says that another site's page has sent this.
    """
    fetched = request.getHeader(b"sec-fetch-site")
    origin = request.getHeader(b"origin")
    host = (request.getHeader(b"host") or b"").decode("ascii", "replace").lower()
    isForeign = fetched not in (None, b"same-origin", b"none")
    # Without a referrer policy of another page's the origin is a name; "null" is not ours.
    if origin is not None and origin != b"null":
        isForeign = isForeign or _netloc(origin) != host
    if isForeign:
        raise BadRequest("This form was sent by another site.")


def _netloc(origin: bytes) -> str:
    try:
        return urlsplit(origin.decode("ascii", "replace")).netloc.lower()
    except ValueError:
        return ""
