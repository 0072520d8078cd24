"""
What counting costs: the processor's time of a message with events that are counted
and without, by turns in one run; and that of a scrape.

    python -m benchmarks.counting [--messages 500] [--rounds 40]

Without: the server of the same code, in which nothing is counted or measured; the
log is the same.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator

from benchmarks import load
from tests.integration.support import freePort, until

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

#: The server in which nothing is counted.
WITHOUT = """
from deferrals.model import events
from deferrals.model.status import Status
Status.count = Status.measure = events.happened = lambda *arguments: None
"""

RUN = "from twisted.scripts.twistd import run; run()"


@contextlib.contextmanager
def server(counts: bool) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """
    @return: its process, and its ports for mail and for monitoring.
    """
    with tempfile.TemporaryDirectory() as directory:
        port, web = freePort(), freePort()
        config = os.path.join(directory, "bench.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(port=port, web=web))
        code = RUN if counts else WITHOUT + RUN
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", code, "--nodaemon", "--pidfile=", "--logfile=log"),
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counting", description=__doc__)
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    found: dict[bool, list[float]] = {True: [], False: []}
    scrapes = []
    with server(True) as (one, port, web), server(False) as (other, plain, _):
        for each in (port, plain):
            load.source(each, 300, 20, 4096)  # warm
        pairs = [(True, one, port), (False, other, plain)]
        for _ in range(arguments.rounds):
            pairs.reverse()  # neither is always the first
            for counts, process, where in pairs:
                before = _cpu(process.pid)
                load.source(where, arguments.messages, 20, 4096)
                used = _cpu(process.pid) - before
                found[counts].append(1000 * used / arguments.messages)
        before = load.cpu(one.pid)
        for _ in range(10):
            urllib.request.urlopen(f"http://127.0.0.1:{web}/metrics").read()
            time.sleep(1.1)
        scrapes.append(1000 * (load.cpu(one.pid) - before) / 10)
    for words, counts in (("counted", True), ("not counted", False)):
        median = statistics.median(found[counts])
        rounds = " ".join(f"{one:.3f}" for one in sorted(found[counts]))
        print(f"{words}: {median:.4f} ms of CPU for a message ({rounds})")
    ratios = [one / other for one, other in zip(found[True], found[False], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    print(
        f"counting costs {100 * (median - 1):+.2f} % (half of the rounds: {100 * (low - 1):+.2f}"
        f" to {100 * (high - 1):+.2f}); a scrape {scrapes[0]:.1f} ms"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
