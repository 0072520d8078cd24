"""
The names that a file could be saved under: what its sender calls it is not
always what a mail program and a file system make of it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
import unicodedata
from collections.abc import Iterable, Sequence

#: Of a name that is longer, the beginning and the end count: no file system has
#: names as long as this.
MAX_NAME = 4096

#: Categories of characters that are not seen: controls, format characters (zero
#: width, direction), surrogates, private use, and what is not assigned.
_UNSEEN = {"Cc", "Cf", "Cs", "Cn"}
_DIRECTORIES = re.compile(r"[/\\]")
#: Characters that look empty and belong to other categories: fillers, variation
#: selectors, the combining grapheme joiner.
_FILLERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)


def savedNames(name: str) -> list[str]:
    """
    @param name: as a sender calls a file.
    @return: in lower case: the name itself; without what is not seen; in the
        form of Unicode that is compatible (NFKC); without its directories; and
        each as Windows has it, which leaves out blanks and dots at the end, and
        what is behind a colon.
    """
    if len(name) > MAX_NAME:
        name = name[: MAX_NAME // 2] + name[-MAX_NAME // 2 :]
    found: dict[str, None] = {}
    for text in _texts(name):
        seen = _FILLERS.sub("", "".join(c for c in text if unicodedata.category(c) not in _UNSEEN))
        for one in (text, text.partition("\0")[0], seen):
            for form in (one, unicodedata.normalize("NFKC", one)):
                own = _DIRECTORIES.split(form)[-1]
                for path in (form, own, form.replace('"', ""), form.replace("\\", "/")):
                    for saved in (path, path.rstrip(". \t\r\n\xa0"), _beforeColon(path)):
                        found[saved.strip().lower()] = None
    found.pop("", None)
    return list(found)


def _texts(name: str) -> list[str]:
    """
    Octets that are no UTF-8 may be ISO 8859-1 as well.
    """
    if name.isascii():
        return [name]
    if not _hasOctets(name):
        return [name]
    octets = name.encode("utf-8", "surrogateescape")
    return [octets.decode(codec, "replace") for codec in ("utf-8", "cp1252")]


def _hasOctets(name: str) -> bool:
    with contextlib.suppress(UnicodeEncodeError):
        name.encode("utf-8")
        return False
    return all(not 0xD800 <= ord(c) <= 0xDFFF or 0xDC80 <= ord(c) <= 0xDCFF for c in name)


def _beforeColon(path: str) -> str:
    """
    C{a.exe:x} is a stream of the file C{a.exe}.
    """
    name, colon, _ = path[2:].partition(":")
    return (path[:2] + name).rstrip(". \t\r\n\xa0") if colon else path


def like(names: Iterable[str], globs: Sequence[str]) -> bool:
    """
    Whether one of the names that one of these could be saved under is meant.

    @param globs: C{*} and C{?} stand for anything, case for nothing.
    """
    found = dict.fromkeys(names)
    if not found:
        return False
    wanted = [glob.lower() for glob in globs]
    wanted += [unicodedata.normalize("NFKC", one) for one in wanted]
    return any(
        fnmatch.fnmatchcase(saved, glob)
        for name in found
        for saved in savedNames(name)
        for glob in wanted
    )
