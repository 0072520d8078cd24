"""
Which tests see a line: recorded in one run of all unit tests, and kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import attrs
from coverage import CoverageData

from tests.mutants.mutations import Mutation
from tests.mutants.recording import SECONDS
from tests.zygote import ROOT

#: A fork may use so many seconds of a processor, and so many times what its tests took
#: when they were recorded.
LEAST_SECONDS, TIMES = 15.0, 4.0

#: The unit tests, for pytest.
UNITS = ["tests", "--ignore=tests/integration", "--ignore=tests/crash"]

#: What it counts runs in a process of its own, in which nothing is broken.
UNITS += ["--deselect=tests/test_growth.py::GrowthTests::test_linear"]


@attrs.frozen
class Recorded:
    """
    @ivar lines: by file and line, the tests that run it; the empty one is the import.
    @ivar seconds: how long each test took.
    """

    lines: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]

    def tests(self, mutation: Mutation) -> list[str]:
        """
        The tests that may see a mutation: its own module's first, and of these the
        quickest.
        """
        found = self.lines.get(mutation.path, {})
        statement, function = mutation.lines()
        for lines in (statement, function, set(found)):
            tests = {test for line in lines for test in found.get(line, ()) if test}
            if tests:
                break
        folder, name = os.path.split(mutation.file.removeprefix("deferrals/"))
        own = os.path.join("tests", folder, f"test_{name}")
        return sorted(
            tests, key=lambda one: (one.partition("::")[0] != own, self.seconds.get(one, 0.0), one)
        )

    def patience(self, tests: list[str]) -> float:
        """
        How many seconds of a processor these tests may use.
        """
        return LEAST_SECONDS + TIMES * sum(self.seconds.get(one, 0.0) for one in tests)


def record(directory: str) -> None:
    """
    Run all unit tests once.

    @param directory: where the record is kept.
    @raise subprocess.CalledProcessError: a test fails.
    """
    data = os.path.join(directory, "lines")
    options = [f"--data-file={data}", "--source=deferrals", "-m", "pytest", "-q"]
    options += ["-p", "tests.mutants.recording", "-p", "no:cacheprovider", *UNITS]
    subprocess.run(
        [sys.executable, "-b", "-m", "coverage", "run", *options],
        cwd=ROOT,
        env={**os.environ, SECONDS: os.path.join(directory, "seconds.json")},
        check=True,
    )


def recorded(directory: str) -> Recorded:
    """
    What was recorded.
    """
    data = CoverageData(os.path.join(directory, "lines"))
    data.read()
    with open(os.path.join(directory, "seconds.json"), encoding="utf-8") as file:
        seconds = json.load(file)
    return Recorded(
        {path: data.contexts_by_lineno(path) for path in data.measured_files()}, seconds
    )


def isRecorded(directory: str) -> bool:
    """
    Whether there is a record that is not older than any module or test.
    """
    path = os.path.join(directory, "seconds.json")
    if not os.path.exists(path):
        return False
    when = os.stat(path).st_mtime
    for top in ("deferrals", "tests"):
        for folder, folders, names in os.walk(os.path.join(ROOT, top)):
            folders[:] = [one for one in folders if one not in ("__pycache__", "mutants")]
            for name in names:
                if name.endswith(".py") and os.stat(os.path.join(folder, name)).st_mtime > when:
                    return False
    return True
