"""
C{deferrals plugins}: the stages and tables there are, and where each was found.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from deferrals.operator.output import complain, say, sayJSON
from deferrals.plugins.finding import FoundPlugin, doubles, findPlugins

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def addCommand(commands: Commands) -> None:
    """
    Add C{plugins} to the command line.
    """
    plugins = commands.add_parser(
        "plugins",
        help="the stages there are, and where each was found",
        description="Exit status: 0; 1 if a module cannot be used, or a name is taken twice.",
    )
    plugins.add_argument("--json", action="store_true", help="for programs")
    plugins.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """
    The command.

    @return: the exit status.
    """
    found, broken = findPlugins()
    rows = [_row(one) for one in sorted(found, key=_order)]
    if arguments.json:
        sayJSON([dict(zip(_COLUMNS, row, strict=True)) for row in rows])
    else:
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for row in rows:
            head = "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=False))
            say(f"{head}  {row[3]}")
    problems = [*map(str, broken), *doubles(found)]
    for problem in problems:
        complain(problem)
    return 1 if problems else 0


_COLUMNS = ("interface", "name", "module", "file")


def _order(one: FoundPlugin) -> tuple[str, str]:
    interface, name = one.key
    return interface.__name__, name


def _row(one: FoundPlugin) -> tuple[str, str, str, str]:
    return *_order(one), one.module, one.file
