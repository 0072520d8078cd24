"""
The secrets by which reverse paths are rewritten.
"""

from __future__ import annotations

import os
import stat


def secretsIn(path: str) -> list[bytes]:
    """
    @return: the lines of a file, without what is empty.
    @raise ValueError: they cannot be used; the text says what was expected.
    """
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            secrets = [line for line in file.read().splitlines() if line.strip()]
    except OSError as error:
        raise ValueError(f"a file that can be read: {path}: {error.strerror}") from None
    if mode & 0o077:
        raise ValueError(f"a file that only its owner can read (0600): {path} has {mode:04o}")
    if not secrets:
        raise ValueError(f"a secret in the first line of {path}")
    return secrets
