"""
How the log is written.
"""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Iterator
from functools import partial
from signal import Signals
from typing import Any
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.app import log
from deferrals.app.log import JSONObserver, PlainObserver
from deferrals.logger import Logger as OwnLogger
from deferrals.model.status import Status


class Text(str):
    """
    A text that is more than that.
    """


class Hostile:
    """
    A value that raises, whatever is asked of it.
    """

    def __str__(self) -> str:
        raise RuntimeError("on purpose")

    __repr__ = __str__


class Endless(list[Any]):
    """
    A list that is in itself.
    """

    def __init__(self) -> None:
        super().__init__([self])


#: Names that values have in events; JSON lines have some of their own.
NAMES = ["one", "two", "time", "text", "worker", "message", "traceback", "log_x", "a b", "\u202e"]

#: What an event's value may be, whatever it should be.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        ["\x9b\u202e\x7f\n\ud800", "\u00e9\U0001f600", '\\"%s', Text("x\x7f"), Signals.SIGHUP]
    ),
    lambda some: (
        st.lists(some, max_size=2) | st.dictionaries(st.text(max_size=3), some, max_size=2)
    ),
    max_leaves=4,
)


#: What others may give a key that they should not set, or not like this; the class for
#: one of it, so that an example can be shown.
UNEXPECTED = VALUES | st.sampled_from(
    [{("a",): 1}, {1}, object, Hostile, Endless(), 10**5000, ValueError("a\nb")]
)


