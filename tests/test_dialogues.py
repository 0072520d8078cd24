"""
The dialogues of C{tests/dialogues}, each in three ways.
"""

import os

from twisted.trial.unittest import SynchronousTestCase

from tests.dialogue import DIRECTORY, Dialogue, read


class DialogueTests(SynchronousTestCase):
    """
    One test for each dialogue and way of running it.
    """


def _add(name: str, mode: str) -> None:
    path = os.path.join(DIRECTORY, name)
    description, _ = read(path)

    def test(self: SynchronousTestCase) -> None:
        Dialogue(self, path, mode).run()
        self.flushLoggedErrors()

    test.__doc__ = f"{description} ({mode})"
    word = name.removesuffix(".smtp").replace("-", "_").replace(".", "_")
    test.__name__ = f"test_{word}_{mode}"
    setattr(DialogueTests, test.__name__, test)


for _name in sorted(os.listdir(DIRECTORY)):
    if _name.endswith(".smtp"):
        _, _steps = read(os.path.join(DIRECTORY, _name))
        _pieces = any(step.text == "pieces matter" for step in _steps)
        for _mode in ("whole", "late") if _pieces else ("whole", "bytes", "late"):
            _add(_name, _mode)
