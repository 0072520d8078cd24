"""
A header section, field by field.
"""

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.fields import fieldsOf


class FieldsTests(SynchronousTestCase):
    """
    L{fieldsOf}.
    """

    def test_read(self) -> None:
        """Unfolded, in their order; what is no field is left out."""
        head = b"A: 1\r\n 2\r\nnothing\r\nb : \xff\r\nA:"
        self.assertEqual(fieldsOf(head), [("A", "1 2"), ("b", "\ufffd"), ("A", "")])
        self.assertEqual(fieldsOf(b""), [])
