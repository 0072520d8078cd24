"""
Whether a connection that could not be made is worth waiting for.

A server that is not there, is starting, or has no connection left will have one.  What it
says of a password, a role or a database stays so until the operator mends it.

C{libpq} keeps the code of what the server has said to itself, and the text is in the
server's language.  So where the server has said something, it is asked once more, by hand,
without a name that it could know: who may come in nowhere is not told that it has no room.

Everything here runs in a thread.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from deferrals.errors import SpoolError, StoreAway

if TYPE_CHECKING:
    import psycopg

_T = TypeVar("_T")

#: What the server itself has said: C{libpq} writes how bad it is, in the server's language,
#: and two blanks.
_SAID = re.compile(r"(?:^|: )\w+:  ")

#: The server wants a password, and there is none: C{libpq} says so in English.
_NO_PASSWORD = "no password supplied"

#: In English, where it does not say so to everybody: the connections left are for others.
_NO_ROOM = ("remaining connection slots", "too many connections for", "no more connections")

#: It starts or ends; it has no connection left.
_PASSING = frozenset({"57P03", "53300"})

#: The protocol's version, and a role that no server has.
_HELLO = struct.pack("!I", 3 << 16) + b"user\0deferrals is it up\0\0"

#: How long the answer to that may take, in seconds; and how long it may be.
_SECONDS, _OCTETS = 2.0, 65536


def entered(connect: Callable[[], _T]) -> _T:
    """
    @param connect: makes a connection.
    @raise StoreAway: it cannot be made now.
    @raise SpoolError: it can never be made like that.
    """
    try:
        return _tried(connect)
    except StoreAway:
        raise
    except SpoolError:
        return _tried(connect)  # it may have been starting when it was asked first


def _tried(connect: Callable[[], _T]) -> _T:
    import psycopg

    try:
        return connect()
    except psycopg.OperationalError as error:
        kind = SpoolError if _isLasting(error) else StoreAway
        raise kind(textOf(error)) from error
    except (OSError, ValueError) as error:  # the password cannot be read
        raise SpoolError(textOf(error)) from error


def _isLasting(error: psycopg.OperationalError) -> bool:
    """
    Whether the server takes connections, and not this one.
    """
    text = textOf(error)
    if _NO_PASSWORD in text:
        return True
    if not _SAID.search(text) or any(one in text for one in _NO_ROOM):
        return False
    pgconn = error.pgconn
    if pgconn is None:
        return False
    host = os.fsdecode(pgconn.hostaddr or pgconn.host)
    try:
        return _said(host, int(pgconn.port)) not in _PASSING
    except (OSError, ValueError):
        return False


def _said(host: str, port: int) -> str:
    """
    What a server says to a role that it does not know.

    @param host: a name, an address, or the directory of a socket.
    @return: the code of its error; nothing, where it wants a password.
    @raise OSError: it says nothing.
    """
    octets = b""
    with _connected(host, port) as connection:
        connection.sendall(struct.pack("!I", len(_HELLO) + 4) + _HELLO)
        while not octets or (octets[:1] == b"E" and b"\0\0" not in octets[5:]):
            got = connection.recv(_OCTETS)
            octets += got
            if not got or len(octets) > _OCTETS:
                raise OSError("it does not answer as PostgreSQL does")
    fields = octets[5:].split(b"\0") if octets[:1] == b"E" else []
    return next((one[1:].decode("ascii", "replace") for one in fields if one[:1] == b"C"), "")


def _connected(host: str, port: int) -> socket.socket:
    if not host.startswith(("/", "@")):
        return socket.create_connection((host, port), _SECONDS)
    local = socket.socket(socket.AF_UNIX)
    local.settimeout(_SECONDS)
    try:
        local.connect(f"{host}/.s.PGSQL.{port}".replace("@", "\0", 1))
    except BaseException:
        local.close()
        raise
    return local


def textOf(error: BaseException) -> str:
    """
    @return: one line, without what C{libpq} says of the connection string.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    return lines[-1] if lines[0].endswith(":") else lines[0]  # several hosts, or one
