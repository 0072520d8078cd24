"""
The documentation as a site: C{sphinx-build -W docs .ci/site}.  The API's pages are
pydoctor's, in C{.ci/site/api}.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

from deferrals import __version__

project = "deferrals"
author = "the authors of deferrals"
release = version = __version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["examples"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"deferrals {__version__}"
html_show_copyright = html_show_sphinx = html_copy_source = False


def setup(app: Sphinx) -> None:
    """
    Dovecot's language has no colours.
    """
    app.add_lexer("dovecot", TextLexer)
