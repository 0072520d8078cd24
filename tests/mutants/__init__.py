"""
Sentences that must be true, each broken in a line of the package; and whether the
unit tests see it.

    python -m tests.mutants

breaks them all, and names those that no test has seen.
"""
