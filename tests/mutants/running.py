"""
Tests in forks of a process that has imported what they need but for the package:
the fork compiles the broken text when the module is imported.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
import math
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

#: A fork may take so many times the seconds by the clock that it may use of a
#: processor: machines are shared.
PATIENCE = 5.0

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


class Late(enum.Enum):
    """
    How a fork has not ended.
    """

    BUSY = "it used more of a processor than it may"
    WAITING = "it did not end in time, and may have waited for a processor"


class Fate(enum.Enum):
    """
    What became of a mutation.
    """

    KILLED = "killed"
    ENDLESS = "killed: it did not end"
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
    Import what is everywhere the same.  Garbage collection is left as it is: hypothesis
    asks it who refers to its random numbers, and warns where none is found.
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


#: What is told of a fork: its lines, or that it has not ended.
Told = Callable[[str | Late], None]


@attrs.define
class _Fork:
    pid: int
    fd: int
    ends: float
    told: Told


def inForks(jobs: Iterable[tuple[float, Callable[[], list[str]], Told]], count: int) -> None:
    """
    Run functions in forks, so many at once.

    @param jobs: for each the seconds of a processor that it may use, what the fork does,
        and what is told of it.
    """
    running: list[_Fork] = []
    for seconds, function, told in jobs:
        while len(running) >= count:
            _reap(running)
        running.append(_start(seconds, function, told))
    while running:
        _reap(running)


def _start(seconds: float, function: Callable[[], list[str]], told: Told) -> _Fork:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return _Fork(pid, reading, time.monotonic() + seconds * PATIENCE, told)
    try:
        os.setsid()
        _limit(seconds)
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        os.chdir(ROOT)
        os.write(writing, ("\n".join(function())[:4000] + "\n").encode())
    except BaseException as error:
        os.write(writing, f"{FAULT} {error!r}\n".encode())
    finally:
        os._exit(0)


def _limit(seconds: float) -> None:
    """
    Seconds of a processor, whatever else runs on the machine; and memory.
    """
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_OCTETS),
        (resource.RLIMIT_CPU, math.ceil(seconds)),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, resource.getrlimit(what)[1]))


def _reap(running: list[_Fork]) -> None:
    """
    Wait until at least one has ended, or its time is over.
    """
    while True:
        for one in running:
            pid, status = os.waitpid(one.pid, os.WNOHANG)
            isLate = not pid and time.monotonic() > one.ends
            if pid or isLate:
                running.remove(one)
                _ended(one, Late.WAITING if isLate else _how(status))
                return
        time.sleep(0.01)


def _how(status: int) -> Late | None:
    isBusy = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
    return Late.BUSY if isBusy else None


def _ended(one: _Fork, late: Late | None) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(one.pid, signal.SIGKILL)  # and what it has started
    if late is Late.WAITING:
        os.waitpid(one.pid, 0)
    os.set_blocking(one.fd, False)
    try:
        text = os.read(one.fd, 8000).decode()
    except BlockingIOError:
        text = ""
    os.close(one.fd)
    one.told(late or (text.strip() if text else f"{FAULT} it died"))
