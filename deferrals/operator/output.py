"""
What all commands write alike: text for people, of which much comes from outside,
or JSON for programs.
"""

from __future__ import annotations

import datetime
import json
import sys
from typing import TextIO

from deferrals.model.json import JSON
from deferrals.model.text import cleaned


def say(text: str = "", file: TextIO | None = None) -> None:
    """
    Write one line for people.

    @param file: standard output, unless it says otherwise.
    """
    print(cleaned(text), file=file)


def moment(when: float) -> str:
    """
    A time as the log and all commands show it: ISO 8601, of this machine's zone, which
    is said.

    @param when: seconds since the epoch.
    """
    return datetime.datetime.fromtimestamp(when).astimezone().isoformat(timespec="milliseconds")


def sayJSON(value: JSON) -> None:
    """
    Write one line for programs: exactly what is known, in printable ASCII.
    """
    print(json.dumps(value).replace("\x7f", "\\u007f"))


def complain(text: str) -> None:
    """
    Tell the operator, on standard error, why there is no result.
    """
    for line in f"deferrals: {text}".split("\n"):
        say(line, sys.stderr)
