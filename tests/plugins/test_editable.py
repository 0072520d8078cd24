"""
Packages that are installed to be worked on.
"""

from __future__ import annotations

import json
import os
import sys
from urllib.request import pathname2url

from twisted.trial.unittest import SynchronousTestCase

from deferrals.plugins.editable import editableDirectories


class EditableTests(SynchronousTestCase):
    """
    L{editableDirectories}, with what C{pip install -e} leaves behind.
    """

    def setUp(self) -> None:
        self.site = os.path.abspath(self.mktemp())
        self.patch(sys, "path", [self.site, *sys.path])

    def install(self, name: str, noted: str | None, *folders: str) -> str:
        """
        @return: where the project is worked on.
        """
        root = os.path.abspath(self.mktemp())
        os.makedirs(os.path.join(root, *folders))
        info = os.path.join(self.site, f"{name}-1.0.dist-info")
        os.makedirs(info)
        with open(os.path.join(info, "METADATA"), "w") as file:
            file.write(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if noted is None:
            noted = json.dumps(
                {"url": f"file://{pathname2url(root)}", "dir_info": {"editable": True}}
            )
        with open(os.path.join(info, "direct_url.json"), "w") as file:
            file.write(noted)
        return root

    def test_found(self) -> None:
        """Its plugins are where the project is, or in its C{src} (P14)."""
        flat = self.install("flat", None, "a", "plugins")
        deep = self.install("deep", None, "src", "a", "plugins")
        self.assertEqual(
            set(editableDirectories("a.plugins", [])),
            {os.path.join(flat, "a", "plugins"), os.path.join(deep, "src", "a", "plugins")},
        )

    def test_known(self) -> None:
        """What is on the path anyway is not found twice."""
        root = self.install("known", None, "a", "plugins")
        known = os.path.join(root, "a", "..", "a", "plugins")
        self.assertEqual(list(editableDirectories("a.plugins", [known])), [])

    def test_package(self) -> None:
        """A directory with an C{__init__.py} is another package of that name."""
        root = self.install("package", None, "a", "plugins")
        with open(os.path.join(root, "a", "plugins", "__init__.py"), "w"):
            pass
        self.assertEqual(list(editableDirectories("a.plugins", [])), [])

    def test_others(self) -> None:
        """Packages that are not there to be worked on are not searched, nor what is unreadable."""
        noted = ("{}", "[]", "nonsense", '{"url": "https://x.example/"}', '{"dir_info": null}')
        for number, text in enumerate(noted):
            self.install(f"other{number}", text, "a", "plugins")
        self.assertEqual(list(editableDirectories("a.plugins", [])), [])
