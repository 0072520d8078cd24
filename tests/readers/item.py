"""
What a reader shows of a message.
"""

from __future__ import annotations

import attrs


@attrs.define
class Shown:
    """
    File names and decoded contents, in octets.

    @ivar names: each with the boundary that the reader says is its part's.
    @ivar contents: likewise.
    """

    names: dict[bytes, bytes | None] = attrs.Factory(dict)
    contents: dict[bytes, bytes | None] = attrs.Factory(dict)

    def name(self, name: bytes, boundary: bytes | None = None) -> None:
        """
        One more.
        """
        self.names.setdefault(name, boundary)

    def add(self, content: bytes, boundary: bytes | None = None) -> None:
        """
        A content; blanks alone are none.
        """
        if content.strip():
            self.contents.setdefault(content, boundary)
