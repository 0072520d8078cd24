"""
Tests of C{deferrals}.  Run them with C{python -m twisted.trial tests}, or
C{pytest tests}.
"""

from hypothesis import settings

from tests.rigs import examples

# The same examples each time, and no deadlines: these machines are shared.
# tests/fuzz is for finding new ones.
settings.register_profile(
    "suite", max_examples=examples(100), deadline=None, derandomize=True, database=None
)
settings.load_profile("suite")
