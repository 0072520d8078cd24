"""
What is broken in SQL: no unit test has a database, so the tests of the store itself are
asked, with one PostgreSQL for all of them.

Run as a program it is that server, until its standard input ends: the process that forks
for each mutation must not have imported the package.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import attrs

from tests.mutants.mutations import Mutation
from tests.zygote import ROOT

#: The mutations.
LIST = os.path.join(os.path.dirname(__file__), "store.toml")

#: Tells tests the server's port.
PORT = "DEFERRALS_TEST_POSTGRESQL_PORT"

#: What must see them; the last of its classes takes longer than all others together.
TESTS = os.path.join("tests", "integration", "test_store.py")

#: Hangs on what else the database does at the same time: VACUUM leaves what others may see.
_ALONE = "UpkeepTests::test_planned"

#: How many seconds of a processor they may use, all of them: so much and more they do
#: where a mutation is not seen.
SECONDS = 180.0


@attrs.frozen
class StoreTests:
    """
    @ivar names: of all tests, in their order.
    """

    names: list[str]

    def tests(self, mutation: Mutation) -> list[str]:
        """
        Any of them may see it.
        """
        return self.names

    def patience(self, tests: list[str]) -> float:
        """
        See L{SECONDS}.
        """
        return SECONDS


def collected() -> StoreTests:
    """
    All that there are.
    """
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", TESTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=ROOT, capture_output=True, text=True
    )
    found = [line for line in done.stdout.splitlines() if "::" in line]
    return StoreTests([one for one in found if not one.endswith(_ALONE)])


@contextlib.contextmanager
def server() -> Iterator[None]:
    """
    A server, while it is needed.
    """
    pipe = subprocess.PIPE
    argv = [sys.executable, "-m", "tests.mutants.stores"]
    with subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        os.environ[PORT] = process.stdout.readline().strip()
        try:
            yield
        finally:
            del os.environ[PORT]
            process.stdin.close()


def main() -> None:
    """
    Be the server.
    """
    from tests.integration.clusters import primary

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the server ends with us
    print(primary().port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
