"""
One command line: what every command has in common, and what is no command.
"""

from __future__ import annotations

import functools
import re

from deferrals.model.reply import (
    R500_BAD_LINE,
    R500_NOT_UTF8,
    R500_UNKNOWN_COMMAND,
    R553_NOT_UTF8,
    Reply,
)

#: So many lines that begin like these are remembered.
MAX_REMEMBERED = 1024
_ENVELOPE = frozenset({b"MAIL", b"RCPT", b"DATA"})

_BLANKS = " \t"

#: A verb, alone or with what stands behind a blank, in printable ASCII.  Nothing of
#: another protocol is in such a line, unless it has a slash, or a colon at once.
_ORDINARY = re.compile(r"([A-Za-z]{1,16})(?: [ \t]*([!-.0-9;-~][\t -.0-~]*)?)?")

_VERB = re.compile(r"[A-Za-z]{1,16}")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

#: Lines of other protocols: a web server is made to write them to a mail server,
#: with commands behind them (SIP and RTSP have HTTP's form).  A header field is such a
#: line, and so is what does not begin with a letter: no command does.
_OTHER_PROTOCOL = re.compile(
    rb"(?i:(?:connect|delete|get|head|options|patch|post|pri|propfind|put|trace)(?:[ \t]|$)"
    rb"|(?:ssh-|(?:http|sip|rtsp)/)\d|[a-z-]+[ \t].*[ \t](?:http|sip|rtsp)/\d)"
    rb"|[!-9;-~]+[ \t]*:|[!-@\[-`{-~]"
)

_METHODS = frozenset(
    {
        *("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH"),
        *("POST", "PRI", "PROPFIND", "PUT", "TRACE"),
    }
)


def parseLine(line: bytes) -> tuple[str, str] | Reply | None:
    """
    Read one line, without its CRLF.

    @return: its verb, in upper case, and what stands behind it; the reply that
        refuses it; or C{None}, where it is another protocol's.
    """
    return _remembered(line) if line[:4] in _ENVELOPE else _parse(line)


def _parse(line: bytes) -> tuple[str, str] | Reply | None:
    """
    Likewise.
    """
    found = _ORDINARY.fullmatch(line.decode("ascii")) if line.isascii() else None
    if found is None:
        return _parseAny(line)
    verb, rest = found.groups("")
    verb = verb.upper()
    return _parseAny(line) if verb in _METHODS else (verb, rest.rstrip(_BLANKS))


#: Lines of the envelope: the same ones come again and again, and none has a password.
_remembered = functools.lru_cache(MAX_REMEMBERED)(_parse)


def _parseAny(line: bytes) -> tuple[str, str] | Reply | None:
    """
    Likewise, of any line.
    """
    if _OTHER_PROTOCOL.match(line.lstrip(b" \t")):
        return None
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        isAddress = line[:4].upper() in (b"MAIL", b"RCPT")
        return R553_NOT_UTF8 if isAddress else R500_NOT_UTF8
    if _CONTROL.search(line):
        return R500_BAD_LINE
    word, _, rest = text.strip(_BLANKS).partition(" ")
    if not _VERB.fullmatch(word):
        return R500_UNKNOWN_COMMAND
    return word.upper(), rest.strip(_BLANKS)
