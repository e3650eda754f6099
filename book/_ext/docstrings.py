"""Have docstrings say |w| on the page on the API, where reStructuredText would look up `w`."""

from __future__ import annotations

from sphinx.application import Sphinx


def escape_bars(app, what, name, obj, options, lines: list[str]) -> None:
    """Escape the bars of absolute values and norms, in place."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith(">>>"):
            lines[number] = line.replace("|", r"\|")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", escape_bars)
    return {"parallel_read_safe": True}
