"""The headline on made-up records whose numbers are known."""

from dataclasses import replace

import pytest
from made_up import PROFILE, made_up, with_accuracies
from planted import planted

from samlib.chapters import introduction
from samlib.errors import RecordsMissing
from samlib.report.formats import as_text
from samlib.report.results import load
from samlib.study import plan, profiles
from samlib.study.methods import DECAY, HEADLINE, ON, REPORTED


def levels(base=80.0, everything=90.0, on=91.0):
    def rule(config):
        if config["geometry"] == "none":
            return base
        return on if config["mask"] == "only_norm" else everything

    return rule


def test_the_table_has_leads_shares_and_the_time_of_a_step(smoke, tmp_path):
    found = with_accuracies(smoke, levels())
    table = introduction.table(found).set_index("method")
    assert list(table.index) == [
        *("SGD", "SGD, epoch chosen on validation", "SAM", "SAM-ON"),
        f"SGD, weight decay tuned to {smoke.rho(smoke.cell(DECAY)):.3g}",
    ]
    lead = table["SAM-ON minus it"]["mean"]
    assert lead[["SGD", "SAM"]].tolist() == pytest.approx([11, 1])
    assert lead[["SAM-ON"]].isna().all()
    assert table["minus base"]["mean"]["SAM"] == pytest.approx(10)
    shares = table["share of SAM's gain"]["share"]
    assert shares[["SAM", "SAM-ON"]].tolist() == pytest.approx([100, 110])
    assert list(table["step time"]) == [1.00, 1.00, 2.00, 1.75, 1.00]
    untimed = introduction.table(replace(found, folder=tmp_path / "smoke"))
    assert untimed["step time"].isna().all(), "no step of this network has been timed there"


def without(results, method):
    """The records without those that are a method's alone: some are another's, too."""
    known = {m for m in (*HEADLINE, DECAY) if results.profile.has("wrn", m)}
    own, *others = (results.cell(m) for m in (method, *(known - {method})))
    shared = {run.run_id for cell in others for run in cell.runs(results.records)}
    gone = {run.run_id for run in own.runs(results.records)} - shared
    left = {run_id: record for run_id, record in results.records.items() if run_id not in gone}
    return replace(results, records=left)


def test_the_finding_does_not_wait_for_the_tuned_weight_decay(smoke):
    waiting = without(with_accuracies(smoke, levels()), DECAY)
    needs = plan.introduction(PROFILE)
    waiting.require(needs)
    assert not waiting.lacks(needs)
    assert waiting.lacks(needs.with_beside())
    table = as_text(introduction.table(waiting)).set_index("method")
    assert list(table.index)[-2:] == ["SAM-ON", "SGD, weight decay tuned: not run yet"]
    assert set(table.loc["SGD, weight decay tuned: not run yet"]) <= {"–", ""}
    assert table.loc["SAM", "seeds"] == "2", "a count, although a row has none"
    with pytest.raises(RecordsMissing, match="runs have no record"):
        without(smoke, ON).require(needs)


def test_the_base_optimizer_is_stopped_where_validation_is_best(smoke):
    curves = {"validation_accuracy": [None, 70.0, 60.0, 70.0], "test_accuracy": [None, 85.0, 1, 2]}
    found = with_accuracies(smoke, levels())
    records = {
        i: r | {"curves": r["curves"] | curves} if r["config"]["geometry"] == "none" else r
        for i, r in found.records.items()
    }
    row = introduction.table(replace(found, records=records)).iloc[1]
    assert row["accuracy", "mean"] == 85.0, "the first of equals; not the best on test"
    assert row["minus base", "mean"] == pytest.approx(5.0, abs=0.01)
    assert row["SAM-ON minus it", "mean"] == pytest.approx(6.0, abs=0.01)


def test_no_share_is_told_of_a_gain_that_is_not_there(smoke):
    found = with_accuracies(smoke, levels(everything=79.0))
    table = introduction.table(found)
    assert table["share of SAM's gain"]["share"].isna().all()
    assert set(as_text(table)["share of SAM's gain"]) == {"–"}
    assert introduction.finding(found).startswith("SAM's own gain over SGD is not shown.")
    assert "gets 110 % [110, 110]" in introduction.finding(with_accuracies(smoke, levels()))


def test_gains_are_told_over_a_base_optimizer_that_is_tuned_too(smoke):
    decay = with_accuracies(smoke, levels(base=90.0))
    said = introduction.finding_decay(decay)
    assert "SAM is no different from SGD with a tuned weight decay" in said
    assert "which reaches 90.00 %; SAM-ON is better than that SGD (+1.00 [+1.00, +1.00])." in said
    assert introduction.finding(decay).endswith(said)
    labels = [t.get_text() for t in introduction.figure(decay).axes[0].get_xticklabels()]
    assert labels[:2] == ["SGD", f"SGD\ndecay\n{smoke.rho(smoke.cell(DECAY)):.3g}"]
    waiting = without(decay, DECAY)
    assert introduction.finding_decay(waiting) == ""
    assert len(introduction.figure(waiting).axes[0].get_xticklabels()) == 3


@pytest.mark.parametrize(("times", "said"), [(1, "of all three anyway"), (2, "keep the untuned")])
def test_a_search_that_chooses_the_usual_weight_decay_is_told(smoke, times, said):
    cell = smoke.cell(DECAY)
    best = times * cell.base.weight_decay
    tuned = [run for value in cell.start for run in cell.at(value, (*cell.tuning, *cell.seeds))]
    records = {run.run_id: made_up(run) for run in tuned}
    for run in tuned:
        records[run.run_id]["validation_accuracy"] = 90.0 if run.weight_decay == best else 10.0
    found = replace(smoke, records=smoke.records | records)
    assert found.rho(cell) == best
    assert said in introduction.finding_decay(found)


@pytest.mark.parametrize(
    ("on", "seen"), [(91.0, "seen"), (90.05, "no difference"), (89.0, "reversed")]
)
def test_claim_3_is_best_against_best(smoke, on, seen):
    assert introduction.best_against_best(with_accuracies(smoke, levels(on=on))).seen == seen


@pytest.mark.parametrize(
    ("name", "other"), [("imagenet", False), ("paper", False), ("quick", True)]
)
def test_a_profile_in_the_papers_setting_is_not_set_apart_from_it(tmp_path, name, other):
    assert bool(introduction._not_the_papers(load(name, tmp_path))) == other


def test_the_posters_numbers_belong_to_its_network(smoke):
    assert introduction.absolute(smoke).seen == "not run"


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    """Records of the introduction in the paper's setting."""
    folder = tmp_path_factory.mktemp("planted")
    return planted(profiles.get("paper"), {}, folder / "paper", only=("introduction",))


@pytest.mark.parametrize(("on", "seen"), [(84.0, "holds"), (83.7, "refuted")])
def test_the_posters_numbers_are_read_at_its_rho_on_the_compared_seeds(papers, on, seen):
    def rule(config):
        if config["seed"] >= 1000:
            return 10.0  # the tuning seeds, which are not compared
        at = {("none", 0.0): 80.7, ("l2", 0.1): 83.1, ("l2", 1.0): on}
        return at.get((config["geometry"], config["rho"]), 50.0)

    found = with_accuracies(papers, rule)
    answer = introduction.absolute(found)
    assert (answer.seen, answer.seeds) == (seen, 3)
    assert answer.ours == f"80.71, 83.11, {on + 0.01:.2f}"
    assert "SAM-ON, at the reported ρ" in introduction.table(found)["method"].tolist()
    with pytest.raises(RecordsMissing):
        introduction.absolute(without(found, REPORTED[1]))
