"""
C{deferrals reload}: let the server read its configuration again, and say how it
went.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from deferrals.config.places import described
from deferrals.config.tables import CONTROL, STATE_DIR, load
from deferrals.errors import ConfigError, DeferralsError
from deferrals.operator.control import ControlClient
from deferrals.operator.output import complain, say, sayJSON
from deferrals.plugins.finding import stagePlugins

_STATE_DIR = re.compile(r"""^state_dir[ \t]*=[ \t]*(["'])([^"'\n]+)\1""", re.M)

#: So much of a file that cannot be read as a whole is looked through.
MAX_CHARACTERS = 1 << 20

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def addCommand(commands: Commands) -> None:
    """
    Add C{reload} to the command line.
    """
    parser = commands.add_parser(
        "reload",
        help="let the server read its configuration again",
        description="The server does all that the file says, or nothing. Exit status: 0 done;"
        " 1 the old configuration stays; 2 no server answers.",
    )
    parser.add_argument("--config", "-c", metavar="FILE", help="the server's configuration")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """
    The command.

    @return: the exit status.
    """
    path = None if arguments.config is None else os.path.abspath(arguments.config)
    try:
        socket = load(path, stagePlugins()).controlPath
    except ConfigError as error:
        connection = None if path is None else _serverOf(path)
        if connection is None:
            return _refused(described(error), arguments.json)
    else:
        try:
            connection = ControlClient(socket)
        except OSError as error:
            complain(f"no server answers: {socket}: {error.strerror}")
            return 2
    with contextlib.closing(connection):
        try:
            later: list[str] = connection.call("reload")
        except DeferralsError as error:
            return _refused(str(error), arguments.json)
    if arguments.json:
        sayJSON({"reloaded": True, "later": list(later)})
    else:
        for remark in (*later, "configuration reloaded"):
            say(remark)
    return 0


def _serverOf(path: str) -> ControlClient | None:
    """
    The server of a file that does not say where it is, since it cannot be read or is
    wrong: it is to say so itself, and in its log.

    @return: C{None} where none is found.
    """
    for directory in _stateDirs(path):
        with contextlib.suppress(OSError):
            client = ControlClient(os.path.join(directory, CONTROL))
            if _has(client, path):
                return client
            client.close()
    return None


def _has(client: ControlClient, path: str) -> bool:
    try:
        return bool(client.call("status").get("config") == path)
    except DeferralsError:
        return False


def _stateDirs(path: str) -> Iterator[str]:
    """
    Where the state of a server may be: as a line of the file says, whatever is wrong
    with the others; where the service manager says; and where it is by default.
    """
    found = None
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        found = _STATE_DIR.search(file.read(MAX_CHARACTERS))
    base = os.path.dirname(path)
    for name in (found and found[2], os.environ.get("STATE_DIRECTORY"), STATE_DIR):
        if name:
            yield os.path.join(base, name)


def _refused(why: str, forPrograms: bool) -> int:
    if forPrograms:
        sayJSON({"reloaded": False, "why": why})
    else:
        complain(f"not reloaded, the old configuration stays: {why}")
    return 1
