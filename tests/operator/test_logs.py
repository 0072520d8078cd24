"""
Where logs are, and how their lines are read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
import stat

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import DeferralsError
from deferrals.operator import logs
from deferrals.operator.logs import LogEntry, Logs, entriesIn

STAMP = "2026-11-23T16:00:00.000+00:00"
WHEN = 1795449600.0


def texts(found: Logs) -> list[str]:
    """
    What all events say.
    """
    return [entry.text for entry in found.entries()]


class LinesTests(SynchronousTestCase):
    """
    L{entriesIn}.
    """

    def read(self, *lines: str) -> list[LogEntry]:
        return list(entriesIn(io.StringIO("".join(f"{line}\n" for line in lines))))

    def test_kinds(self) -> None:
        """Plain and JSON, of this version and of those before, behind what a journal puts there."""
        for line in (
            f"{STAMP} [d] text",
            "2026-11-23T16:00:00.000+0000 [d] text",
            "2026-11-23T17:00:00+01:00 [d] text",
            f"Nov 23 16:00:00 mx deferrals[1]: {STAMP} [d] text",
            f"2026-11-24T18:00:00+0000 mx twistd[1]: {STAMP} [d] text",
            f"Tue 2026-11-24 18:00:00 UTC mx deferrals.service[1]: {STAMP} [d] text",
            f"1795976267.580371 mx twistd[1]: {STAMP} [d] text",
            f"[    0.000001] mx twistd[1]: {STAMP} [d] text",
            f"{STAMP} mx twistd: [d] text",
            f'Nov 23 16:00:00 mx twistd[1]: {{"time": "{STAMP}", "text": "[d] text"}}',
            f'{{"time": "{STAMP}", "text": "[d] text", "event": "x"}}',
        ):
            self.assertEqual(self.read(line), [LogEntry(WHEN, "[d] text")], line)

    def test_behind(self) -> None:
        """A traceback belongs to its event, in both kinds."""
        plain = self.read("\tlost", f"{STAMP} a", "\tb", "\tc", f"{STAMP} d")
        self.assertEqual([entry.text for entry in plain], ["a\n\tb\n\tc", "d"])
        wrapped = "2026-11-24T18:00:00+0000 mx twistd[1]: "
        (one,) = self.read(f"{wrapped}{STAMP} [d] a", f"{wrapped}        b")
        self.assertEqual(one, LogEntry(WHEN, "[d] a\n\tb"))

    def test_within(self) -> None:
        """What looks like a journal's words within a line of ours is a part of it."""
        for text in (
            "[d] 1M84B9SJQ005Q: [Errno 28] No space",
            f"[d] mx twistd[1]: {STAMP} [d] text",
            "[d] mx a: {}",
        ):
            self.assertEqual(self.read(f"{STAMP} {text}"), [LogEntry(WHEN, text)])
        (one,) = self.read(f'{{"time": "{STAMP}", "text": "a", "traceback": "b\\nc"}}')
        self.assertEqual(one.text, "a\n\tb\n\tc")

    def test_none(self) -> None:
        """What is no event of ours is left out."""
        for line in ("", "{", "{}", "hello", "2026-99-99T16:00:00+00:00 x", "[1]", '{"time": 1}'):
            self.assertEqual(self.read(line), [], line)

    def test_id(self) -> None:
        """Whose event it is, and not what else looks like an id in it."""
        for text, number in (
            ("[deferrals.transaction] 1M84B9SJQ005Q to=<a@b.c>", "1M84B9SJQ005Q"),
            ("1M84B9SJQ005Q: spamassassin 3", "1M84B9SJQ005Q"),
            ("[d] 192.0.2.1 said 1M84B9SJQ005Q", ""),
            ("[d] 1M84B9SJQ005Q2 x", ""),
        ):
            self.assertEqual(LogEntry(0.0, text).id, number, text)


class PlacesTests(SynchronousTestCase):
    """
    L{Logs}.
    """

    def test_rotated(self) -> None:
        """A file is read with all that was rotated away before it, in whatever form."""
        path = self.mktemp()
        for name, opened in (
            (path, open),
            (f"{path}.1", open),
            (f"{path}.2.gz", gzip.open),
            (f"{path}-20261122.bz2", bz2.open),
            (f"{path}.other", open),
        ):
            with opened(name, "wt") as file:  # type: ignore[operator]
                file.write(f"{STAMP} {os.path.basename(name)}\n")
        name = os.path.basename(path)
        wanted = [name, f"{name}-20261122.bz2", f"{name}.1", f"{name}.2.gz"]
        found = Logs([path])
        self.assertEqual(sorted(texts(found)), wanted)
        self.assertEqual(sorted(texts(found)), wanted, "a second time")
        os.remove(path)
        self.assertEqual(sorted(texts(Logs([path]))), wanted[1:])

    def test_missing(self) -> None:
        """A log that is not there is said."""
        self.assertRaises(OSError, texts, Logs([self.mktemp()]))

    def journalctl(self, script: str) -> None:
        """
        The program of that name does this.
        """
        directory = os.path.abspath(self.mktemp())
        os.mkdir(directory)
        path = os.path.join(directory, "journalctl")
        with open(path, "w") as file:
            file.write(f"#!/bin/sh\n{script}\n")
        os.chmod(path, stat.S_IRWXU)
        self.patch(os, "environ", {**os.environ, "PATH": f"{directory}:/usr/bin:/bin"})

    def test_journal(self) -> None:
        """The journal of a unit, as often as it is read; and why there is none."""
        self.journalctl(f'echo "{STAMP} $*"')
        found = Logs([], "mx")
        self.addCleanup(found.close)
        self.assertEqual(texts(found), ["--no-pager --quiet --output=cat --unit=mx"])
        self.assertEqual(texts(found), texts(found))
        self.journalctl("echo no rights >&2; exit 1")
        error = self.assertRaises(DeferralsError, Logs, [], "mx")
        self.assertEqual(str(error), "journalctl: no rights")
        self.patch(os, "environ", {"PATH": ""})
        self.assertIn("--log", str(self.assertRaises(DeferralsError, Logs, [], "mx")))

    def test_input(self) -> None:
        """Standard input can be read twice, too."""
        self.patch(logs.sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{STAMP} a\n".encode())))
        found = Logs(["-"])
        self.addCleanup(found.close)
        self.assertEqual((texts(found), texts(found)), (["a"], ["a"]))
