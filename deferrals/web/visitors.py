"""
Who looks at the pages: everybody, where the configuration names no users; otherwise
those who have logged in, for a while, with a cookie that only this process knows.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from typing import Protocol
from urllib.parse import quote

import attrs
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import LogLevel
from twisted.web.resource import Resource
from twisted.web.server import Request
from twisted.web.template import tags

from deferrals.errors import TooManyFailures
from deferrals.logger import Logger
from deferrals.model.networks import LOCAL
from deferrals.model.status import Status
from deferrals.web.answers import (
    BadRequest,
    Elsewhere,
    Outcome,
    Page,
    PageAnswer,
    parameter,
    parameters,
    rootOf,
)
from deferrals.web.forms import checkField, checkOrigin
from deferrals.web.layout import Viewer, field, hidden, notice

_log = Logger(namespace="deferrals.web")

COOKIE = b"deferrals"

#: How long a login lasts, in seconds, and how many there may be; the oldest goes first.
SESSION_SECONDS = 12 * 3600.0
MAX_SESSIONS = 1000


class WebUsers(Protocol):
    """
    Those who may log in.
    """

    def login(self, user: str, password: str, address: str) -> Deferred[str]:
        """
        @return: a Deferred of the user's name; it fails with C{UnauthorizedLogin}, and
            with L{TooManyFailures<deferrals.errors.TooManyFailures>}.
        """

    def stamp(self, user: str) -> Deferred[str]:
        """
        @return: a Deferred of what changes with the user's password; empty where there
            is no such user any longer.
        """


@attrs.frozen
class LoginSession:
    """
    One login.

    @ivar stamp: the user's, when it was made.
    """

    user: str
    stamp: str
    csrf: str
    until: float


class Sessions:
    """
    All logins; they live longer than a configuration.

    @param clock: the time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._found: dict[bytes, LoginSession] = {}

    def begin(self, user: str, stamp: str) -> str:
        """
        @return: what a cookie is to hold.
        """
        token = secrets.token_urlsafe(32)
        until = self._clock.seconds() + SESSION_SECONDS
        self._found[_key(token)] = LoginSession(user, stamp, secrets.token_urlsafe(32), until)
        while len(self._found) > MAX_SESSIONS:
            del self._found[next(iter(self._found))]
        return token

    def find(self, token: str) -> LoginSession | None:
        """
        The login of a cookie.
        """
        found = self._found.get(_key(token))
        if found is not None and found.until <= self._clock.seconds():
            self.end(token)
            return None
        return found

    def end(self, token: str) -> None:
        """
        It is over.
        """
        self._found.pop(_key(token), None)


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class Visitors:
    """
    @param sessions: the logins.
    @param users: who may log in; C{None} where none has to.
    @param operators: which of them may change the queue.
    @param isSecure: whether browsers come by https, as the configuration has it.
    @param counted: where attempts to log in are counted.
    """

    def __init__(
        self,
        sessions: Sessions,
        users: WebUsers | None,
        operators: Collection[str],
        isSecure: bool,
        counted: Status,
    ) -> None:
        self._sessions = sessions
        self._users = users
        self._operators = operators
        self._isSecure = isSecure
        self._counted = counted

    async def find(self, request: Request) -> Viewer | None:
        """
        @return: who looks; C{None} for a stranger.
        """
        if self._users is None:
            return Viewer()
        token = _token(request)
        session = self._sessions.find(token)
        if session is None:
            return None
        if await self._users.stamp(session.user) != session.stamp:
            self._sessions.end(token)  # it has another password, or is there no longer
            return None
        return Viewer(session.user, session.user in self._operators, session.csrf)

    async def login(self, request: Request, user: str, password: str) -> None:
        """
        Let a visitor in: the answer has a cookie.

        @raise UnauthorizedLogin: the password is not the user's.
        @raise TooManyFailures: it is not looked at.
        """
        if self._users is None:
            return
        try:
            name = await self._users.login(user, password, clientOf(request))
            stamp = await self._users.stamp(name)
        except UnauthorizedLogin:
            self._report(request, user, "failed")
            raise
        except TooManyFailures as error:
            self._report(request, user, "not tried", error.limit)
            raise
        except Exception:
            self._report(request, user, "not possible", level=LogLevel.error)
            raise
        self._report(request, name, "accepted")
        self._sessions.end(_token(request))
        self._setCookie(request, self._sessions.begin(name, stamp))

    def logout(self, request: Request) -> None:
        """
        The visitor's login is over.
        """
        self._sessions.end(_token(request))
        self._setCookie(request, "", 0)

    def _setCookie(self, request: Request, token: str, seconds: float = SESSION_SECONDS) -> None:
        request.addCookie(
            _cookieOf(request),
            token.encode("ascii"),
            path=rootOf(request).encode("ascii") or b"/",
            max_age=str(round(seconds)).encode("ascii"),
            httpOnly=True,
            sameSite=b"strict",
            secure=self._isSecure or request.isSecure(),
        )

    def _report(
        self,
        request: Request,
        user: str,
        outcome: str,
        limit: str = "",
        level: LogLevel = LogLevel.info,
    ) -> None:
        _log.tell(
            self._counted,
            "{client} authentication {outcome} for {user} by {mechanism}",
            event="authentication",
            level=level,
            client=clientOf(request),
            outcome=outcome,
            user=user[:100],
            mechanism="web",
            limit=limit,
        )


