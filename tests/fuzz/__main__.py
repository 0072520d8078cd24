"""
See the package.
"""

from __future__ import annotations

import os
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["deferrals", "twisted.web", "twisted.names.dns"]):
    from tests.fuzz.targets import TARGETS, check

from tests.fuzz.corpus import corpus

_NAMES = list(TARGETS)


def one(data: bytes) -> None:
    """
    One input.  Its first octet says whose it is.
    """
    if data:
        check(_NAMES[data[0] % len(_NAMES)], data[1:])


def main() -> None:
    names = [argument for argument in sys.argv[1:] if argument in TARGETS]
    if names:  # those only
        _NAMES[:] = names
    options = [argument for argument in sys.argv if argument not in TARGETS]
    with tempfile.TemporaryDirectory() as directory:
        for number, (name, data) in enumerate(corpus()):
            if name in _NAMES:
                with open(os.path.join(directory, f"{name}-{number}"), "wb") as file:
                    file.write(bytes([_NAMES.index(name)]) + data)
        atheris.Setup([*options, "-max_len=4096", directory], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