class LogTests(SynchronousTestCase):
    """
    L{PlainObserver} and L{JSONObserver}.
    """

    def logger(self, kind: Any, namespace: str = "deferrals.test") -> Logger:
        self.patch(log, "isInIOThread", lambda: True)
        self.file = io.StringIO()
        self.turns: list[Any] = []
        self.publisher = LogPublisher(kind(self.file, self.turns.append))
        return Logger(namespace=namespace, observer=self.publisher)

    def written(self) -> str:
        for turn in self.turns:
            turn()
        return self.file.getvalue()

    def test_ports(self) -> None:
        """What Twisted says of its ports is left out; what others say is not."""
        logger = self.logger(PlainObserver, "log_legacy")
        logger.info("SessionFactory starting on 2525")
        logger.info("(TCP Port 2525 Closed)")
        self.assertEqual(self.written(), "")
        logger.info("a stage that logs in the old way")
        self.assertIn("old way", self.written())

    def test_named(self) -> None:
        """An event with a name is written as others are; a failure with its traceback."""
        self.logger(PlainObserver)
        logger = OwnLogger(namespace="deferrals.test", observer=self.publisher)
        logger.tell(Status(), "{client} is {what}", event="one", client="x\x1b\n", what=7)
        logger.tell(Status(), "{client!s} alone", event="two", client="y\u202e")
        try:
            raise ValueError("on purpose")
        except ValueError:
            logger.failure("{what} failed", event="three", what="all")
        one, two, three, *more = self.written().splitlines()
        self.assertEqual(one.partition("] ")[2], "x\\x{1B}  is 7")
        self.assertEqual(two.partition("] ")[2], "y\\x{202E} alone")
        self.assertEqual(three.partition("[")[2], "deferrals.test critical] all failed")
        self.assertTrue(all(line.startswith("\t") for line in more))
        self.assertIn("\tbuiltins.ValueError: on purpose", more)

    def test_plain(self) -> None:
        """Time, who, what; the level where it is not info."""
        logger = self.logger(PlainObserver)
        logger.info("{transaction} to=<{recipient}>", transaction="X", recipient="a@b.c")
        logger.error("bad {thing}", thing="luck")
        logger.debug("nothing")
        first, second = self.written().splitlines()
        self.assertRegex(
            first,
            r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d \[deferrals.test\] X to=<a@b.c>$",
        )
        self.assertTrue(second.endswith(" [deferrals.test error] bad luck"))

    def test_worker(self) -> None:
        """Of several processes, which says it."""
        logger = self.logger(partial(PlainObserver, worker=3))
        logger.info("luck")
        logger.error("bad luck")
        first, second = (line.partition("[")[2] for line in self.written().splitlines())
        self.assertEqual(first, "deferrals.test worker 3] luck")
        self.assertEqual(second, "deferrals.test worker 3 error] bad luck")

    def flushed(self, inReactor: bool, *levels: str) -> bytes:
        """
        @return: what is in a file, behind its buffer, when these have been logged,
            and no turn of the reactor has ended.
        """
        self.patch(log, "isInIOThread", lambda: inReactor)
        raw = io.BytesIO()
        file = io.TextIOWrapper(raw, write_through=False)
        logger = Logger(observer=LogPublisher(PlainObserver(file, lambda turn: None)))
        for level in levels:
            getattr(logger, level)(level)
        self.addCleanup(file.flush)
        return raw.getvalue()

    def test_errors(self) -> None:
        """Errors are written at once, with what was before them."""
        self.assertEqual(self.flushed(True, "info", "warn"), b"")
        for level in ("error", "critical"):
            found = self.flushed(True, "info", level).splitlines()
            words = [line.rsplit(b" ", 1)[1].decode() for line in found]
            self.assertEqual(words, ["info", level])

    def test_last(self) -> None:
        """When the reactor stops, what is there is written, and what still comes, at once."""
        self.patch(log, "isInIOThread", lambda: True)
        file = io.StringIO()
        observer = PlainObserver(file, lambda turn: None)
        logger = Logger(observer=LogPublisher(observer))
        logger.info("before")
        self.assertEqual(file.getvalue(), "")
        observer.last()
        logger.info("behind")
        words = [line.rsplit(" ", 1)[1] for line in file.getvalue().splitlines()]
        self.assertEqual(words, ["before", "behind"])

    def test_thread(self) -> None:
        """So is what another thread says: no turn of the reactor need end soon."""
        self.assertIn(b"info", self.flushed(False, "info"))

    def test_oneWrite(self) -> None:
        """The events of one turn are written together."""
        logger = self.logger(PlainObserver)
        for number in range(5):
            logger.info("{number}", number=number)
        self.assertEqual(len(self.turns), 1)
        self.assertEqual(self.file.getvalue(), "")
        self.assertEqual(len(self.written().splitlines()), 5)

    def test_order(self) -> None:
        """What is made into lines when the turn ends keeps its place among the others."""
        for kind in (PlainObserver, JSONObserver):
            logger = self.logger(kind)
            told = OwnLogger(namespace="deferrals.test", observer=self.publisher)
            changing = ["one"]
            logger.info("{a}", a=changing)
            told.tell(Status(), "{a} {b}", event="untold", a="two\u2028forged", b=3.5)
            logger.info("{a}", a="four")
            changing[0] = "five"
            lines = self.written().splitlines()
            found = [line for line in lines if "one" in line or "two" in line or "four" in line]
            self.assertEqual(len(found), 3, found)
            for line, words in zip(lines, ("['one']", "two forged 3.5", "four"), strict=True):
                self.assertIn(words, line.replace("\\\\", "\\").replace("\\x{2028}", " "))

    def test_oneLine(self) -> None:
        """A text with line feeds cannot be taken for another event."""
        logger = self.logger(PlainObserver)
        logger.info("{text}", text="a\n2026 [deferrals] forged")
        self.assertEqual(self.written().count("\n2026"), 0)

    def test_traceback(self) -> None:
        """A failure shows where it came from."""
        for kind in (PlainObserver, JSONObserver):
            logger = self.logger(kind)
            try:
                raise ValueError("on purpose")
            except ValueError:
                logger.failure("oh", Failure())
            self.assertIn("ValueError: on purpose", self.written())

    def test_brought(self) -> None:
        """The lines of a traceback that an event brings are shown, and cannot be another event."""
        lines = ["Traceback", "  File x", "ValueError: a\n2026 [deferrals] forged"]
        for kind in (PlainObserver, JSONObserver):
            self.logger(kind).error("oh", traceback=lines)
            self.assertIn("File x", self.written())
            self.assertEqual(self.written().count("\n2026"), 0)

    def test_json(self) -> None:
        """The event's own keys stand beside time, level, logger and text."""
        logger = self.logger(JSONObserver)
        logger.info("{a} {b}", event="test", a=1, b={"c": None})
        found = json.loads(self.written())
        del found["time"]
        self.assertEqual(
            found,
            {
                **{"level": "info", "logger": "deferrals.test", "text": "1 {'c': None}"},
                **{"event": "test", "a": 1, "b": {"c": None}},
            },
        )

    @given(
        st.dictionaries(st.sampled_from(NAMES), VALUES),
        st.floats(0, 1e10) | st.integers(0, 10**4).map(lambda n: n + 0.9999995),
        st.sampled_from([None, 3]),
    )
    @example({"one": float("nan"), "two": float("-inf")}, 1.9999996, None)
    def test_sameOctets(self, said: dict[str, Any], when: float, worker: int | None) -> None:
        """
        An event with a name, most of which take a shorter way, is written with the same
        octets as any other; and these are what C{json.dumps} makes of it.
        """
        taken: list[Any] = []
        logger = OwnLogger(namespace="deferrals.test", observer=taken.append)
        logger.tell(Status(), "{event} {one}", **{"event": "untold", "one": 1, **said})
        event = {**taken[0], "log_time": when}
        observer = JSONObserver(io.StringIO(), self.fail, worker)
        line = observer.plainLine(event)
        self.assertEqual(line, observer.line(event))
        found = json.loads(line)
        self.assertEqual(line, json.dumps(found, separators=(",", ":")) + "\n")
        self.assertEqual(list(found)[:4], ["time", "level", "logger", "text"])
        moment = datetime.datetime.fromtimestamp(when, datetime.UTC)
        self.assertEqual(found["time"], moment.isoformat(timespec="milliseconds"))
        self.assertFalse([one for one in strings(found) if set(one) & set("\x9b\u202e\x7f\ud800")])

    @given(
        st.dictionaries(
            st.sampled_from([*NAMES, "log_failure", "log_format", "log_flattened", "isError"]),
            UNEXPECTED,
        ),
        st.dictionaries(
            st.sampled_from(["log_time", "log_level", "log_namespace", "log_logger"]), UNEXPECTED
        ),
        st.booleans(),
    )
    @example({"traceback": None}, {}, True)
    @example({"traceback": "one\ntwo"}, {}, True)
    @example({"log_failure": "none"}, {}, False)
    @example({"one": Hostile}, {}, True)
    @example({"one": Endless()}, {}, True)
    @example({"one": ValueError("a\nb")}, {}, True)
    @example({"one": {("a",): 1}}, {}, False)
    @example({}, {"log_level": None}, True)
    @example({}, {"log_time": None}, True)
    @example({"event": "untold", "one": int}, {}, True)
    def test_unexpected(self, said: dict[str, Any], own: dict[str, Any], isTold: bool) -> None:
        """An event with any values at all has its lines, and takes no other one with it."""
        given = {**({"event": "untold"} if isTold else {}), **said, **own}
        # Neither can be an example itself: hypothesis shows what it tries.
        made = {Hostile: Hostile(), int: 10**5000}
        given = {key: made[one] if one in (Hostile, int) else one for key, one in given.items()}
        for kind in (PlainObserver, JSONObserver):
            file, turns = io.StringIO(), list[Any]()
            observer = kind(file, turns.append)
            with mock.patch.object(log, "isInIOThread", lambda: True):
                logger = OwnLogger(namespace="deferrals.test", observer=observer)
                logger.info("before {n}", event="untold", n=1)
                taken: list[Any] = []
                OwnLogger(namespace="deferrals.test", observer=taken.append).info("{one}")
                observer({**taken[0], **given})
                logger.info("after {n}", event="untold", n=2)
            for turn in turns:
                turn()
            lines = [line for line in file.getvalue().splitlines() if line[:1] != "\t"]
            self.assertEqual(len(lines), 3, lines)
            self.assertIn("before 1", lines[0])
            self.assertIn("after 2", lines[2])
            if kind is JSONObserver:
                self.assertEqual(len([json.loads(line) for line in lines]), 3)
            file.getvalue().encode("utf-8")

    def test_unwritable(self) -> None:
        """What makes no line is named: what was raised, its format, and its keys."""
        self.logger(JSONObserver).info("{one} was", one=Endless())
        said = json.loads(self.written())
        self.assertEqual((said["level"], said["logger"]), ("error", "deferrals.app.log"))
        self.assertRegex(said["text"], r"^an event could not be written \(\w+\): {one} was, with ")
        self.assertIn("one", said["names"].split())

    def test_others(self) -> None:
        """Other people's events are formatted the way they expect."""
        logger = self.logger(PlainObserver, "twisted.something")
        logger.info("{call()}", call=lambda: "called")
        self.assertIn("called", self.written())

    def test_badFormat(self) -> None:
        """A text that cannot be made takes no other line with it, and is named."""
        for kind in (JSONObserver, PlainObserver):
            log = self.logger(kind)
            log.info("first", event="x", a=1)
            log.info("broken {{ {a} {b}", event="x", a=1)
            log.info("broken { {a}", event="y", a=1)
            log.info("last", event="z", a=1)
            text = self.written()
            for part in ("first", "last", "Unable to format"):
                self.assertIn(part, text)

    def test_clean(self) -> None:
        """What comes from outside acts on no terminal, however others log it."""
        said = "a\x9b\u202e\x7f\n2026 [deferrals] forged\ud800"
        for namespace in ("deferrals.test", "twisted.something"):
            for kind in (PlainObserver, JSONObserver):
                logger = self.logger(kind, namespace)
                try:
                    raise ValueError(said)
                except ValueError:
                    logger.failure("{said}", Failure(), said=said, more=[{said: (said,)}], e=self)
                first, *others = self.written().splitlines()
                self.assertFalse([line for line in others if not line.startswith("\t")])
                found = [self.written().replace("\n", "")]
                if kind is JSONObserver:
                    found = list(strings(json.loads(first)))
                self.assertFalse([one for one in found if set(one) & set("\x9b\u202e\x7f\ud800")])


def strings(value: Any) -> Iterator[str]:
    """
    All text in a JSON value, keys included.
    """
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, str):
        yield value
