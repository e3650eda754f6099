"""The README's first screen: seven questions and the headline figure, from the records."""

import os
from pathlib import Path

import pandas as pd

from samlib.bench import timing
from samlib.campaign.progress import clock
from samlib.chapters import hypotheses, introduction, questions, verdicts
from samlib.errors import ConfigError
from samlib.files import as_disk_error, write_atomically
from samlib.publish.tables import complete
from samlib.records import store
from samlib.report import campaign_cost, missing, step_times
from samlib.report.figures import key_of
from samlib.report.formats import as_text
from samlib.report.names import method_name
from samlib.report.results import Results, load
from samlib.study import plan
from samlib.study.cells import all_cells, count_runs, known_runs
from samlib.study.methods import ALL, BASE, HEADLINE, ON

BEGIN, END = "<!-- headline: made by `make readme` -->", "<!-- /headline -->"


def block(results: Results, figure: str) -> str:
    """The part of the README between the markers, as GitHub-flavoured Markdown."""
    profile, main = results.profile, verdicts.verdict("3", results)
    everywhere = [results, *_others_with_an_answer(results)]
    places = [f"- *{each.profile.where}*: {each.profile.about}" for each in everywhere]
    done = _done(results)
    seconds = sum(map(store.seconds, done))
    one = missing.ONE[campaign_cost.kind_of_device(results)]
    return "\n\n".join(
        [
            BEGIN,
            "\n".join(places),
            _markdown(as_text(questions.table(*everywhere))),
            f"![Test accuracy of each method, a point per seed]({figure})",
            f"**{main.seen.capitalize()} {main.where}: {main.claim.statement}.** {main.worth} "
            f"{_accuracies(results)}",
            *filter(None, [introduction.finding_decay(results)]),
            *_no_answer_yet(results),
            f"{_planned(results)}Every claim, with "
            "what was seen of it and whether the problem can test it, is in the book; "
            "[changes](book/changes.md) lists what was changed after records had been seen.",
            f"Of about {_planned_runs(results)} runs of the profile `{profile.name}` "
            f"{len(done)} are done, in {clock(seconds)} of {one}{_left(results)}.",
            END,
        ]
    )


def _accuracies(results: Results) -> str:
    means = []
    for method in HEADLINE:
        mean = results.accuracies(results.cell(method)).mean()
        means.append(f"{method_name(results.profile, method)} {mean:.2f}")
    said = f"Mean test accuracies: {', '.join(means)} %."
    if not (timed := step_times.own_or_none(results)):
        return said
    on, everything = _times(timed)
    base = method_name(results.profile, BASE)
    said += f" A step of SAM-ON takes {on} times as long as one of {base}, one of SAM {everything}"
    said += " times"
    if papers := step_times.of_the_papers(results):
        on, everything = _times(papers)
        where = timing.hardware(papers)
        said += f"; on the paper's WRN-28-10, on {where}, {on} and {everything} times"
    return f"{said}."


def _times(timed: dict) -> list[str]:
    """Steps of SAM-ON and SAM over the base optimizer's."""
    return [f"{timed['ratios'][key_of(method)][1]:.2f}" for method in (ON, ALL)]


def _planned_runs(results: Results) -> int:
    return count_runs(all_cells(plan.chapter_needs(results.profile)), results.records)


def _done(results: Results) -> list[dict]:
    """The records of the plan's runs."""
    known = known_runs(all_cells(plan.chapter_needs(results.profile)), results.records)
    return [results.records[r.run_id] for r in known if r.run_id in results.records]


def _left(results: Results) -> str:
    """What all that has no record yet takes."""
    left = missing.counted(plan.chapter_needs(results.profile), results, with_weights=True)
    return f"; the rest, with its measurements, takes {left.cost}" if left.cost else ""


def _planned(results: Results) -> str:
    if results.profile.name not in hypotheses.PLANNED:
        return ""
    return (
        "Hypotheses, seeds and margin were [fixed before the runs](book/preregistration.md). "
        f"{hypotheses.finding(results)} "
    )


def _no_answer_yet(results: Results) -> list[str]:
    return [
        f"**{where[0].upper()}{where[1:]}: no answer yet.** {profile.about}. {what}"
        for profile, what in missing.nearer_to_the_paper(results)
        for where in [profile.where]
        if what
    ]


def _others_with_an_answer(results: Results) -> list[Results]:
    """Profiles behind this one whose introduction is complete, for the questions it leaves open."""
    behind = missing.LEADING[missing.LEADING.index(results.profile.name) + 1 :]
    found = [load(name, results.folder.parent) for name in behind if name != "smoke"]
    return [each for each in found if complete(each, "introduction")]


def _markdown(table: pd.DataFrame) -> str:
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
    if END not in text.partition(BEGIN)[2]:
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
