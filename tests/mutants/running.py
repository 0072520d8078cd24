"""
Tests in forks of a process that has imported what they need but for the package:
the fork compiles the broken text when the module is imported.
"""

from __future__ import annotations

import contextlib
import enum
import gc
import importlib
import os
import pkgutil
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from types import CodeType

import attrs
import pytest

from tests.mutants.mutations import Mutation
from tests.zygote import ROOT

#: What a fork tells begins with it where it could not do its work.
FAULT = "the fork failed:"

#: A fork may take so long, and so many times what its tests took when they were
#: recorded: machines are shared.
LEAST_SECONDS, TIMES = 30.0, 6.0

#: So much memory a fork may have: a mutation may ask for all of it.
MEMORY_OCTETS = 4 << 30

#: What tests and the package import, none of which has a reactor.
_PACKAGES = ("hypothesis", "attrs", "cattrs", "treq._version", "yaml", "zope.interface", "re2")
_MODULES = (
    *("twisted.trial.unittest", "twisted.internet.task", "twisted.internet.defer"),
    *("twisted.python.logfile", "twisted.protocols.tls", "twisted.web.http", "twisted.web.client"),
    *("hypothesis.strategies", "cryptography.x509", "OpenSSL.SSL", "idna", "argon2", "cachetools"),
    *("service_identity", "puremagic", "email.message", "sqlite3", "unittest.mock"),
)


class Fate(enum.Enum):
    """
    What became of a mutation.
    """

    KILLED = "killed"
    TIMED_OUT = "killed: it did not end"
    SURVIVED = "survived"
    UNTESTED = "survived: no test runs it"
    UNKNOWN = "not judged"


@attrs.frozen
class Verdict:
    """
    @ivar killer: the test that failed first.
    """

    mutation: Mutation | None
    fate: Fate
    killer: str = ""


class _Broken(SourceFileLoader):
    """
    Compiles another text for one module.
    """

    broken: tuple[str, str] = ("", "")

    def get_code(self, fullname: str) -> CodeType | None:
        path, text = self.broken
        if self.path == path:
            return compile(text, path, "exec", dont_inherit=True)
        return SourceFileLoader.get_code(self, fullname)


class _Chosen:
    """
    A plugin of pytest's: runs some tests of those that were found, in this order.

    @ivar failed: the test that failed.
    """

    def __init__(self, tests: Iterable[str]) -> None:
        self.order = {test: number for number, test in enumerate(tests)}
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self.order]
        items[:] = sorted(chosen, key=lambda item: self.order[item.nodeid])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid or FAULT)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def warm() -> None:
    """
    Import what is everywhere the same.
    """
    for name in (*_PACKAGES, *_MODULES):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    plugins = importlib.import_module("_pytest")
    for module in pkgutil.iter_modules(plugins.__path__, "_pytest."):
        with contextlib.suppress(ImportError):
            importlib.import_module(module.name)
    for name in list(sys.modules):
        if name == "deferrals" or name.startswith("deferrals."):
            raise RuntimeError(f"{name} must not be imported yet")
    assert "twisted.internet.reactor" not in sys.modules, "a reactor cannot be shared"
    gc.freeze()


def run(tests: Sequence[str], mutation: Mutation | None = None, *, first: bool = True) -> list[str]:
    """
    In a fork: run tests, with a sentence broken.

    @param first: whether to end with the first that fails.
    @return: the tests that have failed.
    """
    if mutation is not None:
        _Broken.broken = (mutation.path, mutation.apply())
    _install()
    chosen = _Chosen(tests)
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    options = ["-q", "-p", "no:cacheprovider", "--tb=no", "--no-header"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # it was imported before
    code = pytest.main([*options, *(["-x"] if first else []), *files], plugins=[chosen])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not chosen.failed:
        return [f"{FAULT} {code!r}"]
    return chosen.failed


def _install() -> None:
    """
    Let modules be loaded with the broken text.
    """
    loaders = [(ExtensionFileLoader, EXTENSION_SUFFIXES), (_Broken, SOURCE_SUFFIXES)]
    sys.path_hooks.insert(0, FileFinder.path_hook(*loaders))
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


@attrs.define
class _Fork:
    pid: int
    fd: int
    ends: float
    told: Callable[[str | None], None]


def inForks(
    jobs: Iterable[tuple[float, Callable[[], list[str]], Callable[[str | None], None]]], count: int
) -> None:
    """
    Run functions in forks, so many at once.

    @param jobs: for each the seconds that it may take, what the fork does, and what is
        told of it: the lines that came, or C{None} where it did not end.
    """
    running: list[_Fork] = []
    for seconds, function, told in jobs:
        while len(running) >= count:
            _reap(running)
        running.append(_start(seconds, function, told))
    while running:
        _reap(running)


def _start(
    seconds: float, function: Callable[[], list[str]], told: Callable[[str | None], None]
) -> _Fork:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return _Fork(pid, reading, time.monotonic() + seconds, told)
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_OCTETS, MEMORY_OCTETS))
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        os.chdir(ROOT)
        os.write(writing, ("\n".join(function())[:4000] + "\n").encode())
    except BaseException as error:
        os.write(writing, f"{FAULT} {error!r}\n".encode())
    finally:
        os._exit(0)


def _reap(running: list[_Fork]) -> None:
    """
    Wait until at least one has ended, or its time is over.
    """
    while True:
        for one in running:
            pid, _ = os.waitpid(one.pid, os.WNOHANG)
            isLate = time.monotonic() > one.ends
            if pid or isLate:
                running.remove(one)
                _ended(one, isLate and not pid)
                return
        time.sleep(0.01)


def _ended(one: _Fork, isLate: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(one.pid, signal.SIGKILL)  # and what it has started
    if isLate:
        os.waitpid(one.pid, 0)
    os.set_blocking(one.fd, False)
    with contextlib.suppress(BlockingIOError):
        text = os.read(one.fd, 8000).decode()
        os.close(one.fd)
        one.told(None if isLate else text.strip())
        return
    os.close(one.fd)
    one.told(None)
