"""
What the operator's socket answers.
"""

from __future__ import annotations

import io
import json
import sys
import unittest.mock
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.cli import parser
from deferrals.model.ids import formatId
from deferrals.operator.commands import change, list_
from deferrals.operator.control import ControlLine


class ManyTests(SynchronousTestCase):
    """
    A command with thousands of message ids.
    """

    def test_ids(self) -> None:
        """They go to the server in lines that it takes, each id once."""
        ids = [formatId(number) for number in range(30_000)]
        lines: list[int] = []
        asked: list[str] = []

        def call(name: str, *args: Any) -> Any:
            lines.append(len(json.dumps({"call": name, "args": args})))
            (selection,) = (one for one in args if isinstance(one, dict))
            asked.extend(selection["ids"])
            return (len(selection["ids"]), None) if name == "change" else ([], None)

        queue = unittest.mock.Mock(call=call)
        for verb, run in (("list", list_), ("remove", change)):
            words = parser().parse_args(["queue", verb, *ids, ids[0].lower()])
            self.patch(sys, "stdout", io.StringIO())
            self.assertEqual(run(queue, words), 0)
            self.assertEqual(asked, ids)
            asked.clear()
        self.assertLess(max(lines), ControlLine.MAX_LENGTH)
