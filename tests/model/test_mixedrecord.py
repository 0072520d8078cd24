"""
See L{deferrals.model.mixedrecord}.
"""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.mixedrecord import Record, State
from tests.characters import anyText

_records = st.builds(
    Record,
    states=st.dictionaries(anyText(), st.sampled_from(State)),
    waited=st.dictionaries(anyText(), st.integers(0, 9)),
    ident=anyText(),
    digest=anyText(),
    size=st.none() | st.integers(0),
    gaveUp=st.integers(-100, 4),
    later=st.integers(0, 9),
    forAll=st.booleans(),
    wrong=st.integers(0, 9),
    addresses=st.lists(anyText(), max_size=3).map(tuple),
    began=st.floats(0, 1e10),
    seen=st.floats(0, 1e10),
)


class RecordTests(SynchronousTestCase):
    """
    L{Record}.
    """

    @given(_records)
    def test_json(self, record: Record) -> None:
        """What is noted is read back as it was."""
        self.assertEqual(Record.fromJSON(json.loads(json.dumps(record.toJSON()))), record)

    def test_garbage(self) -> None:
        """What is no record is an error."""
        errors = (AttributeError, KeyError, TypeError, ValueError)
        for data in (None, 5, {"states": {"a": "?"}}, {"states": 5}, {"waited": "x"}):
            with self.assertRaises(errors):  # type: ignore[arg-type]
                Record.fromJSON(data)  # type: ignore[arg-type]

    def test_isOver(self) -> None:
        """A message is over once all of its recipients have their answer."""
        self.assertTrue(Record({"a": State.SERVED, "b": State.TOLD}).isOver)
        self.assertFalse(Record({"a": State.SERVED, "b": State.REFUSES}).isOver)
