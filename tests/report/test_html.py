"""Tables, verdicts and the README, from a campaign of the smoke profile made up here."""

import dataclasses
import io
import math
import re
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import result
from made_up import PROFILE
from planted import planted

from samlib.campaign.backlog import Backlog
from samlib.chapters import CHAPTERS, introduction, variants, verdicts
from samlib.cli import status
from samlib.errors import ConfigError, RecordsMissing
from samlib.publish import readme, tables
from samlib.records import compare, store
from samlib.report import formats, html, missing, paper, tidy
from samlib.report.results import load
from samlib.report.stats import OPEN, Comparison
from samlib.study import plan, profiles
from samlib.study.methods import ALL, BASE, ON, Method


@pytest.fixture
def found(smoke):
    return smoke


def test_every_accuracy_of_the_variants_table_is_in_the_records(found):
    table = variants.table(found)
    for row, geometry in zip(range(len(table) - 1), PROFILE.geometries("wrn"), strict=True):
        for column, mask in (("all", "all"), ("only norm", "only_norm")):
            cell = found.cell(Method(geometry, mask), "wrn")
            runs = cell.at(table[column]["rho"][row])
            values = pd.Series([found.records[run.run_id]["test_accuracy"] for run in runs])
            assert table[column]["mean"][row] == pytest.approx(values.mean())
            assert table[column]["sd"][row] == pytest.approx(values.std())
            assert table[column]["n"][row] == len(cell.seeds)


def test_a_difference_is_paired_by_seed(found):
    comparison = found.compare(found.cell(ON), found.cell(ALL))
    on, everything = (found.cell(m).at(found.rho(found.cell(m))) for m in (ON, ALL))
    pairs = [
        found.records[a.run_id]["test_accuracy"] - found.records[b.run_id]["test_accuracy"]
        for a, b in zip(on, everything, strict=True)
    ]
    assert comparison.mean == pytest.approx(np.mean(pairs))
    assert comparison.seeds == len(pairs)


def test_the_accuracy_shown_is_the_last_epochs(found):
    row = introduction.table(found).iloc[0]
    assert row["accuracy", "mean"] == found.accuracies(found.cell(BASE)).mean()


TABLES = {
    name: make for module in (*CHAPTERS.values(), verdicts) for name, make in module.TABLES.items()
}


# Columns of words, which may be digits ("11a", "1 + 1/10") or sentences with numbers in them.
LABELS = ("", "passes", "route", "ours", "the paper")


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_complete(found, name):
    table = TABLES[name](found)
    untimed = ("epochs", "augmentation", "packing", "growth", "reading", "one_pass_prices")
    untimed += ("papers_network", "replays")
    assert len(table) or name in (*untimed, "one_pass_confirmed")  # smoke has no fresh seeds
    for column in table:
        numeric = pd.api.types.is_numeric_dtype(table[column])
        labels = column[0] in LABELS
        assert numeric or labels or not any(map(_holds_a_number, table[column])), column


def _holds_a_number(cell):
    """Whether a cell's text is a number, or one with its spread, interval or unit."""
    return bool(re.fullmatch(r"[-+−]?[\d,]*\.?\d+[*%×\s]*|.*(±|\[.*\]).*", str(cell)))


@pytest.mark.parametrize("name", TABLES)
def test_a_csv_file_reads_back_as_the_numbers(found, name):
    table = TABLES[name](found)
    text = tidy.csv(table)
    assert not re.search("[−±]", text)
    if table.empty:
        return
    again = pd.read_csv(io.StringIO(text))
    assert again.shape == table.shape
    for here, there in zip(table, again, strict=True):
        if pd.api.types.is_float_dtype(table[here]):
            assert again[there].tolist() == pytest.approx(table[here].tolist(), 1e-5, nan_ok=True)


def test_reported_numbers_are_those_of_the_sources():
    assert paper.HEADLINE["only_norm"].value == 84.19
    assert paper.best("l2", "all") == (0.2, (83.58, None, paper.FIGURE))
    gap = paper.best("l2", "only_norm")[1].value - paper.best("l2", "all")[1].value
    assert gap == pytest.approx(0.60)
    assert paper.best("fisher", "all") is None


def test_a_missing_record_names_the_command(smoke_folder, tmp_path):
    with pytest.raises(RecordsMissing, match=r"python -m samlib run --profile smoke"):
        load("smoke", tmp_path, needs="variants")


