"""
C{deferrals reload}.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

from deferrals.cli import main
from deferrals.errors import DeferralsError
from deferrals.operator import reload
from tests.configs import LISTEN, ConfigCase


class CommandTests(ConfigCase):
    """
    What it says, and its exit status.
    """

    def run_(self, answer: Any, *words: str, text: str = LISTEN) -> tuple[int, str, str]:
        """
        @param answer: the server's: what changes later; an error; or an C{OSError}
            where there is no server.
        @return: the exit status, standard output, standard error.
        """
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(text)

        class Client:
            def __init__(self, socket: str) -> None:
                if isinstance(answer, OSError):
                    raise answer

            def call(self, name: str) -> Any:
                assert name == "reload"
                if isinstance(answer, Exception):
                    raise answer
                return answer

            def close(self) -> None:
                pass

        self.patch(reload, "ControlClient", Client)
        self.patch(sys, "stdout", io.StringIO())
        self.patch(sys, "stderr", io.StringIO())
        status = main(["reload", "--config", path, *words])
        return status, sys.stdout.getvalue(), sys.stderr.getvalue()  # type: ignore[attr-defined]

    def test_done(self) -> None:
        """0, and what changes only at the next start."""
        status, out, err = self.run_(["dns changes at the next start"])
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(out, "dns changes at the next start\nconfiguration reloaded\n")
        status, out, _ = self.run_(["x"], "--json")
        self.assertEqual((status, json.loads(out)), (0, {"reloaded": True, "later": ["x"]}))

    def test_refused(self) -> None:
        """1, and why; without asking, where the file is wrong."""
        error = DeferralsError("cannot listen on tcp:25: taken")
        status, out, err = self.run_(error)
        self.assertEqual((status, out), (1, ""))
        self.assertIn("not reloaded, the old configuration stays: cannot listen on tcp:25", err)
        status, out, _ = self.run_(error, "--json")
        self.assertEqual((status, json.loads(out)), (1, {"reloaded": False, "why": str(error)}))
        status, _, err = self.run_(OSError(), text="listen = 3")
        self.assertEqual(status, 1)
        self.assertIn("listen: expected a list", err)

    def server(self, path: str, socket: str, answer: Any) -> list[str]:
        """
        A server has this configuration, and answers at this socket alone.

        @return: what it is asked.
        """
        asked: list[str] = []

        class Client:
            def __init__(self, name: str) -> None:
                if name != socket:
                    raise FileNotFoundError

            def call(self, name: str) -> Any:
                asked.append(name)
                if name == "status":
                    return {"config": path}
                raise answer

            def close(self) -> None:
                asked.append("closed")

        self.patch(reload, "ControlClient", Client)
        self.patch(sys, "stdout", io.StringIO())
        self.patch(sys, "stderr", io.StringIO())
        return asked

    def test_serverSays(self) -> None:
        """A file that cannot be read is the server's to refuse, who has it in its log."""
        directory = os.path.abspath(self.mktemp())
        os.mkdir(directory)
        path, answer = os.path.join(directory, "mx.toml"), DeferralsError("said by the server")
        self.patch(os, "environ", {**os.environ, "STATE_DIRECTORY": "/var/lib/x"})
        for text, socket in (
            (None, f"{directory}/state/control"),
            (None, "/var/lib/x/control"),
            ("state_dir = 'other' # here\nlisten = [", f"{directory}/other/control"),
            ('x = 1\nstate_dir="/srv/x"', "/srv/x/control"),
        ):
            if text is not None:
                with open(path, "w") as file:
                    file.write(text)
            asked = self.server(path, socket, answer)
            self.assertEqual(main(["reload", "--config", path]), 1, socket)
            self.assertEqual(asked, ["status", "reload", "closed"])
            self.assertIn("old configuration stays: said by the server", sys.stderr.getvalue())  # type: ignore[attr-defined]

    def test_othersServer(self) -> None:
        """A server that has another configuration is not asked."""
        path = os.path.abspath(self.mktemp())
        asked = self.server("other.toml", os.path.dirname(path) + "/state/control", None)
        self.assertEqual(main(["reload", "--config", path]), 1)
        self.assertEqual(asked, ["status", "closed"])
        self.assertIn("cannot be read", sys.stderr.getvalue())  # type: ignore[attr-defined]

    def test_noServer(self) -> None:
        """2, and where one was looked for."""
        status, out, err = self.run_(ConnectionRefusedError(111, "Connection refused"))
        self.assertEqual((status, out), (2, ""))
        self.assertIn("no server answers: ", err)
        self.assertIn("/control: Connection refused", err)
