"""
How fast mail is taken, side by side with other servers on the same machine.

    python -m benchmarks              everything: accepting, delivering, growth; hours
    python -m benchmarks --quick      a few seconds per cell, for a first look
    python -m benchmarks --parts accepting --works small,large
    python -m benchmarks --help       what can be chosen

Each round measures each peer once, one after the other, so that what else the
machine does hits all of them; the table has medians, and the ratio to stock
C{twisted.mail}.  What was found is in C{docs/performance.md}.  What the choices for mixed mail cost
is another table: C{python -m benchmarks.mixed}.
"""
