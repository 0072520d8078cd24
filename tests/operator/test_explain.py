"""
C{deferrals explain}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.reply import Reply
from deferrals.operator.explain import story


class StoryTests(SynchronousTestCase):
    """
    L{story}.
    """

    def test_both(self) -> None:
        """Plain and JSON logs, behind a journal's stamp, and the spool's history, in order."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("Nov 23 host x[1]: 2026-11-23T16:00:02.000+0000 [d] ID2 second\n")
            file.write('{"time": "2026-11-23T16:00:01+00:00", "text": "ID2 first"}\n')
            file.write("ID2 without a time\n{ID2\n2026-11-23T16:00:00.000+0000 [d] OTHER\n")
        reply = str(Reply(451, "4.4.1", "no answer"))
        entry = {"seq": 0, "time": 4e9, "event": "retry", "reply": reply, "host": "mx"}
        found = {"id": "ID2", "history": [entry]}
        texts = [text for _, text in story("ID2", found, [path])]
        self.assertEqual(
            texts,
            [
                "ID2 first",
                "[d] ID2 second",
                "[spool] ID2 recipient 0: retry mx 451 4.4.1 no answer",
            ],
        )
