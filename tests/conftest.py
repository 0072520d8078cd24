"""
Under pytest, too, tests run in a directory of their own, as trial has it:
nothing is left in the checkout, and a second run finds nothing of the first.
"""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import configuration

from tests.rigs import LONG, keep

#: A directory in memory, and how much has to be free there.
MEMORY, MEMORY_OCTETS = "/dev/shm", 1 << 30

#: After so many objects the collector looks for what refers to itself: not each time
#: that a test makes hundreds.
RUBBISH = 10_000

# pytest wants Twisted's version for each test, and would read its metadata each time.
importlib.metadata.version = functools.cache(importlib.metadata.version)


def pytest_collection_finish() -> None:
    """All is imported."""
    keep()
    gc.set_threshold(RUBBISH)


@pytest.fixture(scope="session", autouse=True)
def directory() -> Iterator[str]:
    """
    A temporary working directory for the whole run: on a disk in the long form; else
    in memory, where nothing waits for a disk.
    """
    former = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="deferrals-tests-", dir=_place()) as path:
        configuration.set_hypothesis_home_dir(path)
        os.chdir(path)
        try:
            yield path
        finally:
            os.chdir(former)


def _place() -> str | None:
    isRoomy = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_OCTETS
    return MEMORY if isRoomy and not LONG else None
