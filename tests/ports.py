"""
Port numbers for servers that a test starts.

A number that the kernel hands out for "any port" may be taken by the next outgoing connection of
any program before the server binds it, and again while the server is down.
So these numbers lie below those that the kernel hands out, and each process of tests has a block
of them to itself.
"""

import fcntl
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from functools import cache

#: The first number of the first block; the kernel's own begin at 32768 (Linux' default).
FIRST = 20000

#: Numbers in a block: one comes again only after all others of its block.
SIZE = 500

BLOCKS = 25


@cache
def ownBlock(pid: int) -> tuple[int, Iterator[int]]:
    """
    A block that no other process of tests has.

    @param pid: this process: a child of it needs one of its own.
    @return: the lock, which lasts as long as this process, and the block's numbers, over and over.
    """
    directory = os.path.join(tempfile.gettempdir(), f"ports-of-tests-{os.getuid()}")
    os.makedirs(directory, exist_ok=True)
    for number in range(BLOCKS):
        lock = os.open(os.path.join(directory, str(number)), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        first = FIRST + number * SIZE
        return lock, itertools.cycle(range(first, first + SIZE))
    raise AssertionError(f"all {BLOCKS} blocks of ports are in use: see {directory}")


def freePort() -> int:
    """
    A port on which nobody listens, on any interface, and which stays this process' own.
    """
    _, numbers = ownBlock(os.getpid())
    for number in itertools.islice(numbers, SIZE):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", number))
            except OSError:
                continue
        return number
    raise AssertionError("no port of this process' block is free")
