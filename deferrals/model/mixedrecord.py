"""
What is remembered of a message whose recipients are brought apart
(L{deferrals.model.mixed}): of each recipient a L{State}, in one L{Record}.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs
import cattrs

from deferrals.model.json import JSON

#: How long a record lasts after its message has come, in seconds: senders wait up
#: to a day between their attempts (nullmailer; Exim's stock rule ends with 6 h).
LIFETIME_SECONDS = 26 * 3600.0

#: Records as notes have them.
_JSON = cattrs.Converter(detailed_validation=False)

#: It gave up so often that this is its way; it was seen not to.
PROOF, SPLITS = 2, -100


class State(enum.Enum):
    """
    What is known of one recipient of a message.  The first three are also the
    verdicts on its data; who has not been asked may accept.
    """

    ACCEPTS = "A"
    REFUSES = "R"
    LATER = "T"
    AGAIN = "B"
    SERVED = "S"
    OWED = "O"
    SETTLED = "E"
    TOLD = "X"


#: Who has the very message of the record's ident; who may not know of it.
HAVE = (State.SERVED, State.OWED, State.SETTLED)
UNSURE = (State.SERVED, State.OWED)


@attrs.frozen
class Fingerprint:
    """
    What a message has in common with itself at the next attempt.

    @ivar ident: Message-ID and Date; empty unless it has both.
    @ivar digest: of its body.
    @ivar forAll: whether its sender takes a refusal for that of all it named
        (its topmost trace field says Exim).
    """

    ident: str
    digest: str
    forAll: bool = False


@attrs.frozen
class Record:
    """
    One message.

    Each attribute is there because a property of C{tests/mixed/test_properties.py}
    fails without it: who accepts waits for ever (C{states}, C{waited}, C{wrong},
    C{later}); a second copy, or none (C{ident}, C{digest}, AGAIN); who has it is
    refused (OWED), or a refusal is never said (SETTLED); a sender of one thing is
    never told (C{gaveUp}), or another one is taken for it (C{size}, C{SPLITS}); a
    refusal becomes that of all (C{forAll}); strangers are heard (C{addresses}).

    @ivar states: its recipients.
    @ivar waited: how often in a row a recipient was sent away in vain: none of a
        lower rank came instead.
    @ivar ident: L{Fingerprint.ident}.
    @ivar digest: L{Fingerprint.digest}.
    @ivar size: as MAIL declared it.
    @ivar gaveUp: C{PROOF} or more: its sender makes one thing of it; C{SPLITS}:
        it does not, as was seen.
    @ivar later: how many 451s there were.
    @ivar forAll: whether its sender takes a refusal for that of all it named.
    @ivar wrong: how often another message was taken for it since it last came.
    @ivar addresses: of an unproved sender: who brought it.
    @ivar began: when it came first, in seconds since the epoch.
    @ivar seen: when it came last.
    """

    states: Mapping[str, State] = attrs.field(factory=dict)
    waited: Mapping[str, int] = attrs.field(factory=dict)
    ident: str = ""
    digest: str = ""
    size: int | None = None
    gaveUp: int = 0
    later: int = 0
    forAll: bool = False
    wrong: int = 0
    addresses: tuple[str, ...] = ()
    began: float = 0.0
    seen: float = 0.0

    @property
    def isOver(self) -> bool:
        """Whether all of its recipients have their answer."""
        return all(state in (*HAVE, State.TOLD) for state in self.states.values())

    @property
    def isOneThing(self) -> bool:
        """Whether its sender is proved to make one thing of it."""
        return self.gaveUp >= PROOF

    def toJSON(self) -> JSON:
        """What L{fromJSON} reads."""
        found: JSON = _JSON.unstructure(self)
        return found

    @classmethod
    def fromJSON(cls, data: JSON) -> Record:
        """
        The inverse of L{toJSON}.

        @raise Exception: it is none.
        """
        return _JSON.structure(data, cls)


NOTHING = Record()
