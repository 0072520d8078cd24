"""
The line ends of mail: CRLF and nothing else (RFC 5321 §2.3.8).
"""

from __future__ import annotations


def hasBare(data: bytes) -> bool:
    """
    Whether there is a CR or an LF that is not part of a CRLF.
    """
    # All that is not text, in one sweep, is twice what the pairs are.
    return len(data) - len(data.translate(None, b"\r\n")) != 2 * data.count(b"\r\n")


def normalised(data: bytes) -> bytes:
    """
    Every bare CR and bare LF of a complete message made a CRLF.
    """
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
