"""
Tests with real programs on loopback: our own server as a process, and daemons
and clients that others wrote.  Where one of them is not installed, its tests
say so and are skipped; C{.ci/run} installs them all.
"""