def test_results_are_loaded_from_a_path_that_is_a_string(smoke_folder, found):
    assert load("smoke", str(smoke_folder)).records == found.records


def test_tables_with_rows_are_written_beside_the_records(found, smoke_folder, tmp_path):
    folder = shutil.copytree(smoke_folder, tmp_path / "results")
    paths = tables.write("smoke", folder)
    with_rows = {name for name, make in TABLES.items() if len(make(found))}
    assert {path.stem for path in paths} == with_rows
    assert all(path.parent == folder / "smoke" / "tables" for path in paths)
    (paths[0].parent / "of_last_year.csv").write_text("x")
    assert tables.write("smoke", folder) == paths
    assert {p.stem for p in paths[0].parent.glob("*.csv")} == with_rows, "stale ones are gone"


def test_tables_are_those_of_chapters_that_are_complete(found):
    random = {i: r for i, r in found.records.items() if r["config"]["mask"] == "random"}
    part = dataclasses.replace(
        found, records={i: r for i, r in found.records.items() if i not in random}
    )
    made = tables.made(part)
    assert "sparsity" not in made
    assert {"headline", "verdicts", "step_times"} <= set(made)


def test_a_method_of_which_every_measured_run_diverged_stops_no_other_table(found):
    lost = {
        i: r | {"values": None} if r["config"]["mask"] == "only_norm" else r
        for i, r in found.measures["robustness"].items()
    }
    made = tables.made(dataclasses.replace(found, measures=found.measures | {"robustness": lost}))
    assert {"headline", "sharpness", "verdicts"} <= set(made)


def test_what_is_compared_across_code_or_kinds_of_device_is_named(found):
    assert "ecords of different code" not in html.provenance(found, "introduction").data
    changed = {
        i: r
        | {"provenance": r["provenance"] | {"source": str(n % 2), "gpu": "X" if n % 3 else None}}
        for n, (i, r) in enumerate(found.records.items())
    }
    line = html.provenance(dataclasses.replace(found, records=changed), "introduction").data
    assert "Records of different code: 9 by code 0, 3 by code 1" in line
    assert "on a GPU" in line
    measured = {
        i: r | {"provenance": r["provenance"] | {"gpu": "X"}}
        for i, r in found.measures["sharpness"].items()
    }
    elsewhere = dataclasses.replace(found, measures=found.measures | {"sharpness": measured})
    assert "on a GPU" not in html.provenance(found, "sharpness").data
    line = html.provenance(elsewhere, "sharpness").data
    assert f"{len(measured)} of these records were computed on a GPU" in line
    assert "no run of the present plan" not in html.provenance(found).data
    older = found.records | {"of last year": next(iter(found.records.values()))}
    line = html.provenance(dataclasses.replace(found, records=older)).data
    assert "1 other records belong to no run of the present plan" in line


def test_a_box_has_three_lines_and_a_verdict_with_its_place():
    page = html.box("A < B", "+1.00 [+0.50, +1.50]", "seen", "on digits", "Worth little.").data
    assert page.count("<dt>") == 3
    assert "A &lt; B" in page
    assert '<span class="verdict seen">seen</span> <small>on digits</small>. Worth little.' in page


def test_a_figure_is_an_image_under_any_backend():
    figure, ax = plt.subplots()
    ax.plot([0, 1])
    assert html.draw(figure).data.startswith(b"\x89PNG")
    assert not plt.fignum_exists(figure.number), "it is closed"


def test_the_html_marks_verdicts_and_escapes_the_rest():
    row = {"verdict": {"seen": "no difference", "where": "on digits"}, "x": "<b>"}
    page = html.show(tidy.table([row])).data
    assert '<span class="verdict no-difference">no difference</span> <small>on digits' in page
    assert "&lt;b&gt;" in page


