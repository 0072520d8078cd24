"""
A machine of several is stopped until it is thought dead, and wakes while others deliver what
it had: some of that it was delivering itself, and more waited for its turn.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from tests.crash.clusterworld import ClusterWorld, Machine, calmly
from tests.crash.explained import Nap
from tests.crash.traffic import NAPS
from tests.integration.support import until

#: What it has in hand: more than it delivers until it knows, however many it does at once.
IN_HAND = [*NAPS] * 7

#: So long others may need until they have what it had, in seconds.
DEAD_SECONDS = 20.0

#: So long a process that wakes may need to ask the database, in seconds.
ASKED_SECONDS = 10.0

#: What another machine is delivering.
_LEASED = (
    "SELECT 1 FROM mail.recipients JOIN mail.owners ON id = owner"
    " WHERE status = 1 AND recipient LIKE '%%nap.example%%' AND machine <> %s LIMIT 1"
)


def sleep(world: ClusterWorld, machine: Machine) -> tuple[Nap, str]:
    """
    It sleeps, and has woken.

    @return: from when to when; and what was wrong.
    """
    said = machine.probe.bringAll(IN_HAND)
    wrong = [] if all(one.startswith("250") for one in said) else [f"before its sleep: {said}"]
    pids, servers = machine.processes(), machine.servers()
    before = {number for number, _ in world.owners(machine)}
    began = time.monotonic()
    send(pids, signal.SIGSTOP)
    try:
        _isThoughtDead(world, machine, before)
    except AssertionError as error:
        wrong.append(str(error))
    finally:
        send(pids, signal.SIGCONT)
    try:
        until(calmly(lambda: world.isWhole(machine, before)), "it knows", ASKED_SECONDS)
    except AssertionError as error:
        wrong.append(str(error))
    enrolled = world.enrolled(machine, before)
    now = time.monotonic()
    return Nap(began, {pid: enrolled.get(pid, now) for pid in servers}), "; ".join(wrong)


def _isThoughtDead(world: ClusterWorld, machine: Machine, before: set[int]) -> None:
    """
    Wait until others have found it dead, and deliver what it had.
    """

    def isDead() -> bool:
        found = {number for number, _ in world.owners(machine)}
        return not found & before

    until(calmly(isDead), f"{machine.name} is thought dead", DEAD_SECONDS)
    ask = world.primary.instance.ask
    isLeased = calmly(lambda: bool(ask(_LEASED, machine.name)))
    until(isLeased, f"others deliver what {machine.name} had", DEAD_SECONDS)


def send(pids: list[int], number: signal.Signals) -> None:
    """
    Send a signal to processes, of which some may have ended.
    """
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
