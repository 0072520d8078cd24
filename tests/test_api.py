"""
What is public, and stays so.
"""

from __future__ import annotations

import importlib
import os
import re
import typing

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.interface import InterfaceClass, Method

import deferrals
from docs import api

GOLDEN = os.path.join(os.path.dirname(__file__), "public-api.txt")


class PublicTests(SynchronousTestCase):
    """
    The names that C{docs/public-api.md} promises.
    """

    def test_list(self) -> None:
        """
        The list is what there is.  Where a line of it vanishes or changes, the
        change needs a fragment C{incompatible} or C{removal}.
        """
        with open(GOLDEN, encoding="utf-8") as file:
            self.assertEqual(
                list(api.lines()), file.read().splitlines(), "run: python docs/generate.py"
            )

    def test_page(self) -> None:
        """The page names each public module, and each name that it exports, once."""
        page = os.path.join(os.path.dirname(GOLDEN), "..", "docs", "public-api.md")
        with open(page, encoding="utf-8") as file:
            text = file.read()
        named: dict[str, list[str]] = {}
        module = ""
        for name, names in re.findall(r"^\| (?:`(.+?)` )?\| \w+ \| `(.+?)`", text, re.M):
            module = name or module
            named.setdefault(module, []).extend(names.split())
        for name in api.MODULES:
            public = importlib.import_module(name).__all__
            self.assertEqual(sorted(named[name]), sorted(public), name)

    def test_version(self) -> None:
        """The version that deprecations are counted by is the one that is shown."""
        self.assertEqual(deferrals.version.public(), deferrals.__version__)

    def test_annotations(self) -> None:
        """What the methods of public interfaces are annotated with can be found."""
        module = importlib.import_module("deferrals.interfaces")
        for name in module.__all__:
            found = getattr(module, name)
            if isinstance(found, InterfaceClass):
                for member in found.names():
                    one = found.direct(member)
                    if isinstance(one, Method):
                        self.assertNotEqual(one.getSignatureString(), "", member)
        self.assertTrue(typing.get_type_hints(module.Work))
