"""
The logger of every module.
"""

from typing import Any

from twisted.logger import formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.logger import MAX_TRACEBACK_LINES, Logger
from deferrals.model.status import Status


class LoggerTests(SynchronousTestCase):
    """
    L{Logger}.
    """

    def setUp(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.log = Logger(namespace="deferrals.test", observer=self.events.append)

    def test_clean(self) -> None:
        """Every observer is told clean text; other values stay what they are."""
        self.log.info("{helo} {number}", helo="a\x9b\n\u202eb", number=7)
        (event,) = self.events
        self.assertEqual(formatEvent(event), "a\\x{9B} \\x{202E}b 7")
        self.assertEqual((event["helo"], event["number"]), ("a\\x{9B} \\x{202E}b", 7))

    def test_failure(self) -> None:
        """A failure's event is one, too."""
        self.log.failure("{who}", Failure(ValueError("no")), who="a\x1bb")
        self.assertEqual(self.events[0]["who"], "a\\x{1B}b")
        self.assertIsInstance(self.events[0]["log_failure"], Failure)

    def raise_(self, stage: str, depth: int = 0) -> None:
        try:
            self.deep(depth)
        except Exception:
            self.log.raised(Failure(), "{who}: {stage}: {error}", stage=stage, who="a\x1bb")

    def deep(self, depth: int) -> None:
        if depth:
            self.deep(depth - 1)
        raise ValueError("on purpose")

    def test_raised(self) -> None:
        """What a stage raises has a traceback once, and then the number of times."""
        for _ in range(3):
            self.raise_("test_raised.One")
        self.raise_("test_raised.Two")
        first, _, third, _ = self.events
        text = "a\\x{1B}b: test_raised.One: ValueError: on purpose"
        self.assertEqual(formatEvent(first), text)
        self.assertIn("in deep", "".join(first["traceback"]))
        self.assertEqual(formatEvent(third), f"{text} (3 times; the first had a traceback)")
        self.assertEqual([one["times"] for one in self.events], [1, 2, 3, 1])
        self.assertEqual(["traceback" in one for one in self.events], [True, False, False, True])
        self.assertEqual(first["stage"], "test_raised.One")

    def test_deep(self) -> None:
        """A traceback has a bound, and keeps both of its ends."""
        self.raise_("test_deep", 200)
        lines = self.events[0]["traceback"]
        self.assertLessEqual(len(lines), MAX_TRACEBACK_LINES + 1)
        self.assertEqual((lines[0][:9], lines[-1]), ("Traceback", "ValueError: on purpose"))

    def test_tell(self) -> None:
        """What happens is counted and logged, from the same values."""
        status = Status()
        self.log.tell(
            status, "{client} turned away", event="turned-away", client="192.0.2.1", limit=""
        )
        (event,) = self.events
        self.assertEqual((event["event"], event["client"]), ("turned-away", "192.0.2.1"))
        self.assertEqual(status.kinds("connections"), {"turned away": 1})

    def test_tellEach(self) -> None:
        """What happens to several is an event of each, as if each were told of by itself."""
        status = Status()
        names = ["a@x.example", "\x1bb@x.example"]
        self.log.tellEach(
            status,
            "{recipient} {reply}",
            [{"recipient": name} for name in names],
            event="bounced",
            recipient="",
            reply="550 5.1.1\n250 fine",
        )
        together, self.events[:] = list(self.events), []
        for name in names:
            self.log.tell(
                status,
                "{recipient} {reply}",
                event="bounced",
                recipient=name,
                reply="550 5.1.1\n250 fine",
            )
        for event, alone in zip(together, self.events, strict=True):
            said = [(key, value) for key, value in event.items() if not key.startswith("log_")]
            own = [(key, value) for key, value in alone.items() if not key.startswith("log_")]
            self.assertEqual(said, own)
            self.assertEqual(formatEvent(event), formatEvent(alone))
        self.assertEqual(status.kinds("events"), {"bounced": 4})
