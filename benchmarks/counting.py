"""
What counting costs: the processor's time of a message with events that are counted
and without, by turns in one process; and that of a scrape.

    python -m benchmarks.counting [--messages 1000] [--rounds 100]

Without: nothing is counted or measured; the log is the same.  It is one process that
changes with a signal, since two of the same code differ by more than what is sought:
by where their memory lies.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator

from benchmarks import load
from tests.integration.support import until
from tests.ports import freePort

CONFIG = """
hostname = "bench.example"
bounces = "none"
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
[limits]
connections_per_address = 1000
[web]
endpoint = "tcp:{web}:interface=127.0.0.1"
[policies.open]
envelope = "accept"
[[recipients]]
match = "*"
policy = "open"
deliver = {{ use = "discard" }}
allow = ["127.0.0.1"]
"""

#: The server; SIGUSR2 ends the counting, and begins it again.
RUN = """
import signal, sys
from deferrals.model import events
from deferrals.model.status import Status
from twisted.scripts.twistd import run

counted = {(Status, name): getattr(Status, name) for name in ("count", "measure", "later")}

def change(*_):
    for module in list(sys.modules.values()):
        if getattr(module, "happened", None) is happened:
            counted[module, "happened"] = happened
    isCounted = Status.count is counted[Status, "count"]
    for (owner, name), function in counted.items():
        setattr(owner, name, (lambda *arguments: None) if isCounted else function)

happened = events.happened
signal.signal(signal.SIGUSR2, change)
run()
"""


@contextlib.contextmanager
def server() -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """
    @return: its process, and its ports for mail and for monitoring.
    """
    with tempfile.TemporaryDirectory() as directory:
        port, web = freePort(), freePort()
        config = os.path.join(directory, "bench.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(port=port, web=web))
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", RUN, "--nodaemon", "--pidfile=", "--logfile=log"),
                *("deferrals", "--config", config),
            ],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        try:
            until(lambda: _isReady(web), "the server")
            yield process, port, web
        finally:
            process.terminate()
            process.wait()


def _isReady(web: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{web}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _cpu(pid: int) -> float:
    """
    The processor's time of a process, in seconds; more exact than its ticks.
    """
    seconds = 0.0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
            seconds += int(file.read().split()[0]) / 1e9
    return seconds


def _scrape(pid: int, web: int) -> float:
    """
    @return: what one costs the processor, in milliseconds.
    """
    before = _cpu(pid)
    for _ in range(10):
        urllib.request.urlopen(f"http://127.0.0.1:{web}/metrics").read()
        time.sleep(1.1)
    return 1000 * (_cpu(pid) - before) / 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counting", description=__doc__)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    found: dict[bool, list[float]] = {True: [], False: []}
    with server() as (process, port, web):
        load.source(port, 1000, 20, 4096)  # warm
        counts = True
        for number in range(2 * arguments.rounds):
            before = _cpu(process.pid)
            load.source(port, arguments.messages, 20, 4096)
            used = _cpu(process.pid) - before
            found[counts].append(1000 * used / arguments.messages)
            if number % 2 == 0:  # by turns, and neither is always the first
                process.send_signal(signal.SIGUSR2)
                counts = not counts
        scrape = _scrape(process.pid, web)
    for words, counts in (("counted", True), ("not counted", False)):
        median = statistics.median(found[counts])
        rounds = " ".join(f"{one:.3f}" for one in sorted(found[counts]))
        print(f"{words}: {median:.4f} ms of CPU for a message ({rounds})")
    ratios = [one / other for one, other in zip(found[True], found[False], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    print(
        f"counting costs {100 * (median - 1):+.2f} % (half of the rounds: {100 * (low - 1):+.2f}"
        f" to {100 * (high - 1):+.2f}); a scrape {scrape:.1f} ms"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
