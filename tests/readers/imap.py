"""
What Dovecot shows of messages over IMAP: the BODYSTRUCTURE, the bodies that it
names (undone as a client does), and Dovecot's own decoding of them (BINARY).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from tests.readers.item import Shown

#: Dovecot's IMAP session for one user, who is logged in: it talks on its
#: standard input and output.
PROGRAM = "/usr/lib/dovecot/imap"

_NOBODY = 65534
_CONFIG = """
base_dir = $DIR/run
state_dir = $DIR/state
log_path = $DIR/dovecot.log
ssl = no
mail_uid = 65534
mail_gid = 65534
first_valid_uid = 1
first_valid_gid = 1
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
mail_location = maildir:$DIR/box
"""
_FETCHED = re.compile(rb"\* (\d+) FETCH ")
_TOKEN = re.compile(rb'~?\{(\d+)\}\r\n|"((?:[^"\\]|\\.)*)"|([()])|([^\s()"{]+)', re.S)
_SECTION = re.compile(rb"(?:BODY|BINARY)\[([0-9.]*)\]")

_Text = bytes | None
#: A list of IMAP's: octets, NIL, and lists.
_Item = Any


@attrs.frozen
class _Leaf:
    """
    A part that contains no others.
    """

    section: str
    structure: list[_Item]

    @property
    def isMessage(self) -> bool:
        """
        Dovecot decodes the parts in it one by one.
        """
        return bool((self.structure[0] or b"").lower() == b"message")

    @property
    def encoding(self) -> bytes:
        return (self.structure[5] or b"").lower()

    def names(self) -> Iterator[bytes]:
        """
        The values of C{name} and C{filename}, as they are and decoded (RFC 2231).
        """
        dispositions = [one for one in self.structure[8:] if _isDisposition(one)]
        for parameters in (self.structure[2], *(one[1] for one in dispositions)):
            if isinstance(parameters, list):
                for name, value in zip(parameters[::2], parameters[1::2], strict=False):
                    if name.rstrip(b"*").lower() in (b"name", b"filename"):
                        yield _percent(value) if name.endswith(b"*") else value


def dovecot(messages: Sequence[bytes]) -> list[Shown]:
    """
    What an IMAP client gets of each.
    """
    with tempfile.TemporaryDirectory() as directory:
        box = _Mailbox(directory, messages)
        numbers = range(1, len(messages) + 1)
        structures = box.fetch([f"{number} (BODYSTRUCTURE)" for number in numbers])
        leaves = {number: list(_leaves(one, "")) for number, _, one in structures}
        wanted = [
            f"{number} ({kind}.PEEK[{leaf.section}])"
            for number in numbers
            for leaf in leaves[number]
            if leaf.section
            for kind in (("BODY",) if leaf.isMessage else ("BODY", "BINARY"))
        ]
        shown = {number: Shown() for number in numbers}
        for number, section, octets in box.fetch(wanted):
            _add(shown[number], leaves[number], section, octets)
        for number in numbers:
            for name in (name for leaf in leaves[number] for name in leaf.names()):
                shown[number].name(name)
        return [shown[number] for number in numbers]


def _add(shown: Shown, leaves: list[_Leaf], section: bytes, octets: bytes | None) -> None:
    found = _SECTION.fullmatch(section)
    for leaf in leaves:
        if octets is not None and found and leaf.section.encode() == found[1]:
            undone = section.startswith(b"BINARY")
            shown.add(octets if undone else _undone(octets, leaf.encoding))


def _undone(raw: bytes, encoding: bytes) -> bytes:
    """
    A body as a client has it that goes by the BODYSTRUCTURE.
    """
    if encoding == b"base64":
        letters = re.sub(rb"[^A-Za-z0-9+/]", b"", raw.partition(b"=")[0])
        letters = letters[: len(letters) - (len(letters) % 4 == 1)]
        return base64.b64decode(letters + b"=" * (-len(letters) % 4))
    return binascii.a2b_qp(raw) if encoding == b"quoted-printable" else raw


def _percent(value: bytes) -> bytes:
    """
    A value of RFC 2231, in UTF-8.
    """
    charset, _, text = value.split(b"'", 2) if value.count(b"'") > 1 else (b"", b"", value)
    octets = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), text)
    with contextlib.suppress(LookupError, UnicodeError):
        return octets.decode(charset.decode("ascii") or "utf-8").encode()
    return octets


def _isDisposition(one: _Item) -> bool:
    return isinstance(one, list) and len(one) == 2 and isinstance(one[0], bytes)


def _leaves(structure: list[_Item], section: str) -> Iterator[_Leaf]:
    """
    The parts that contain no others, and messages that are encoded.
    """
    if structure and isinstance(structure[0], list):
        for number, part in enumerate(structure, 1):
            if not isinstance(part, list):
                return
            yield from _leaves(part, f"{section}.{number}" if section else str(number))
        return
    inside = structure[8] if len(structure) > 8 else None
    isMessage = structure[0].lower() == b"message" and isinstance(inside, list) and len(inside) > 1
    leaf = _Leaf(section or "1", structure)
    if isMessage and leaf.encoding not in (b"base64", b"quoted-printable"):
        leaf = attrs.evolve(leaf, section="")  # only its names are asked for
    yield leaf
    if isMessage and isinstance(inside, list) and not _isDisposition(inside):
        single = not isinstance(inside[0], list)
        yield from _leaves(inside, f"{section or 1}.1" if single else section or "1")


class _Mailbox:
    """
    A Maildir, as Dovecot reads it.
    """

    def __init__(self, directory: str, messages: Sequence[bytes]) -> None:
        for name in ("cur", "new", "tmp"):
            os.makedirs(f"{directory}/box/{name}")
        for number, message in enumerate(messages):
            with open(f"{directory}/box/cur/{number:06}.a:2,S", "wb") as file:
                file.write(message)
        self._directory = directory
        with open(f"{directory}/dovecot.conf", "w", encoding="utf-8") as file:
            file.write(_CONFIG.replace("$DIR", directory))
        if os.getuid() == 0:
            for place, _, files in os.walk(directory):
                for path in (place, *(os.path.join(place, name) for name in files)):
                    shutil.chown(path, _NOBODY, _NOBODY)

    def fetch(self, wanted: Sequence[str]) -> Iterator[tuple[int, bytes, _Item]]:
        """
        @return: the number of the message, what was fetched of it, and its value.
        """
        session = self._session()
        for one in wanted:
            answer = _ask(session, f"FETCH {one}")
            if answer is None:  # what cannot be decoded ends a session
                session.kill()
                session = self._session()
            else:
                yield from _answers(answer)
        session.communicate(b"z LOGOUT\r\n")

    def _session(self) -> subprocess.Popen[bytes]:
        who = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
        session = subprocess.Popen(
            [PROGRAM, "-c", f"{self._directory}/dovecot.conf"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "USER": "nobody", "HOME": self._directory},
            **who,
        )
        assert session.stdout and b"PREAUTH" in session.stdout.readline()
        assert _ask(session, "SELECT INBOX") is not None
        return session


def _ask(session: subprocess.Popen[bytes], command: str) -> bytes | None:
    """
    @return: the answers; C{None} where the session ended.
    """
    assert session.stdin and session.stdout
    session.stdin.write(f"a {command}\r\n".encode())
    session.stdin.flush()
    lines = []
    for line in iter(session.stdout.readline, b""):
        if line.startswith(b"a "):
            return b"".join(lines)
        lines.append(line)
        while literal := re.search(rb"\{(\d+)\}\r\n\Z", lines[-1]):
            lines += [session.stdout.read(int(literal[1])), session.stdout.readline()]
    return None


def _answers(octets: bytes) -> Iterator[tuple[int, bytes, _Item]]:
    """
    There may be several to one command, some of them without what was asked for.
    """
    at = 0
    while fetched := _FETCHED.search(octets, at):
        found, at = parsed(octets, fetched.end())
        for name, value in zip(found[::2], found[1::2], strict=True):
            if name.startswith(b"B"):
                yield int(fetched[1]), name, value


def parsed(octets: bytes, at: int) -> tuple[list[_Item], int]:
    """
    @return: the list that begins there, and where it ends.
    """
    stack: list[list[_Item]] = [[]]
    while not stack[0]:
        found = _TOKEN.search(octets, at)
        assert found, octets[at : at + 100]
        at = found.end()
        if found[1] is not None:
            stack[-1].append(octets[at : at + int(found[1])])
            at += int(found[1])
        elif found[2] is not None:
            stack[-1].append(re.sub(rb"\\(.)", rb"\1", found[2], flags=re.S))
        elif found[3] == b"(":
            stack.append([])
        elif found[3] == b")":
            one = stack.pop()
            stack[-1].append(one)
        else:
            stack[-1].append(None if found[4] == b"NIL" else found[4])
    whole: list[_Item] = stack[0][0]
    return whole, at
