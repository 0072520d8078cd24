"""
Which unit test runs which line: a plugin of pytest's, for a run under coverage.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import coverage
import pytest

#: Where the plugin is told to write how long each test took.
SECONDS = "DEFERRALS_TEST_SECONDS"

_seconds: dict[str, float] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """What runs from here on, runs for this test."""
    running = coverage.Coverage.current()
    assert running is not None, "this is for a run under coverage"
    running.switch_context(item.nodeid)
    result = yield
    running.switch_context("")
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """How long it took."""
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration


def pytest_sessionfinish() -> None:
    """Keep it, beside the lines."""
    with open(os.environ[SECONDS], "w", encoding="utf-8") as file:
        json.dump(_seconds, file)
