"""
The stages that decide about senders, asked in turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.python.reflect import safe_repr

from deferrals.deferreds import asDeferred
from deferrals.errors import StageError
from deferrals.interfaces import ISenderStage
from deferrals.model.envelope import Envelope
from deferrals.model.verdict import Refuse


async def refusalOf(stages: Sequence[ISenderStage], envelope: Envelope) -> Refuse | None:
    """
    @return: the first refusal, or C{None}.
    @raise StageError: a stage has answered with something else.
    """
    for stage in stages:
        refusal = await asDeferred(stage.judgeSender, envelope)
        if isinstance(refusal, Refuse):
            return refusal
        if refusal is not None:
            raise StageError(
                f"{type(stage).__name__}.judgeSender answered {safe_repr(refusal)[:200]}"
            )
    return None
