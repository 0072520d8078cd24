"""
Under pytest, too, tests run in a directory of their own, as trial has it:
nothing is left in the checkout, and a second run finds nothing of the first.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import configuration


@pytest.fixture(scope="session", autouse=True)
def directory() -> Iterator[str]:
    """A temporary working directory for the whole run."""
    former = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="deferrals-tests-") as path:
        configuration.set_hypothesis_home_dir(path)
        os.chdir(path)
        try:
            yield path
        finally:
            os.chdir(former)
