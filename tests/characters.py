"""
Text for properties.
"""

from __future__ import annotations

from hypothesis import strategies as st

#: All that UTF-8 can say.  Without an alphabet hypothesis tries first what each of the
#: million characters is in UTF-8, in each process.
CHARACTERS = st.characters(exclude_categories=["Cs"])


def anyText(max_size: int | None = None) -> st.SearchStrategy[str]:
    """
    What UTF-8 can say.
    """
    return st.text(CHARACTERS, max_size=max_size)