def test_tables_for_the_book_are_narrow_and_lose_nothing():
    spread = {"mean": 90.0, "sd": 1.0, "n": 4}
    rows = [
        {"model": model, "all": spread | {"rho": rho, "at_edge": edge}, "diverged": 0}
        for model, rho, edge in (("A", 0.5, False), ("A", 1.0, True), ("B", math.nan, False))
    ]
    opened = Comparison(1.0, -1.0, 3.0, 4, 0.2, "open", 12)
    shown = Comparison(1.0, 0.5, 1.5, 4, 0.001, "seen")
    table = tidy.judged(rows, "difference", [opened, shown, None], "on digits")
    page = html.show(table).data
    assert "<th>diverged</th>" not in page
    assert "<th>ρ all</th>" not in page
    assert "90.00\u00a0±\u00a01.00 <small>(ρ\u00a01*)</small>" in page
    assert page.count("<small>(ρ") == 2, "no ρ beside what has none"
    assert "+1.00 [−1.00,\u00a0+3.00]" in page
    assert "open</span> <small>on digits</small> <small>(needs\u00a012\u00a0seeds)</small>" in page
    assert "seen</span> <small>on digits</small></td>" in page
    assert page.count("<td>A</td>") == 1
    assert page.count("<td>B</td>") == 1
    table["diverged"] = [0, 1, 0]
    assert "<th>diverged</th>" in html.show(table).data


def test_a_table_without_rows_is_not_run():
    assert html.show(tidy.table([])).data == html.badge("not run")


def test_what_a_row_does_not_have_is_missing_and_keeps_its_place():
    table = tidy.table([{"a": 1, "b": None, "c": "x"}, {"a": 2, "b": {"mean": 1.0, "sd": 2.0}}])
    assert list(table.columns) == [("a", ""), ("b", "mean"), ("b", "sd"), ("c", "")]
    assert formats.as_text(table)["b"].tolist() == ["–", "1.00 ± 2.00"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1.234, "−1.23"),
        (1654, "1,654"),
        ({"mean": 81.256, "sd": 1.0}, "81.26 ± 1.00"),
        ({"mean": 3771.23, "sd": 139.95}, "3771 ± 140"),
        ({"lower": 1.0, "median": 2.0, "upper": 3.0}, "2.00 [1.00, 3.00]"),
        ({"reported": 84.19, "spread": 0.2}, "84.19 ± 0.2"),
        ({"reported": math.nan, "spread": math.nan}, "not sourced"),
        ({"ratio": 1.5, "floor": 1.25}, "1.50 (1.25)"),
        ({"from": 4, "to": 12}, "4 to 12"),
        ({"part": 1, "whole": 5}, "1 of 5"),
        ({"percent": 6.25}, "6.2 %"),
        ({"factor": 0.46}, "0.46 ×"),
        ({"seconds": 7200}, "2 hours"),
        ({"rho": 0.25, "at_edge": True}, "0.25*"),
        ({"seen": "open", "where": "on digits"}, "open on digits"),
        ({"share": 121.4, "from": 107.2, "to": 140.0}, "121 % [107, 140]"),
        ({"share": math.nan, "from": math.nan, "to": math.nan}, "–"),
        ({"mean": math.nan, "low": math.nan, "high": math.nan, "n": 0}, "not run"),
        ({"mean": -1.0, "low": math.nan, "high": math.nan, "n": 1}, "−1.00 (one seed)"),
    ],
)
def test_numbers_on_the_page(value, text):
    assert formats.as_text(tidy.table([{"x": value}]))["x"].tolist() == [text]


def test_the_readme_block_stands_between_its_markers(smoke_folder, tmp_path):
    folder = shutil.copytree(smoke_folder, tmp_path / "results")
    path = tmp_path / "README.md"
    path.write_text(f"before\n{readme.BEGIN}\nnumbers of last year\n{readme.END}\nafter\n")
    readme.update("smoke", folder, path)
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "last year" not in text
    assert "| question | here, in a smoke test | the paper, on CIFAR-100 |" in text
    assert "| Does SAM-ON beat SAM? | " in text
    once = text
    written = readme.update("smoke", folder, path)
    assert path.read_text() == once
    assert written == [path, folder / "smoke" / "figures" / "headline.svg"]


@pytest.mark.parametrize("text", ["nothing", f"{readme.END} before {readme.BEGIN}"])
def test_a_readme_without_markers_in_order_is_left_alone(smoke_folder, tmp_path, text):
    folder, path = shutil.copytree(smoke_folder, tmp_path / "results"), tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ConfigError, match="has no lines"):
        readme.update("smoke", folder, path)
    assert path.read_text() == text


