"""
The server as a process that a test starts itself: as a shell, a container or a
service manager does it, with what they pass on, and however it ends.

L{tests.integration.support.Server} is for tests that only want one that runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tests.integration.support import (
    CONFIG,
    PATIENCE,
    ROOT,
    TWISTD,
    IntegrationCase,
    cli,
    complete,
    greeting,
    path,
    until,
)
from tests.ports import freePort

#: What C{twistd} runs.
SERVICE = ("deferrals", "--config", "mx.toml")


class StartCase(IntegrationCase):
    """
    A directory with a configuration, and starts of the server in it.

    @ivar home: the directory.
    @ivar port: of the listeners that a configuration has at C{tcp:0} or C{tcp6:0}.
    """

    def setUp(self) -> None:
        self.home = self.directory()
        self.port = freePort()

    def write(self, config: str = CONFIG, name: str = "mx.toml") -> None:
        config = re.sub("(tcp6?):0:", rf"\1:{self.port}:", complete(config))
        with open(os.path.join(self.home, name), "w", encoding="utf-8") as file:
            file.write(config)

    def begin(
        self,
        *twistd: str,
        before: str = "true",
        service: Sequence[str] = SERVICE,
        environ: Mapping[str, str] | None = None,
        **more: Any,
    ) -> subprocess.Popen[bytes]:
        """
        Start it, with its output in the file C{log}.

        @param twistd: C{twistd}'s options.
        @param before: a shell's words; C{exec "$@"}, which is the server, is
            behind them.
        @param environ: further variables.
        @param more: for C{Popen}.
        """
        words = ["/bin/sh", "-c", f'{before} && exec "$@"', "sh", sys.executable, *TWISTD]
        variables = {**os.environ, "PYTHONPATH": path(ROOT), **(environ or {})}
        with open(os.path.join(self.home, "log"), "wb") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **more}
            process = subprocess.Popen(
                [*words, *twistd, *service], cwd=self.home, env=variables, **streams
            )
        self.addCleanup(self.end, process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.kill()
        process.communicate()

    def ended(self, *twistd: str) -> tuple[int, str]:
        """
        A start that is over: its exit status, and its standard error.
        """
        process = self.begin(*twistd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        errors = process.communicate(timeout=PATIENCE)[1]
        return process.returncode, errors.decode()

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        self.assertIn(process.wait(PATIENCE), (0, -signal.SIGTERM), self.log())
        self.assertNotIn("Traceback", self.log())

    def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def listens(self) -> bool:
        return bool(greeting(self.port))

    def ready(self) -> None:
        until(self.listens, "the server")

    def sent(self, to: str = "", recipient: str = "anna@example.net") -> None:
        """
        A mail that is taken.

        @param to: where, if it is not L{port}.
        """
        done = cli(
            *("send", "--to", to or f"127.0.0.1:{self.port}", "--from", "a@client.test"),
            *("--rcpt", recipient, "--sample", "plain"),
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + self.log())

    def read(self, name: str) -> str:
        with open(os.path.join(self.home, name), encoding="utf-8", errors="replace") as file:
            return file.read()

    def exists(self, name: str) -> bool:
        return os.path.exists(os.path.join(self.home, name))

    def log(self) -> str:
        return self.read("log")

    def logged(self, text: str, count: int = 1) -> None:
        """
        Wait for it.
        """
        until(lambda: self.log().count(text) >= count, f"{text}\n{self.log()}")
