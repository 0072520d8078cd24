"""
A mail server that gives every recipient their own answer while the sender is
still on the line.

See C{docs/} for the way of a message through the three stages, and
L{deferrals.interfaces} for the points at which it is extended.
"""

from incremental import Version

__all__ = ["__version__", "version"]

__version__ = "0.1.0"

#: The same, as what deprecations are counted by.
version = Version("deferrals", 0, 1, 0)
