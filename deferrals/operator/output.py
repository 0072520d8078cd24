"""
What all commands write alike.
"""

from __future__ import annotations

import sys


def complain(text: str) -> None:
    """
    Tell the operator, on standard error, why there is no result.
    """
    print(f"deferrals: {text}", file=sys.stderr)
