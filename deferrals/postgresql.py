"""
Connections to PostgreSQL servers, for all who ask one: tables, the spool, notes.  It
needs the package C{psycopg}, which the extra C{postgresql} brings.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import psycopg

_Row = TypeVar("_Row")

#: What C{libpq} says without saying what may be a password.
_HARMLESS = 'invalid connection option "'


def hasDriver() -> bool:
    """
    Whether C{psycopg} is installed.
    """
    return importlib.util.find_spec("psycopg") is not None


def checkConninfo(conninfo: str) -> None:
    """
    @raise ValueError: it is no connection string of C{libpq}; says why, where that says
        nothing of what may be a password.
    """
    import psycopg.conninfo

    try:
        psycopg.conninfo.conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError as error:
        why = str(error).strip()
        raise ValueError(why if why.startswith(_HARMLESS) else "") from None


class Link(Generic[_Row]):
    """
    A connection that any thread may cut: the one that waits for an answer then has
    none.
    """

    def __init__(self, connection: psycopg.Connection[_Row]) -> None:
        self.connection = connection
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def cut(self) -> None:
        """
        There is no answer.
        """
        with contextlib.suppress(OSError):  # it is closed
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """
        It is not used any longer.
        """
        self.connection.close()
        self._socket.close()
