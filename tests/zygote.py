"""
Programs in Python, started quickly: a process that has imported the package
forks for each, and the fork runs what the interpreter would run.  Of the second
that a start takes, more than nine tenths are imports.

A start that has to be a real one (C{DEFERRALS_RIGS=long}) is one.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

from tests.rigs import LONG

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

#: What our programs import, but for what imports the reactor (C{twisted.mail.smtp} does).
_PACKAGES = ("auth", "config", "model", "operator", "relay", "smtp.client", "spool", "stages")
_MODULES = ("twisted.scripts.twistd", "deferrals.client", "deferrals.plugins.builtin")

#: The standard streams, and where the end of the program is told.
_DESCRIPTORS = 4


def popen(
    argv: Sequence[str], env: Mapping[str, str], **more: Any
) -> subprocess.Popen[bytes] | Forked:
    """
    C{subprocess.Popen}, for a program in Python; by a fork where this will do.

    @param argv: of this interpreter: C{-m MODULE} or C{-c PROGRAM}, and
        arguments.
    @param env: a clock that is set has to be there from the first import on, so
        it is no fork then.
    """
    if LONG or "DEFERRALS_TEST_CLOCK" in env:
        return subprocess.Popen(argv, env=env, **more)
    return Zygote.of(env).start(argv[1:], env, **more)


class Forked:
    """
    What tests want of C{Popen}, for a program that a zygote has started.

    @ivar pid: its process.
    @ivar returncode: C{None} while it runs.
    """

    def __init__(self, argv: Sequence[str], told: IO[bytes]) -> None:
        self.args = argv
        self._told = told
        self.pid = int(told.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._within(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def _within(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], seconds)[0]:
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Zygote:
    """
    The other process, as it is seen from here.

    @param pythonPath: that of its programs.
    """

    _all: dict[str, Zygote] = {}

    def __init__(self, pythonPath: str) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.zygote", str(other.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join([pythonPath, ROOT])},
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
            )
        atexit.register(self.close)

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Zygote:
        """
        The one for programs with this environment.
        """
        pythonPath = env.get("PYTHONPATH", "")
        if pythonPath not in cls._all:
            cls._all[pythonPath] = cls(pythonPath)
        return cls._all[pythonPath]

    def start(
        self,
        words: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None = None,
        stdin: IO[bytes] | int | None = None,
        stdout: IO[bytes] | int | None = None,
        stderr: IO[bytes] | int | None = None,
        start_new_session: bool = False,
    ) -> Forked:
        """
        C{subprocess.Popen}, for what is behind the interpreter's name.
        """
        request = {
            "argv": list(words),
            "env": dict(env),
            "cwd": cwd or os.getcwd(),
            "session": start_new_session,
        }
        reading, writing = os.pipe()
        with open(os.devnull, "rb") as null:
            out = _descriptor(stdout, 1)
            errors = out if stderr == subprocess.STDOUT else _descriptor(stderr, 2)
            streams = [null.fileno() if stdin is None else _descriptor(stdin, 0), out, errors]
            socket.send_fds(self._socket, [json.dumps(request).encode()], [*streams, writing])
        os.close(writing)
        return Forked([sys.executable, *words], os.fdopen(reading, "rb", buffering=0))

    def close(self) -> None:
        """
        Start no more; what runs goes on.
        """
        self._socket.close()
        self._process.wait()


def _descriptor(stream: IO[bytes] | int | None, default: int) -> int:
    if stream is None:
        return default
    return stream if isinstance(stream, int) else stream.fileno()


def _serve(control: socket.socket) -> tuple[str, str]:
    """
    In the zygote.  It returns in each program.

    @return: C{-m} or C{-c}, and what is behind it.
    """
    while True:
        request, received, *_ = socket.recv_fds(control, 1 << 20, _DESCRIPTORS)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not request:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            return _keep(json.loads(request), received)
        for descriptor in received:
            os.close(descriptor)


def _keep(request: dict[str, Any], received: list[int]) -> tuple[str, str]:
    """
    In a fork, which forks the program and tells of its end.  It returns in the
    program alone.
    """
    *streams, told = received
    pid = os.fork()
    if pid:
        for descriptor in streams:
            os.close(descriptor)
        os.write(told, b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(told, b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    os.close(told)
    return _become(request, streams)


def _become(request: dict[str, Any], streams: list[int]) -> tuple[str, str]:
    """
    In the program, before it begins.
    """
    if request["session"]:
        os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[0] = ""
    option, what, *arguments = request["argv"]
    sys.argv = ["-c" if option == "-c" else what, *arguments]
    return option, what


def main() -> None:
    """
    The zygote, and then each program.
    """
    for name in _PACKAGES:
        package = importlib.import_module(f"deferrals.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"deferrals.{name}."):
            importlib.import_module(module.name)
    for name in _MODULES:
        importlib.import_module(name)
    assert "twisted.internet.reactor" not in sys.modules, "a reactor cannot be shared"
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        option, what = _serve(control)
    if option == "-c":
        exec(what, {"__name__": "__main__"})
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
