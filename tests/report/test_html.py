"""Tables, verdicts and the README, from a campaign of the smoke profile made up here."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from made_up import PROFILE, made_up_results

from samlib.campaign.backlog import Backlog
from samlib.chapters import CHAPTERS, introduction, variants, verdicts
from samlib.cli import status
from samlib.errors import RecordsMissing
from samlib.publish import readme, tables
from samlib.records import changes, store
from samlib.report import answers, html, paper
from samlib.report.results import load
from samlib.report.stats import VERDICTS
from samlib.study import plan
from samlib.study.methods import ALL, BASE, ON, Method


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made_up_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def found(folder):
    return load("smoke", folder)


def test_every_accuracy_of_the_variants_table_is_in_the_records(found):
    table = variants.table(found)
    assert len(table) == len(PROFILE.families) * len(PROFILE.geometries)
    rows = itertools.product(PROFILE.families, PROFILE.geometries)
    for (_, row), (family, geometry) in zip(table.iterrows(), rows, strict=True):
        for column, mask in (("all", "all"), ("only norm", "only_norm")):
            rho = float(row[f"ρ {column}"].rstrip("*"))
            method = Method(geometry, mask)
            runs = [method.on(PROFILE.bases[family], rho, seed) for seed in range(PROFILE.seeds)]
            values = pd.Series([found.records[run.run_id]["test_accuracy"] for run in runs])
            assert row[column] == f"{values.mean():.2f} ± {values.std():.2f}"


def test_a_difference_is_paired_by_seed(found):
    comparison = found.compare(found.cell(ON), found.cell(ALL))
    on, everything = found.cell(ON), found.cell(ALL)
    pairs = [
        found.records[a.run_id]["test_accuracy"] - found.records[b.run_id]["test_accuracy"]
        for a, b in zip(
            on.at(found.rho(on), on.seeds), everything.at(found.rho(everything), 2), strict=True
        )
    ]
    assert comparison.mean == pytest.approx(np.mean(pairs))
    assert comparison.seeds == len(pairs)


def test_the_accuracy_shown_is_the_last_epochs_not_the_best_on_test(found):
    row = introduction.table(found).iloc[0]
    assert row["ours, last epoch"] != row["best on test"]
    assert row["ours, last epoch"].startswith(f"{found.accuracies(found.cell(BASE)).mean():.2f}")


TABLES = {name: make for chapter in CHAPTERS.values() for name, make in chapter.TABLES.items()}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_complete(found, name):
    table = TABLES[name](found)
    assert len(table)
    assert not table.isna().any().any()


def test_reported_numbers_are_those_of_the_sources():
    assert paper.HEADLINE["only_norm"].value == 84.19
    assert paper.best("l2", "all") == (0.2, (83.58, None, paper.FIGURE))
    gap = paper.best("l2", "only_norm")[1].value - paper.best("l2", "all")[1].value
    assert gap == pytest.approx(0.60)
    assert paper.best("fisher", "all") is None


def test_there_is_a_row_for_each_of_the_fifteen_claims(found):
    table = verdicts.table(found)
    assert list(table[""]) == list(range(1, 16))
    assert set(table["verdict"]) <= set(VERDICTS)
    run = {claim.number for claim in verdicts.CLAIMS if claim.chapter}
    run -= {2}  # about WRN-28-10 on CIFAR-100 only
    assert set(table[""][table["verdict"] != "not run"]) == run


def test_a_claim_without_records_is_not_run(tmp_path):
    empty = load("smoke", tmp_path)
    table = verdicts.table(empty).set_index("")
    assert (table["verdict"].drop(12) == "not run").all(), "12 is counted, not trained"


def test_a_claim_about_many_falls_with_one_refuted_after_correction():
    from samlib.report.stats import compare

    good = compare([1.0, 1.1, 0.9, 1.0, 1.05])
    bad = compare([-1.0, -1.1, -0.9, -1.0, -1.05])
    open_ = compare([1.0, -1.0, 0.5, -0.4, 0.1])
    same = compare([0.01, -0.01, 0.0, 0.02, -0.02])
    for strict in (True, False):
        assert answers.all_of([good, good], "", strict=strict).verdict == "holds"
        assert answers.all_of([good, open_], "", strict=strict).verdict == "undecided"
        assert answers.all_of([good, open_, bad], "", strict=strict).verdict == "refuted"
    assert answers.all_of([good, same], "", strict=False).verdict == "holds"
    assert answers.all_of([good, same], "", strict=True).verdict == "refuted"


def test_a_missing_record_names_the_command(folder, tmp_path):
    with pytest.raises(RecordsMissing, match=r"python -m samlib run --profile smoke"):
        load("smoke", tmp_path, needs="variants")


def test_results_are_loaded_from_a_path_that_is_a_string(folder, found):
    assert load("smoke", str(folder)).records == found.records


def test_tables_are_written_beside_the_records(folder):
    paths = tables.write("smoke", folder)
    assert {path.stem for path in paths} == set(TABLES)
    assert all(path.parent == folder / "smoke" / "tables" for path in paths)


def test_the_html_marks_verdicts_and_escapes_the_rest():
    page = html.show(pd.DataFrame({"verdict": ["not run"], "x": ["<b>"]})).data
    assert '<span class="verdict not-run">not run</span>' in page
    assert "&lt;b&gt;" in page


def test_tables_for_the_book_are_narrow_and_lose_nothing():
    table = pd.DataFrame(
        {
            "model": ["A", "A", "B"],
            "all": ["90.00 ± 1.00"] * 3,
            "ρ all": ["0.5", "1*", "2"],
            "diverged": [0, 0, 0],
            "difference": ["+1.00 [−1.00, +3.00]"] * 3,
            "verdict": ["undecided", "holds", "undecided"],
            "seeds to decide": ["12", "", ""],
        }
    )
    page = html.show(table).data
    assert "<th>diverged</th>" not in page
    assert "<th>ρ all</th>" not in page
    assert "90.00\u00a0±\u00a01.00 <small>(ρ\u00a01*)</small>" in page
    assert "+1.00\u00a0[−1.00,\u00a0+3.00]" in page
    assert "</span> <small>12\u00a0seeds</small>" in page
    assert page.count("<td>A</td>") == 1
    assert page.count("<td>B</td>") == 1
    diverged = html.show(table.assign(diverged=[0, 1, 0])).data
    assert "<th>diverged</th>" in diverged


def test_the_readme_block_stands_between_its_markers(folder, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{readme.BEGIN}\nnumbers of last year\n{readme.END}\nafter\n")
    readme.update("smoke", folder, path)
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "last year" not in text
    once = text
    written = readme.update("smoke", folder, path)
    assert path.read_text() == once
    assert written == [path, folder / "smoke" / "figures" / "headline.svg"]


def test_status_counts_runs(folder):
    text = status.status(PROFILE, folder)
    for name, needs in plan.NEEDS.items():
        row = next(line for line in text.splitlines() if line.split()[:1] == [name])
        assert int(row.split()[1]) == Backlog([needs(PROFILE)], {}, {}).total


def test_changes_are_told_run_by_run(folder, tmp_path):
    old = folder / "smoke" / "runs"
    new = tmp_path / "runs"
    some = sorted(store.read(old).values(), key=lambda r: r["run_id"])[:3]
    for index, r in enumerate(some):
        moved = r | {"test_accuracy": r["test_accuracy"] + index}
        moved["curves"] = r["curves"] | {"train_loss": [1.0 + index]}
        store.write(new, {k: v for k, v in moved.items() if k not in ("format", "checksum")})
    text = changes.changes(old, new)
    assert re.search(r"3 runs were there before: 1 have the same numbers", text)
    assert f"{some[2]['run_id']}: " in text
    assert "(+2.00)" in text


def test_old_results_that_cannot_be_read_keep_no_new_ones_back(folder, tmp_path):
    (tmp_path / "file").write_text("no folder")
    text = changes.changes(tmp_path / "file", folder / "smoke" / "runs")
    assert "the old ones cannot be compared: cannot read" in text
