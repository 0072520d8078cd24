"""
C{deferrals reload}: let the server read its configuration again, and say how it
went.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import TYPE_CHECKING

from deferrals.config.places import described
from deferrals.config.tables import load
from deferrals.errors import ConfigError, DeferralsError
from deferrals.operator.control import ControlClient
from deferrals.operator.output import complain, say, sayJSON
from deferrals.plugins.finding import stagePlugins

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
        return _refused(described(error), arguments.json)
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


def _refused(why: str, forPrograms: bool) -> int:
    if forPrograms:
        sayJSON({"reloaded": False, "why": why})
    else:
        complain(f"not reloaded, the old configuration stays: {why}")
    return 1
