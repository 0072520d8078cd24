"""
What pages load beside themselves: C{/static/NAME-HASH.css}, and the like.

The name changes with the content, so a browser may keep each of them for ever.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

#: Their kinds.
_KINDS = {".css": b"text/css", ".js": b"text/javascript", ".svg": b"image/svg+xml"}


class Assets:
    """
    @param files: their contents, by name.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._names: dict[str, str] = {}
        self.files: dict[str, tuple[bytes, bytes]] = {}
        for name, content in files.items():
            stem, ending = os.path.splitext(name)
            hashed = f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}{ending}"
            self._names[name] = hashed
            self.files[hashed] = content, _KINDS[ending] + b"; charset=utf-8"

    def path(self, name: str) -> str:
        """
        Where a browser finds it.
        """
        return f"/static/{self._names[name]}"


def _read() -> dict[str, bytes]:
    directory = os.path.join(os.path.dirname(__file__), "static")
    found = {}
    for name in sorted(os.listdir(directory)):
        if os.path.splitext(name)[1] in _KINDS:
            with open(os.path.join(directory, name), "rb") as file:
                found[name] = file.read()
    return found


ASSETS = Assets(_read())
