"""
By what a row of a table is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import attrs

from deferrals.model.address import Mailbox, comparable
from deferrals.model.json import JSON

__all__ = ["TableKeys", "TableRow"]

#: What a table says: values by column.
TableRow: TypeAlias = Mapping[str, JSON]

#: What a key may be called in queries and URLs.
NAMES = ("address", "local", "domain", "user")


@attrs.frozen(cache_hash=True)
class TableKeys:
    """
    What queries and URLs of tables may say of an address, compared as
    L{deferrals.model.address.comparable} has it.

    @ivar address: the whole.
    @ivar local: its local part.
    @ivar domain: its domain.
    @ivar user: its local part without a subaddress.
    """

    address: str
    local: str
    domain: str
    user: str

    @classmethod
    def of(cls, address: Mailbox, user: Mailbox | None = None) -> TableKeys:
        """
        @param user: the address without its subaddress, as
            L{Recipient.parted<deferrals.model.envelope.Recipient.parted>} has it;
            C{None}, where it has none.
        """
        local = comparable(address.local)
        name = local if user is None or user is address else comparable(user.local)
        return cls(address.key, local, address.domain, name)

    def inTurn(self) -> Iterator[TableKeys]:
        """
        @return: keys by which a row is looked for, until there is one: the whole
            address, the one without its subaddress, and C{*@domain}.
        """
        yield self
        if self.user != self.local:
            yield TableKeys(f"{self.user}@{self.domain}", self.user, self.domain, self.user)
        yield TableKeys(f"*@{self.domain}", "*", self.domain, "*")

    @property
    def named(self) -> dict[str, str]:
        """
        All of them, by their names.
        """
        return {name: getattr(self, name) for name in NAMES}
