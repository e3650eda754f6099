"""Docstrings on the page on the API: |w| stays as it is, and the specification is linked."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

_SECTION = re.compile(r"\bspecification (\d+)(?:\.(\d+))?\b(?!\.\d)")


def prepare(app, what, name, obj, options, lines: list[str]) -> None:
    """Escape the bars of absolute values and norms, and link sections of the specification."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith(">>>"):
            lines[number] = _SECTION.sub(_link, line.replace("|", r"\|"))


def _link(found: re.Match) -> str:
    return f":ref:`{found[0]} <spec-{'-'.join(filter(None, found.groups()))}>`"


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", prepare)
    return {"parallel_read_safe": True}
