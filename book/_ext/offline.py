"""Fail the build if a page would ask another host for anything.

The book is read from disk, without a network. Plain links to other places are fine: they are
followed by a reader, not by the browser while it shows a page.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from sphinx.util import logging

logger = logging.getLogger(__name__)

_FETCHED = {"src", "srcset", "poster", "data"}  # whatever the element
_REMOTE = re.compile(r"^(?:https?:)?//", re.IGNORECASE)
_CSS = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s;]+)""", re.IGNORECASE)


class _Page(HTMLParser):
    """Collect the addresses a browser fetches by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        for name, value in attrs:
            if name in _FETCHED or (name in {"href", "xlink:href"} and tag in {"link", "image"}):
                addresses = (value or "").split(",") if name == "srcset" else [value or ""]
                self.found += [a.strip() for a in addresses if _REMOTE.match(a.strip())]
            elif name == "style":
                self.found += _CSS.findall(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += _CSS.findall(data)


def external_requests(html_dir: str | Path) -> list[str]:
    """Return "page: address" for everything in built HTML and CSS that another host would serve."""
    root = Path(html_dir)
    found = []
    for path in sorted(root.rglob("*")):
        if path.suffix == ".html":
            page = _Page()
            page.feed(path.read_text(encoding="utf-8"))
            page.close()
            addresses = page.found
        elif path.suffix == ".css":
            addresses = _CSS.findall(path.read_text(encoding="utf-8"))
        else:
            continue
        found += [f"{path.relative_to(root)}: {address}" for address in addresses]
    return found


def _check(app, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        for line in external_requests(app.outdir):
            logger.warning("the page would ask another host: %s", line, type="offline")


def setup(app) -> dict[str, bool]:
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
