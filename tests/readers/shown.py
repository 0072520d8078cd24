"""
What Python shows of messages, and what it, unzip and bsdtar show of archives.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import email.utils
import io
import re
import subprocess
import tarfile
import tempfile
import zipfile

from tests.readers.item import Shown

_ESCAPE = re.compile(rb"\\(?:([0-7]{3})|([abfnrtv\\]))")
_CONTROLS = re.findall(b"(?s:.)", b"\a\b\f\n\r\t\v")
_LETTERS = dict(zip(re.findall(b".", b"abfnrtv"), _CONTROLS, strict=True))


def python(data: bytes) -> Shown:
    """
    The standard library, with both of its policies.
    """
    shown = Shown()
    for policy in (email.policy.compat32, email.policy.default):
        message = email.message_from_bytes(data, policy=policy)
        for part in message.walk():
            with contextlib.suppress(Exception):  # it has faults of its own
                shown.name(_octets(part.get_filename() or ""))
            with contextlib.suppress(Exception):
                name = part.get_param("name")
                shown.name(_octets(email.utils.collapse_rfc2231_value(name) if name else ""))
            if not part.is_multipart():
                with contextlib.suppress(Exception):
                    shown.add(part.get_payload(decode=True) or b"")
    return shown


def _octets(name: str) -> bytes:
    return str(name).encode("utf-8", "surrogateescape")


def _escaped(line: bytes) -> str:
    """
    bsdtar writes octets that cannot be shown as octal numbers, and those that C has
    a letter for as that; unzip writes controls as C{^E}.
    """
    line = re.sub(rb"\^([@-_])", lambda found: bytes([found[1][0] - 64]), line)
    octets = _ESCAPE.sub(_unescaped, line)
    return octets.decode("utf-8", "surrogateescape")


def _unescaped(found: re.Match[bytes]) -> bytes:
    if found[1]:
        return bytes([int(found[1], 8) & 255])
    return _LETTERS.get(found[2], found[2])


def archive(data: bytes, suffix: str) -> dict[str, set[str]]:
    """
    The members that Python, unzip and bsdtar list.
    """
    shown: dict[str, set[str]] = {"python": set()}
    with contextlib.suppress(Exception):
        shown["python"].update(zipfile.ZipFile(io.BytesIO(data)).namelist())
    with contextlib.suppress(Exception), tarfile.open(fileobj=io.BytesIO(data)) as file:
        shown["python"].update(file.getnames())
    with tempfile.NamedTemporaryFile(suffix=suffix) as copy:
        copy.write(data)
        copy.flush()
        for argv in (["unzip", "-Z1", copy.name], ["bsdtar", "-tf", copy.name]):
            done = subprocess.run(argv, capture_output=True, check=False, stdin=subprocess.DEVNULL)
            lines = [line for line in done.stdout.splitlines() if line != b"Empty zipfile."]
            shown[argv[0]] = set(map(_escaped, lines))
    return shown