def _token(request: Request) -> str:
    return (request.getCookie(_cookieOf(request)) or b"").decode("ascii", "replace")[:100]


def _cookieOf(request: Request) -> bytes:
    """
    Each way to pages has a cookie of its own: browsers send those of shorter ways, too.
    """
    return COOKIE + rootOf(request).replace("/", "-").encode("ascii")


def clientOf(request: Request) -> str:
    """
    The client's address.
    """
    found = getattr(request.getClientAddress(), "host", None)
    return found if isinstance(found, str) and found else LOCAL


def ownPath(text: str) -> str:
    """
    @return: a path of ours, as a login is to lead to; the first page's, where it is none.
    """
    isOwn = text.startswith("/") and not text.startswith("//")
    return text if isOwn and text.isascii() and text.isprintable() and "\\" not in text else "/"


class LoginPage(PageAnswer):
    """
    C{/login}.
    """

    methods = (b"GET", b"HEAD", b"POST")

    def __init__(self, clock: IReactorTime, visitors: Visitors) -> None:
        super().__init__(clock)
        self._visitors = visitors

    async def page(self, request: Request) -> Outcome:
        to = ownPath(parameter(request, "to"))
        if await self._visitors.find(request) is not None:
            return Elsewhere(to)
        return _form(to)

    async def act(self, request: Request) -> Outcome:
        checkOrigin(request)
        to, user = ownPath(parameter(request, "to")), parameter(request, "user")
        password = (parameters(request, "password") or [""])[-1]
        try:
            await self._visitors.login(request, user, password)
        except UnauthorizedLogin:
            return _form(to, user, "This is not the password of such a user.", 403)
        except TooManyFailures:
            return _form(to, user, "Too many wrong passwords: try again later.", 429)
        return Elsewhere(to)


def _form(to: str, user: str = "", problem: str = "", code: int = 200) -> Page:
    made = tags.form(
        hidden("to", to),
        field("User", "user", user, autocomplete="username", required="required"),
        field(
            "Password",
            "password",
            kind="password",
            autocomplete="current-password",
            required="required",
        ),
        tags.div(tags.button("Log in", type="submit")),
        method="post",
        action="/login",
    )
    said = notice(problem, "bad") if problem else ""
    return Page("Log in", tags.section(said, made, class_="login"), code=code)


class LogoutPage(PageAnswer):
    """
    C{/logout}.
    """

    methods = (b"POST",)

    def __init__(self, clock: IReactorTime, visitors: Visitors) -> None:
        super().__init__(clock)
        self._visitors = visitors

    async def act(self, request: Request) -> Outcome:
        viewer = await self._visitors.find(request)
        if viewer is not None and viewer.name:
            checkField(request, viewer.csrf)
            self._visitors.logout(request)
        return Elsewhere("/login")


class ViewedPage(PageAnswer):
    """
    A page for those who may see it; others are led to the login.

    @param visitors: says who looks.
    """

    def __init__(self, clock: IReactorTime, visitors: Visitors) -> None:
        super().__init__(clock)
        self._visitors = visitors

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        See C{Resource}: there is nothing else.
        """
        return self.missing("There is no such page.")

    def missing(self, said: str) -> NoSuchPage:
        """
        @return: what says, to those who may look, that there is no such thing.  A stranger
            is led to the login, and does not learn which names there are.
        """
        return NoSuchPage(self._clock, self._visitors, said)

    async def page(self, request: Request) -> Outcome:
        viewer = await self._visitors.find(request)
        return _toLogin(request) if viewer is None else await self.view(request, viewer)

    async def view(self, request: Request, viewer: Viewer) -> Outcome:
        """
        @return: what C{viewer} is shown.
        """
        raise NotImplementedError


class NoSuchPage(ViewedPage):
    """
    What is not there.

    @param said: a sentence that says so.
    """

    def __init__(self, clock: IReactorTime, visitors: Visitors, said: str) -> None:
        super().__init__(clock, visitors)
        self._said = said

    async def view(self, request: Request, viewer: Viewer) -> Outcome:
        """
        See L{ViewedPage}.
        """
        return Page("Not here", notice(self._said, "bad"), viewer, code=404)


def _toLogin(request: Request) -> Elsewhere:
    return Elsewhere(f"/login?to={quote(request.uri.decode('ascii', 'replace')[:1000], safe='')}")


async def operatorOf(request: Request, visitors: Visitors) -> Viewer:
    """
    @return: who may change the queue, and has sent a form of ours.
    @raise BadRequest: the request is not such a user's.
    """
    viewer = await visitors.find(request)
    if viewer is None or not viewer.mayOperate:
        raise BadRequest("Only operators may do this (web.operators).", 403)
    checkField(request, viewer.csrf)
    return viewer
