"""
What other readers show of messages and archives.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import email
import email.message
import email.policy
import email.utils
import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

#: So many files in one call of rspamadm, which takes long to start.
AT_ONCE = 200


@attrs.define
class Shown:
    """
    File names and decoded contents.
    """

    names: set[str] = attrs.Factory(set)
    contents: set[bytes] = attrs.Factory(set)


def python(data: bytes) -> Shown:
    """
    The standard library, with both of its policies.
    """
    shown = Shown()
    for policy in (email.policy.compat32, email.policy.default):
        message = email.message_from_bytes(data, policy=policy)
        for part in message.walk():
            with contextlib.suppress(Exception):  # it has faults of its own
                shown.names.add(part.get_filename() or "")
            with contextlib.suppress(Exception):
                name = part.get_param("name")
                shown.names.add(email.utils.collapse_rfc2231_value(name) if name else "")
            if not part.is_multipart():
                with contextlib.suppress(Exception):
                    shown.contents.add(part.get_payload(decode=True) or b"")
    return shown


def dovecot(messages: Sequence[bytes]) -> list[Shown]:
    """
    The BODYSTRUCTURE that an IMAP client gets, and the bodies that it names.
    """
    with tempfile.TemporaryDirectory() as directory:
        box = _Mailbox(directory, messages)
        structures = [parsed(one["imap.bodystructure"]) for one in box.fetch("imap.bodystructure")]
        leaves = [list(_leaves(one, "")) for one in structures]
        sections = sorted({section for one in leaves for section, _ in one})
        bodies = box.fetch(*(f"body.{section}" for section in sections)) if sections else []
        return [_shownBy(one, body) for one, body in zip(leaves, bodies, strict=True)]


def _shownBy(leaves: list[tuple[str, list[Any]]], bodies: dict[str, str]) -> Shown:
    shown = Shown()
    for section, leaf in leaves:
        for parameters in (leaf[2], *(one[1] for one in leaf[8:] if _isDisposition(one))):
            for name, value in _pairs(parameters):
                if name.rstrip("*").lower() in ("name", "filename"):
                    shown.names.add(_value(name, value))
        if str(leaf[0]).lower() != "message":
            raw = bodies.get(f"body.{section}", "").encode("latin-1")
            shown.contents.add(_undone(raw, str(leaf[5]).lower()))
    return shown


def _isDisposition(one: Any) -> bool:
    return isinstance(one, list) and len(one) == 2 and isinstance(one[0], str)


def _pairs(parameters: Any) -> Iterator[tuple[str, str]]:
    if isinstance(parameters, list):
        yield from zip(parameters[::2], parameters[1::2], strict=False)


def _value(name: str, value: str) -> str:
    octets = value.encode("latin-1")
    if name.endswith("*"):
        charset, _, text = value.split("'", 2) if value.count("'") > 1 else ("utf-8", "", value)
        octets = email.utils.unquote(text).encode("latin-1")
        return email.utils.collapse_rfc2231_value((charset, "", _percent(text)))
    return octets.decode("utf-8", "replace")


def _percent(text: str) -> str:
    return re.sub("%([0-9A-Fa-f]{2})", lambda found: chr(int(found[1], 16)), text)


def _undone(raw: bytes, encoding: str) -> bytes:
    """
    A body as a client has it that goes by the BODYSTRUCTURE.
    """
    if encoding == "base64":
        letters = re.sub(rb"[^A-Za-z0-9+/]", b"", raw.partition(b"=")[0])
        letters = letters[: len(letters) - (len(letters) % 4 == 1)]
        return base64.b64decode(letters + b"=" * (-len(letters) % 4))
    return binascii.a2b_qp(raw) if encoding == "quoted-printable" else raw


def parsed(text: str) -> list[Any]:
    """
    @param text: an IMAP list.
    """
    stack: list[list[Any]] = [[]]
    at = 0
    while at < len(text):
        literal = re.compile(r"\{(\d+)\}\r?\n").match(text, at)
        quoted = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S).match(text, at)
        if text[at] == "(":
            stack.append([])
        elif text[at] == ")":
            one = stack.pop()
            stack[-1].append(one)
        elif literal:
            end = literal.end() + int(literal[1])
            stack[-1].append(text[literal.end() : end])
            at = end
            continue
        elif quoted:
            stack[-1].append(re.sub(r"\\(.)", r"\1", quoted[1], flags=re.S))
            at = quoted.end()
            continue
        elif text[at] != " ":
            atom = re.compile(r"[^\s()]+").match(text, at)
            assert atom
            stack[-1].append(None if atom[0] == "NIL" else atom[0])
            at = atom.end()
            continue
        at += 1
    return stack[0]


def _leaves(structure: list[Any], section: str) -> Iterator[tuple[str, list[Any]]]:
    """
    The parts that contain no others, with the numbers of their sections.
    """
    if structure and isinstance(structure[0], list):
        inner = [one for one in structure if isinstance(one, list)]
        parts = inner[
            : next((n for n, one in enumerate(structure) if not isinstance(one, list)), 0)
        ]
        for number, part in enumerate(parts, 1):
            yield from _leaves(part, f"{section}.{number}" if section else str(number))
        return
    yield section or "1", structure
    if str(structure[0]).lower() == "message" and len(structure) > 8 and structure[8]:
        inside = structure[8]
        if isinstance(inside, list):
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
                    os.chown(path, _NOBODY, _NOBODY)

    def fetch(self, *fields: str) -> list[dict[str, str]]:
        argv = ["doveadm", "-c", f"{self._directory}/dovecot.conf", "-f", "json", "fetch"]
        environment = {**os.environ, "USER": "nobody", "HOME": self._directory}
        who = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
        done = subprocess.run(
            [*argv, " ".join(fields), "all"],
            capture_output=True,
            env=environment,
            check=False,
            **who,
        )
        found: list[dict[str, str]] = json.loads(done.stdout.decode("latin-1"), strict=False)
        return found


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


def rspamd(messages: Sequence[bytes]) -> list[Shown]:
    """
    What C{rspamadm mime dump} says.
    """
    found: list[Shown] = []
    for start in range(0, len(messages), AT_ONCE):
        with tempfile.TemporaryDirectory() as directory:
            names = []
            for number, message in enumerate(messages[start : start + AT_ONCE]):
                names.append(f"{directory}/{number}")
                with open(names[-1], "wb") as file:
                    file.write(message)
            argv = ["rspamadm", "mime", "-j", "dump", *names]
            done = subprocess.run(argv, capture_output=True, check=False)
            found += [_dumped(one) for one in _objects(done.stdout.decode("latin-1"))]
    return found


def _objects(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder(strict=False)
    at = 0
    while (at := text.find("{", at)) >= 0:
        found, at = decoder.raw_decode(text, at)
        yield found


def _dumped(dump: Any) -> Shown:
    shown = Shown()
    for part in dump["parts"]:
        if "filename" in part:
            shown.names.add(
                part["filename"].encode("latin-1", "replace").decode("utf-8", "replace")
            )
        if "content" in part:
            shown.contents.add(part["content"].encode("latin-1", "replace"))
    return shown


def _escaped(line: bytes) -> str:
    """
    bsdtar writes octets that cannot be shown as octal numbers.
    """
    octets = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 255]), line)
    return octets.replace(b"\\\\", b"\\").decode("utf-8", "replace")


def archive(data: bytes, suffix: str) -> set[str]:
    """
    The members that Python, unzip and bsdtar list.
    """
    names: set[str] = set()
    with contextlib.suppress(Exception):
        names.update(zipfile.ZipFile(io.BytesIO(data)).namelist())
    with contextlib.suppress(Exception), tarfile.open(fileobj=io.BytesIO(data)) as file:
        names.update(file.getnames())
    with tempfile.NamedTemporaryFile(suffix=suffix) as copy:
        copy.write(data)
        copy.flush()
        for argv in (["unzip", "-Z1", copy.name], ["bsdtar", "-tf", copy.name]):
            done = subprocess.run(argv, capture_output=True, check=False, stdin=subprocess.DEVNULL)
            names.update(_escaped(line) for line in done.stdout.splitlines())
    return names - {"Empty zipfile."}
