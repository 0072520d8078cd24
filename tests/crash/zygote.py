"""
Starts servers quickly: everything is imported once, then each is a fork, which
runs C{twistd} as it always runs.  A line on standard input is the name of a log;
the answer is the process's number.
"""

from __future__ import annotations

import os
import signal
import sys

from twisted.scripts import twistd

assert "twisted.internet.reactor" not in sys.modules, "a reactor cannot be shared"


def serve(log: str, config: str) -> None:
    """
    In the fork.
    """
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = ["twistd", "--nodaemon", "--pidfile=", "deferrals", "--config", config]
    twistd.run()


def main() -> None:
    """
    Until the end of the input.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            serve(line.strip(), sys.argv[1])
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
