"""
What may stand in a command to a server: addresses, parameters and names that
cannot be read as anything else than what they are.

The rules are wider than RFC 5321's grammar, so that a server can be asked about
an odd address, too.  But nothing may end a line, a path or a word early.
"""

from __future__ import annotations

import re

from deferrals.model.characters import UNFIT

_UNFIT = re.compile(f"[{UNFIT}]")

#: No address is longer (RFC 5321 §4.5.3.1).  A server that cuts a line somewhere
#: could take what is behind the cut for a further command.
MAX_PATH_OCTETS = 1000

#: Text without blanks, brackets and quotes, and quoted strings (RFC 5321 §4.1.2).
_PATH = re.compile(r'(?:[^\s<>"\\]|"(?:[^"\\]|\\.)*")*')

#: RFC 5321 §4.1.2, C{esmtp-param}, and RFC 6531 §3.3.
_PARAMETER = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]*(?:=[^\s=]+)?")

_NAME = re.compile(r"[!-;=?-~]+")


def checkLine(line: str) -> None:
    """
    @raise ValueError: this is more, or less, than one line.
    """
    if _UNFIT.search(line):
        raise ValueError(f"a control or format character in {line[:100]!r}")


def checkPath(path: str) -> None:
    """
    What stands between C{<} and C{>}; it may be empty.

    @raise ValueError: it could be read as something else.
    """
    checkLine(path)
    if len(path.encode("utf-8")) > MAX_PATH_OCTETS:
        raise ValueError(f"an address of more than {MAX_PATH_OCTETS} octets: {path[:100]!r}")
    if not _PATH.fullmatch(path):
        raise ValueError(f"not an address: {path[:100]!r}")


def checkRecipient(path: str) -> None:
    """
    The same, for a path that may not be empty.

    @raise ValueError: it could be read as something else.
    """
    checkPath(path)
    if not path:
        raise ValueError("not an address: ''")


def checkParameter(text: str) -> None:
    """
    A parameter of MAIL FROM or RCPT TO: C{KEYWORD} or C{KEYWORD=VALUE}.

    @raise ValueError: it could be read as something else.
    """
    checkLine(text)
    if not _PARAMETER.fullmatch(text):
        raise ValueError(f"not a parameter: {text[:100]!r}")


def checkName(name: str) -> None:
    """
    The argument of EHLO, HELO or LHLO.

    @raise ValueError: it is no single word of ASCII.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a host's name: {name[:100]!r}")


def checkSecret(text: str) -> None:
    """
    A user's name or a password: NUL stands between them (RFC 4616), and a line
    end would be taken for a part of it by one side only.

    @raise ValueError: one of these is in it.
    """
    if any(c in text for c in "\0\r\n"):
        raise ValueError("a NUL or a line end in a user's name or password")
