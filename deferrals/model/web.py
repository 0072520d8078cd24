"""
What a configuration says of the pages, and of monitoring.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

import attrs

from deferrals.model.settings import BadSetting, checked

_INTERFACE = re.compile(r":interface=((?:\\.|[^:\\])*)")

_LOOPBACK = re.compile(r"127(?:\.\d{1,3}){3}|::1|localhost")

_ELSEWHERE = "loopback, or users and token_file with TLS: pages show who writes to whom"


#: The first parts of the paths of all pages, and of monitoring.
PAGES = (
    *("queue", "message", "search", "policy", "events", "login", "logout", "static", "mine"),
    *("metrics", "healthz", "readyz"),
)

_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")


def _url(text: str) -> None:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an http:// or https:// URL")
    if parts.query or parts.fragment:
        raise ValueError("a URL without ? and #")
    path = parts.path.rstrip("/")
    if _PATH.fullmatch(path) is None:
        raise ValueError("a path of letters, digits, -, _, ~ and .")
    if path.split("/")[1:2] and path.split("/")[1] in PAGES:
        raise ValueError(f"a path that does not begin as one of the pages: {path}")


def _isHost(name: str) -> bool:
    """
    Whether it is what a C{Host} header has, without its port and without brackets.
    """
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return re.fullmatch(r"[A-Za-z0-9_.-]+", name) is not None
    return True


@attrs.frozen
class WebSettings:
    """
    The C{[web]} table.

    @ivar endpoint: a Twisted server endpoint; C{unix:} too.
    @ivar certificate: a PEM file, as of a listener: TLS.
    @ivar key: a PEM file with its key; by default the certificate's file.
    @ivar url: how others reach it, C{https://…}; with a path, where a proxy has the pages
        below one.
    @ivar hosts: C{Host} headers that are answered; others get 421.  By default the
        endpoint's address, C{localhost}, and the host of C{url}.
    @ivar token_file: its first line has to come as C{Authorization: Bearer …} with
        C{/metrics}; read again when it changes.
    @ivar users: a file made by C{deferrals passwd}: who may see the pages; without it
        all who reach them.
    @ivar operators: which of them may change the queue, in any form of Unicode; without
        any, that is for the command line.
    """

    endpoint: str
    certificate: str | None = None
    key: str | None = None
    url: str | None = attrs.field(default=None, validator=checked(_url))
    hosts: tuple[str, ...] = ()
    token_file: str | None = None
    users: str | None = None
    operators: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise BadSetting("key", "no key without a certificate")
        isGuarded = self.certificate is not None and self.token_file is not None
        if not self.isLocal and not (isGuarded and self.users is not None):
            raise BadSetting("endpoint", _ELSEWHERE)
        if self.operators and self.users is None:
            raise BadSetting("operators", "no operators without users")
        if not all(map(_isHost, self.hosts)):
            raise BadSetting("hosts", "names and addresses, without a port and brackets")

    @property
    def interface(self) -> str:
        """
        The address where it listens, as far as the endpoint says it.
        """
        found = _INTERFACE.search(self.endpoint)
        return "" if found is None else found[1].replace("\\", "")

    @property
    def isLocal(self) -> bool:
        """
        Whether only this machine can reach it.
        """
        if self.endpoint.startswith("unix:"):
            return True
        return _LOOPBACK.fullmatch(self.interface) is not None

    @property
    def isSecure(self) -> bool:
        """
        Whether browsers come by https, be it to a proxy that speaks TLS for this server.
        """
        return self.certificate is not None or (self.url or "").startswith("https:")

    @property
    def root(self) -> str:
        """
        The path that browsers see before that of each page, without a slash at its end;
        empty, where the pages are at the root of their host.
        """
        return urlsplit(self.url or "").path.rstrip("/")

    @property
    def names(self) -> frozenset[str]:
        """
        The hosts that are answered, in small letters and without a port.
        """
        if self.hosts:
            return frozenset(one.lower() for one in self.hosts)
        found = {"localhost", self.interface.lower()}
        if self.url is not None:
            found.add(urlsplit(self.url).hostname or "")
        return frozenset(found - {""})
