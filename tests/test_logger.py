"""
The logger of every module.
"""

from twisted.logger import formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.logger import Logger
from deferrals.model.status import Status


class LoggerTests(SynchronousTestCase):
    """
    L{Logger}.
    """

    def setUp(self) -> None:
        self.events: list[dict[str, object]] = []
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

    def test_tell(self) -> None:
        """What happens is counted and logged, from the same values."""
        status = Status()
        self.log.tell(
            status, "{client} turned away", event="turned-away", client="192.0.2.1", limit=""
        )
        (event,) = self.events
        self.assertEqual((event["event"], event["client"]), ("turned-away", "192.0.2.1"))
        self.assertEqual(status.kinds("connections"), {"turned away": 1})
