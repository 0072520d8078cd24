"""
C{deferrals passwd}: write the file that C{--auth passwd:FILE} reads.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import secrets
import stat
import sys
from typing import TYPE_CHECKING

from deferrals import durable
from deferrals.model.passwords import Argon2Hash, Secrets, formatLine, goodName, parseLine
from deferrals.model.sasl import SaslError, ScramKeys, saslprep
from deferrals.operator.output import complain

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_SALT_OCTETS = 16


def addCommand(commands: Commands) -> None:
    """
    Add C{passwd} to the command line.
    """
    passwd = commands.add_parser(
        "passwd",
        help="write a user's password into a file for --auth passwd:FILE",
        description="Asks for the password, or reads one line of standard input. A running"
        " server sees the change at the next attempt to log in.",
    )
    passwd.add_argument("file", metavar="FILE")
    passwd.add_argument("user", metavar="USER")
    passwd.add_argument("--delete", action="store_true", help="remove the user")
    passwd.add_argument(
        "--no-scram",
        action="store_true",
        help="keep no keys for SCRAM-SHA-256, only the hash that PLAIN and LOGIN need",
    )
    passwd.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """
    The command.

    @return: the exit status.
    """
    try:
        user = goodName(arguments.user)
        line = None
        if not arguments.delete:
            line = formatLine(user, makeSecrets(_askPassword(), not arguments.no_scram))
        found = replaceLine(arguments.file, user, line)
    except (ValueError, OSError) as error:
        complain(str(error))
        return 1
    if arguments.delete and not found:
        complain(f"{arguments.file} has no {user}")
        return 1
    return 0


def _askPassword() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("The same again: ") != password:
        raise ValueError("these are two different passwords")
    return password


def makeSecrets(password: str, scram: bool) -> Secrets:
    """
    @raise ValueError: it is no password.
    """
    try:
        if not saslprep(password):
            raise ValueError("no empty password")
    except SaslError as error:
        raise ValueError(f"in the password: {error}") from None
    salt, other = secrets.token_bytes(_SALT_OCTETS), secrets.token_bytes(_SALT_OCTETS)
    return Secrets(
        Argon2Hash.make(password, salt), ScramKeys.make(password, other) if scram else None
    )


def replaceLine(path: str, user: str, line: str | None) -> bool:
    """
    Write the file anew with this line for a user; without, where it is C{None}.
    What else stands in it stays.  A reader finds the old file or the new one.

    @return: whether the user was there.
    """
    lines, found = [], False
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        for old in file.read().splitlines():
            parsed = parseLine(old)
            if parsed is None or parsed[0] != user:
                lines.append(old)
            elif not found:
                found = True
                lines += [line] if line is not None else []
    if line is not None and not found:
        lines.append(line)
    _write(path, "".join(one + "\n" for one in lines))
    return found


def _write(path: str, text: str) -> None:
    """
    The owner and the mode of the old file stay; a new one is its owner's only, or,
    in a directory that hands down its group, that group's to read.
    """
    path = os.path.abspath(path)
    handsDown = os.stat(os.path.dirname(path)).st_mode & stat.S_ISGID
    mode, owner = 0o640 if handsDown else 0o600, None
    with contextlib.suppress(FileNotFoundError):
        old = os.stat(path)
        mode = old.st_mode & 0o777
        if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
            owner = old.st_uid, old.st_gid
    durable.write(f"{path}.{os.getpid()}.new", path, [text.encode("utf-8")], mode, owner)