def test_the_readme_says_that_a_profile_nearer_to_the_paper_has_no_answer_yet(
    smoke_folder, tmp_path
):
    folder = shutil.copytree(smoke_folder, tmp_path / "results")
    path = tmp_path / "README.md"
    path.write_text(f"{readme.BEGIN}\n{readme.END}")
    store.write(folder / "cifar100-10k" / "runs", result())
    readme.update("smoke", folder, path)
    said = introduction.finding_elsewhere(load("smoke", folder))
    assert said.startswith("No answer yet on CIFAR-100, 10,000 images. Not run yet: ")
    assert "nearer to the paper has been run" in introduction.finding_elsewhere(
        load("smoke", smoke_folder)
    )
    *_, said, planned, runs, _ = path.read_text().split("\n\n")
    assert planned.startswith("Every claim")
    assert runs.startswith("Of about ")
    assert said.startswith("**On CIFAR-100, 10,000 images: no answer yet.** CIFAR-100, 10,000 tr")
    assert ", 60 epochs. Not run yet: " in said
    assert "run --profile cifar100-10k --only introduction" in said


def test_an_answer_nearer_to_the_paper_is_told(smoke, monkeypatch):
    there = zip(map(profiles.get, ("cifar100-45k", "imagenet")), (None, "Not run."), strict=True)
    monkeypatch.setattr(missing, "nearer_to_the_paper", lambda results: there)
    said = introduction.finding_elsewhere(smoke)
    where = profiles.get("imagenet").where
    told = "There is an answer on CIFAR-100, 45,000 images, too."
    assert said == f"{told} No answer yet {where}. Not run."


def test_profiles_are_in_the_book_once_and_by_nearness_once():
    assert sorted(missing.LEADING) == sorted(missing.NEAREST) == sorted(profiles.PROFILES)


def test_status_counts_runs(smoke_folder):
    text, found = status.status(PROFILE, smoke_folder), load("smoke", smoke_folder)
    for name, needs in plan.NEEDS.items():
        row = next(line for line in text.splitlines() if line.split()[:1] == [name])
        done, missing = map(int, row.split()[1:3])
        assert done == Backlog([needs(PROFILE)], found.records, found.measures).total > 0
        assert missing == 0


def test_changes_are_told_run_by_run(smoke_folder, tmp_path):
    old = smoke_folder / "smoke" / "runs"
    new = tmp_path / "runs"
    some = sorted(store.read(old).values(), key=lambda r: r["run_id"])[:3]
    for index, r in enumerate(some):
        moved = r | {"test_accuracy": r["test_accuracy"] + index}
        moved["curves"] = r["curves"] | {"train_loss": [1.0 + index]}
        store.write(new, {k: v for k, v in moved.items() if k not in ("format", "checksum")})
    text = compare.changes(old, new)
    assert re.search(r"3 runs were there before: 1 have the same numbers", text)
    assert f"{some[2]['run_id']}: " in text
    assert "(+2.00)" in text


def test_old_results_that_cannot_be_read_keep_no_new_ones_back(smoke_folder, tmp_path):
    (tmp_path / "file").write_text("no folder")
    text = compare.changes(tmp_path / "file", smoke_folder / "smoke" / "runs")
    assert "the old ones cannot be compared: cannot read" in text


def test_a_page_says_which_of_its_rows_are_not_run_yet(smoke):
    assert "Not run yet" not in html.provenance(smoke, "shift").data
    plain = {r: kept for r, kept in smoke.records.items() if kept["config"]["updated"] == "all"}
    line = html.provenance(dataclasses.replace(smoke, records=plain), "shift").data
    assert "Not run yet: SGD, γ and β fixed; SAM, γ and β fixed; SAM-ON, γ and β fixed." in line


def test_the_readme_says_where_a_plan_came_before_the_runs(tmp_path):
    evidence = profiles.get("cifar100-10k")
    found = planted(
        evidence, {"all": 1.0, "only_norm": 2.0}, tmp_path / evidence.name, only=("introduction",)
    )
    block = readme.block(found, "figure.svg")
    assert "[fixed before the runs](book/preregistration.md). Of the 12 hypotheses of " in block
    assert "| question | here, on CIFAR-100, 10,000 images | the paper, on CIFAR-100 |" in block
    assert "**Seen on CIFAR-100, 10,000 images: SAM-ON beats SAM, " in block


@pytest.mark.parametrize(("p", "said"), [(0.08, True), (math.nan, False)])
def test_an_open_interval_without_zero_says_its_corrected_p_if_it_has_one(p, said):
    """A tau that is held against 0.7 has no p."""
    values = {"mean": 0.8, "low": 0.6, "high": 0.9, "n": 9, "p": p, "needed": None}
    table = tidy.table([{"tau": values | {"seen": OPEN, "where": "here"}}])
    assert ("corrected p" in html.show(table).data) == said
