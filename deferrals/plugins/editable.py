"""
The directories of packages that are installed as C{pip install -e} does it.

Such a package is imported from where it is worked on, by a hook of its own; its
directory is not on C{sys.path}, so Twisted does not find its plugins.  What pip
notes of it says where it is (PEP 610).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from importlib.metadata import Distribution, distributions
from urllib.parse import urlsplit
from urllib.request import url2pathname


def editableDirectories(package: str, known: Collection[str]) -> Iterator[str]:
    """
    @param package: the dotted name of a package that has plugins in it.
    @param known: directories that are found already.
    @return: those of the same name in projects that are installed to be worked
        on; they have no C{__init__.py}.
    """
    seen = set(map(os.path.realpath, known))
    for distribution in distributions():
        root = editableRoot(distribution)
        for base in () if root is None else (root, os.path.join(root, "src")):
            directory = os.path.join(base, *package.split("."))
            if os.path.realpath(directory) not in seen and _isNamespace(directory):
                seen.add(os.path.realpath(directory))
                yield directory


def editableRoot(distribution: Distribution) -> str | None:
    """
    The directory of a project that is installed to be worked on; C{None} for
    any other.
    """
    try:
        noted = json.loads(distribution.read_text("direct_url.json") or "{}")
        url = urlsplit(noted["url"] if noted.get("dir_info", {}).get("editable") else "")
    except (ValueError, KeyError, AttributeError, OSError):
        return None
    return url2pathname(url.path) if url.scheme == "file" else None


def _isNamespace(directory: str) -> bool:
    return os.path.isdir(directory) and not os.path.exists(os.path.join(directory, "__init__.py"))
