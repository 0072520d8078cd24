"""
See the package.
"""

from __future__ import annotations

import glob
import os
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["deferrals"]):
    from tests.octets import STATES, checkSame

from twisted.logger import LogLevel, globalLogPublisher

from tests.dialogue import DIRECTORY, read

_NAMES = sorted(STATES)
_logged: list[str] = []


def one(data: bytes) -> None:
    """
    One input.  Its first four octets say the state, the protocol, and two sizes.
    """
    if len(data) < 4:
        return
    protocol = "lmtp" if data[1] & 1 else "smtp"
    checkSame(data[4:], _NAMES[data[0] % len(_NAMES)], [data[2], data[3]], protocol)
    assert not _logged, _logged[0]


def corpus(directory: str) -> None:
    """
    What clients say in the dialogues.
    """
    for path in glob.glob(os.path.join(DIRECTORY, "*.smtp")):
        lines = [step.text for step in read(path)[1] if step.kind in ("C", "C+")]
        text = "".join(f"{line}\r\n" for line in lines).encode("utf-8", "replace")
        with open(os.path.join(directory, os.path.basename(path)), "wb") as file:
            file.write(b"\0\0\3\5" + text)


def _exceptions(event: dict[str, object]) -> None:
    """
    An exception that was logged is a bug, although the client was answered.
    """
    if event.get("log_level") is LogLevel.critical:
        _logged.append(str(event.get("log_failure")))


def main() -> None:
    globalLogPublisher.addObserver(_exceptions)
    with tempfile.TemporaryDirectory() as directory:
        corpus(directory)
        atheris.Setup([*sys.argv, "-max_len=4096", directory], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
