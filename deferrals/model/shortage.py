"""
What this server itself has run out of: ports, descriptors, processes, memory, the
network.  That is no fault of what it wanted to reach.
"""

from __future__ import annotations

import errno

_OURS = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN),
    *(errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.ENETUNREACH, errno.EPERM),
}


def isOurs(error: BaseException | None) -> bool:
    """
    Whether an exception says that this server lacks something: its own number, or that
    of the exception which it tells of (Twisted's C{osError} and C{socketError}); or an
    C{isOurs} of its own.
    """
    below = getattr(error, "socketError", None)
    numbers = (getattr(one, name, None) for one in (error, below) for name in ("errno", "osError"))
    return getattr(error, "isOurs", False) is True or any(one in _OURS for one in numbers)
