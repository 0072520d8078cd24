"""
Commands that need no more than a reply: NOOP, HELP, VRFY, EXPN, RSET, QUIT.
"""

from __future__ import annotations

from deferrals.errors import PeerError
from deferrals.model.mixed import End
from deferrals.model.reply import (
    R221_BYE,
    R250_OK,
    R252_VRFY,
    R501_SYNTAX,
    R502_NOT_HERE,
    Reply,
)
from deferrals.smtp.server.base import SessionBase


class SimpleCommands:
    """
    See the module.

    @param session: whose client gives them.
    """

    __slots__ = ("_session",)

    def __init__(self, session: SessionBase) -> None:
        self._session = session

    def do_NOOP(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.9.
        """
        self._session.reply(R250_OK)

    def do_HELP(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.8.
        """
        self._session.reply(
            Reply(214, "2.0.0", "RFC 5321; DEFERRALS and PRDR give each recipient an answer")
        )

    def do_VRFY(self, rest: str) -> None:
        """
        RFC 5321 §3.5.3: a sender learns at RCPT TO whether a recipient is here.
        """
        if not rest:
            raise PeerError("no argument", R501_SYNTAX)
        self._session.reply(R252_VRFY)

    def do_EXPN(self, rest: str) -> None:
        """
        RFC 5321 §3.5.2.
        """
        self._session.reply(R502_NOT_HERE)

    def do_RSET(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.5.
        """
        if rest:
            raise PeerError("an argument", R501_SYNTAX)
        self._session.abort("RSET", End.RSET)
        self._session.reply(R250_OK)

    def do_QUIT(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.10.
        """
        if rest:
            raise PeerError("an argument", R501_SYNTAX)
        self._session.abort("QUIT", End.QUIT)
        self._session.say(R221_BYE)
        self._session.close()
