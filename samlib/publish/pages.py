"""Which pages the book has: one per chapter and profile, and why some of them have no results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from samlib.chapters import CHAPTERS, verdicts
from samlib.errors import RecordsMissing, command
from samlib.publish import notebooks
from samlib.records.results_folder import committed
from samlib.report import html, missing
from samlib.report.results import Results, read
from samlib.report.text import listed
from samlib.study import plan, profiles

WITHOUT = "Without results yet"
_STUDY = (*plan.NEEDS, "verdicts")  # notebooks that have a page for every profile


class Page(NamedTuple):
    """A notebook's page for one profile; `path` is relative to the book, without suffix."""

    notebook: str
    profile: str
    path: str


def shown(results: Path) -> list[str]:
    """The profiles with a run record in a folder of results, the leading one first.

    In the order of `missing.LEADING`: the pages of the first come first, and prose links to them.
    One whose introduction is not complete yet stands behind those that have an answer.

    Raises:
        RecordsMissing: none has one.
    """
    found = [n for n in missing.LEADING if any(committed(results, n).runs.glob("*.json"))]
    if not found:
        raise RecordsMissing(
            f"no profile has a record in {results}: run `{command('run', '--results', results)}`"
        )
    return sorted(found, key=lambda n: absent(Page("introduction", n, ""), results) is not None)


def pages(names: Sequence[str]) -> list[Page]:
    """Every page of some profiles: those of the first one at the paths that prose links to."""
    lead, *others = names
    found = [Page(name, lead, f"notebooks/{name}") for name in notebooks.names()]
    for profile in others:
        found += [
            Page(name, profile, f"notebooks/{profile}/{name}")
            for name in _STUDY
            if plan.has(profiles.get(profile), name)
        ]
    return found


def contents(toc: dict, names: Sequence[str]) -> dict:
    """The book's table of contents with a part for every profile but the leading one.

    Args:
        toc: of the leading profile, as `book/_toc.yml` has it.
        names: profiles, the leading one first.
    """
    parts = list(toc["parts"])
    last = max(i for i, part in enumerate(parts) if {*_files(part)} & {*_paths(_STUDY)})
    in_order = [toc["root"], *(path for part in parts for path in _files(part))]
    for number, profile in enumerate(names[1:], start=1):
        own = [path.replace("notebooks/", f"notebooks/{profile}/") for path in in_order]
        known = {page.path for page in pages(names) if page.profile == profile}
        part = {
            "caption": f"The same {profiles.get(profile).where}",
            "chapters": [{"file": path} for path in own if path in known],
        }
        parts.insert(last + number, part)
    return toc | {"parts": parts}


def marked(toc: dict, lacking: Sequence[Page]) -> dict:
    """A table of contents that says which pages have no results.

    Those of the leading profile stand together after the verdicts, out of the reader's way.
    """
    titles = {page.path: _title(page.notebook) for page in lacking}
    own = {path for path in titles if path.count("/") == 1}

    def entry(chapter: dict) -> dict:
        title = titles.get(chapter["file"])
        return chapter | ({"title": f"{title} (no results)"} if title else {})

    parts: list[dict] = []
    for part in toc["parts"]:
        kept = [entry(chapter) for chapter in part["chapters"] if chapter["file"] not in own]
        parts += [part | {"chapters": kept}] if kept else []
        if own and "notebooks/verdicts" in _files(part):
            away = [path for part in toc["parts"] for path in _files(part) if path in own]
            parts.append({"caption": WITHOUT, "chapters": [{"file": path} for path in away]})
    return toc | {"parts": parts}


def _title(notebook: str) -> str:
    content = json.loads(notebooks.source(notebook).read_bytes())
    return content["cells"][0]["source"][0].removeprefix("# ").strip()


def _files(part: dict) -> list[str]:
    return [chapter["file"] for chapter in part["chapters"]]


def _paths(names: Sequence[str]) -> list[str]:
    return [f"notebooks/{name}" for name in names]


def absent(page: Page, results: Path) -> str | None:
    """Why a page has no results to show, with the command that makes them; None if it has."""
    profile = profiles.get(page.profile)
    if not plan.has(profile, page.notebook):
        return f"Not part of the profile {profile.name}, whose plan has no runs for it."
    if page.notebook not in plan.NEEDS:
        return None
    return missing.of_chapter(profile, page.notebook, results) or _all_diverged(page, results)


def _all_diverged(page: Page, results: Path) -> str | None:
    """Why a chapter with all its records cannot be made; None if it can.

    Some chapters compare measurements of final weights, and a run that diverged has none.
    """
    profile = profiles.get(page.profile)
    found = read(profile, committed(results, profile.name))
    wanted = {w.measure for n in plan.chapter_needs(profile, page.notebook) for w in n.measured}
    taken = [record for measure in wanted for record in found.measures[measure].values()]
    if all(record["values"] is not None for record in taken):
        return None
    try:
        for table in CHAPTERS[page.notebook].TABLES.values():
            table(found)
    except RecordsMissing as error:
        return f"Nothing to show: {error}."
    return None


def elsewhere(page: Page, every: Sequence[Page], results: Path) -> str:
    """Links to the pages of the same chapter that have results; "" without one."""
    links = [
        f"[{profiles.get(other.profile).where}](/{other.path}.ipynb)"
        for other in every
        if other.notebook == page.notebook and other != page and absent(other, results) is None
    ]
    return f"The same chapter has results {listed(links)}." if links else ""


def without_results(page: Page, every: Sequence[Page], reason: str) -> dict:
    """A chapter's notebook cut down to its title and introduction, with a reason below.

    Between them stand the claims that the chapter decides: what the paper says, and "not run".
    """
    content = json.loads(notebooks.source(page.notebook).read_bytes())
    cut = at_home(content | {"cells": content["cells"][:1]}, page, every)
    empty = Results(profiles.get(page.profile), {}, {}, Path(page.profile))
    claims = CHAPTERS[page.notebook].DECIDES if page.notebook in CHAPTERS else ()
    boxes = [html.box(**verdicts.opening(key, empty)).data for key in claims]
    cut["cells"][0]["source"] += "\n\n".join(["", *boxes, f"{reason}\n"])
    return cut


def at_home(content: dict, page: Page, every: Sequence[Page]) -> dict:
    """A notebook whose links to chapters lead to the pages of its own profile where it has some."""
    own = {p.notebook: p.path for p in every if p.profile == page.profile}

    def linked(text: str) -> str:
        for notebook, path in own.items():
            text = text.replace(f"(/notebooks/{notebook}.ipynb", f"(/{path}.ipynb")
        return text

    cells = [
        cell | {"source": linked("".join(cell["source"]))}
        if cell["cell_type"] == "markdown"
        else cell
        for cell in content["cells"]
    ]
    return content | {"cells": cells}
