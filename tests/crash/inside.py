"""
What the rigs have in a server's process: a sabotage, and a count of what it holds,
which it writes down when it gets C{SIGUSR2}.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import threading
from typing import Any

#: How a server is started for the rigs.
PROGRAM = (
    "-c",
    "from tests.crash import inside; inside.begin(); from twisted.scripts.twistd import run; run()",
)

#: Linux's C{prctl}: which signal a process gets when its parent ends.
_PDEATHSIG = 1

#: The environment's name for the file that the count is written to.
HELD = "DEFERRALS_RIG_HELD"

#: The environment's name for it: whether the server is of the next version.
NEXT = "DEFERRALS_RIG_NEXT"


def begin() -> None:
    """
    Before the server is there.  It ends with its rig: one that is left finds the database
    of the next rig at the port of its own, and delivers what that has.
    """
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    name = os.environ.get("DEFERRALS_RIG_SABOTAGE")
    if name:
        from tests.crash.sabotage import SABOTAGES

        if name not in SABOTAGES:  # psycopg is not everywhere
            from tests.crash.clustersabotage import CLUSTER_SABOTAGES

            CLUSTER_SABOTAGES[name]()
        else:
            SABOTAGES[name]()
    if NEXT in os.environ:
        _becomeNext()
    if HELD in os.environ:
        signal.signal(signal.SIGUSR2, _tell)


def _becomeNext() -> None:
    """
    Be the next version of the program: its tables have more.
    """
    from deferrals.spool.postgresql import owners, schema

    version = schema.VERSION + 1
    schema.STEPS[version] = "ALTER TABLE recipients ADD next text; CREATE TABLE next (name text)"
    schema.VERSION = owners.VERSION = version


def _tell(number: int, frame: Any) -> None:
    from twisted.internet import reactor

    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    held = {
        "memory, MiB": round(resident / 2**20, 1),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "timers": len(reactor.getDelayedCalls()),  # type: ignore[attr-defined]
        "threads": threading.active_count(),
        "objects": len(gc.get_objects()),
    }
    path = os.environ[HELD]
    with open(path + ".part", "w", encoding="ascii") as file:
        json.dump(held, file)
    os.rename(path + ".part", path)
