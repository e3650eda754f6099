"""The README's first screen: the headline figure and table, from the records."""

import os
from pathlib import Path

from samlib.campaign.progress import clock
from samlib.chapters import introduction, sparsity, verdicts
from samlib.errors import ConfigError
from samlib.files import as_disk_error, write_atomically
from samlib.report import html
from samlib.report.results import Results, load

BEGIN, END = "<!-- headline: made by `make readme` -->", "<!-- /headline -->"


def block(results: Results, figure: str) -> str:
    """The part of the README between the markers, as GitHub-flavoured Markdown."""
    headline = introduction.table(results)
    rhos = [rho or "–" for rho in html.rhos(headline, "ours, last epoch")]
    table = html.as_text(headline).assign(ρ=rhos)
    columns = ["method", "reported (WRN-28-10, CIFAR-100)", "ρ", "ours, last epoch"]
    columns += ["best on test", "minus base", "SAM-ON minus it", "step time", "seeds"]
    answered = html.as_text(verdicts.table(results))
    seconds = sum(record["times"]["wall"] for record in results.records.values())
    return "\n\n".join(
        [
            BEGIN,
            f"![Test accuracy of SGD, SAM and SAM-ON, a point per seed]({figure})",
            _markdown(table[columns]),
            f"**Is it just ρ?** {introduction.finding_is_it_rho(results)}",
            f"**Is it just sparsity?** {sparsity.finding(results)}",
            "What decides each claim, and how, is in the book; "
            "[changes](book/changes.md) lists what was changed after records had been seen.",
            _markdown(answered[["claim", "reported", "ours", "verdict"]]),
            f"Profile `{results.profile.name}`: {results.profile.about}. "
            f"{len(results.records)} runs, {clock(seconds)} of one core.",
            END,
        ]
    )


def _markdown(table) -> str:
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1]]
    lines += [[str(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def update(profile: str, folder: Path, readme: Path) -> list[Path]:
    """Write the headline figure and put the block between the README's markers; what was written.

    Raises:
        RecordsMissing: a run of the headline is missing.
        ConfigError: the README has no markers.
        DiskError: the README or the figure cannot be written.
    """
    results = load(profile, folder, needs="introduction")
    figure = write_figure(profile, folder)
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ConfigError(f"{readme} has no lines {BEGIN} and {END} to write between")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    link = os.path.relpath(figure, readme.resolve().parent)
    write_atomically(readme, (before + block(results, link) + after).encode())
    return [readme, figure]


def write_figure(profile: str, folder: Path) -> Path:
    """Draw the headline figure beside the records; returns its path."""
    results = load(profile, folder, needs="introduction")
    path = results.folder / "figures" / "headline.svg"
    with as_disk_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        introduction.figure(results).savefig(path, metadata={"Date": None})
    return path.resolve()
