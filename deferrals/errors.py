"""
Every exception that C{deferrals} raises on purpose, sorted by whose fault it is.

Nothing here depends on anything else of the package.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "Changed",
    "ConfigError",
    "DeferralsError",
    "HopError",
    "ListenError",
    "Overtaken",
    "PeerError",
    "SpoolError",
    "StageError",
    "TableError",
]


class DeferralsError(Exception):
    """
    The root of all of them: catch this to catch what the package itself raises.
    """


class PeerError(DeferralsError):
    """
    The other side broke the protocol.

    @ivar reply: the L{Reply<deferrals.model.reply.Reply>} that tells a client
        so; C{None} where the peer is a server.
    """

    def __init__(self, message: str, reply: Any = None) -> None:
        super().__init__(message)
        self.reply = reply


class Changed(DeferralsError):
    """
    A note is not any longer what it was when its writer read it.

    @ivar value: what it says now; C{None} where it is gone.
    @ivar version: its version now; C{None} where it is gone.
    """

    def __init__(self, value: Any = None, version: int | None = None) -> None:
        super().__init__("the note has been changed since it was read")
        self.value = value
        self.version = version


class LineError(DeferralsError):
    """
    Another process of this server has not answered, or not as it should.
    """


class ListenError(DeferralsError):
    """
    A listener's port cannot be had.

    @ivar endpoint: which.
    """

    def __init__(self, endpoint: str, why: str) -> None:
        super().__init__(f"cannot listen on {endpoint}: {why}")
        self.endpoint = endpoint


class StageError(DeferralsError):
    """
    A stage failed, or gave an answer that is none.  It becomes a temporary
    refusal for the recipients that the stage was asked about, and for no
    other one.
    """


class TableError(StageError):
    """
    A table cannot be asked, or gave an answer that is no row, and nothing is known
    from before.
    """


class HopError(DeferralsError):
    """
    There was no session with another server: no connection, no TLS, no
    welcome.  Nothing was said about any recipient.

    @ivar enhanced: the enhanced status code that says what was missing.
    @ivar isOurs: whether it was something of this server's own: a port, a
        descriptor, the network.
    """

    def __init__(self, message: str, enhanced: str = "4.4.1", *, isOurs: bool = False) -> None:
        super().__init__(message)
        self.enhanced = enhanced
        self.isOurs = isOurs


class SpoolError(DeferralsError):
    """
    The spool could not make a message durable (a full disk, a failed sync, an
    unwritable directory).  The sender still owns the message.
    """


class Overtaken(SpoolError):
    """
    What was to be recorded with a notice is not so any longer: a recipient was
    delivered, removed or taken by another process meanwhile.  Nothing is wrong.
    """


class StoreAway(SpoolError):
    """
    The database is not there.  What it was asked for has not been done.
    """


class OutcomeUnknown(SpoolError):
    """
    The database was asked to make something durable, and its answer was not heard: it
    may have been done, or not.
    """


class ConfigError(DeferralsError):
    """
    The configuration says something that cannot be.

    @ivar path: the file, or C{None} for the built-in default.
    @ivar problems: each as (key, what was expected there), the key written
        like C{policies.strict.content[0].url}.
    """

    def __init__(self, path: str | None, problems: list[tuple[str, str]]) -> None:
        where = path or "built-in default"
        lines = [": ".join(filter(None, (where, key, expected))) for key, expected in problems]
        super().__init__("\n".join(lines))
        self.path = path
        self.problems = problems


class TooManyFailures(DeferralsError):
    """
    Too many passwords were wrong: the next one is not looked at.

    @param text: of whom.
    @ivar limit: which of C{[limits]} says so; empty where none does.
    """

    def __init__(self, text: str = "", limit: str = "") -> None:
        super().__init__(text)
        self.limit = limit
