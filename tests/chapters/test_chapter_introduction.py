"""The headline on made-up records whose numbers are known: is it just rho?"""

from dataclasses import replace

import pytest
from made_up import PROFILE

from samlib.chapters import introduction
from samlib.study.methods import ALL, HEADLINE


@pytest.fixture(scope="module")
def six(smoke):
    """The made-up smoke profile with six seeds of the headline, two of which choose rho."""
    seeds = replace(PROFILE, headline_seeds=6)
    records = dict(smoke.records)
    for method in HEADLINE:
        cell = seeds.cell("wrn", method)
        like = next(iter(smoke.runs(smoke.cell(method))))
        for rho in cell.grid:
            for run in cell.at(rho, cell.seeds):
                new = like | {"run_id": run.run_id, "config": run.to_dict()}
                records.setdefault(run.run_id, new)
    return replace(smoke, profile=seeds, records=records)


def with_accuracies(found, rule):
    changed = {
        i: r | {"test_accuracy": rule(r["config"]), "validation_accuracy": -r["config"]["rho"]}
        for i, r in found.records.items()
    }
    return replace(found, records=changed)


def by_seed(first, rest):
    """SAM-ON above SAM by `first` on the seeds that choose and by `rest` on the others."""

    def rule(config):
        lead = (first if config["seed"] < 2 else rest) * (config["mask"] == "only_norm")
        return 80 + 10 * (config["rho"] > 0) + lead + 0.01 * config["seed"] * lead

    return rule


def test_the_seeds_that_choose_no_rho_are_compared_by_themselves(six):
    found = with_accuracies(six, by_seed(first=5.0, rest=-1.0))
    apart = introduction.not_choosing(found)
    assert (apart.seeds, apart.verdict) == (4, "refuted")
    assert "over the 4 that chose no ρ" in introduction.finding_is_it_rho(found)


def test_nothing_is_said_of_seeds_where_all_of_them_choose(six):
    two = replace(six, profile=PROFILE)
    found = with_accuracies(two, by_seed(first=1.0, rest=1.0))
    assert "chose no ρ" not in introduction.finding_is_it_rho(found)


def test_the_table_has_sam_ons_lead_and_the_time_of_a_step(six, tmp_path):
    found = with_accuracies(six, by_seed(1.0, 1.0))
    table = introduction.table(found).set_index("method")
    lead = table["SAM-ON minus it"]["mean"]
    assert lead[["SGD", "SAM-ON"]].isna().all()
    assert lead["SAM"] == pytest.approx(1.0, abs=0.1)
    assert list(table["step time"]) == [1.00, 2.00, 1.75]
    untimed = introduction.table(replace(found, folder=tmp_path / "smoke"))
    assert untimed["step time"].isna().all(), "no step of this network has been timed there"


def test_a_rho_at_which_sam_loses_by_chance_is_not_told(six):
    """Of the two values of rho one is chosen; at the other SAM is far behind, but unevenly."""
    _, other = sorted(six.cell(ALL).grid)

    def rule(config, spread=30.0):
        if config["mask"] == "all" and config["rho"] == other:
            return 50 - spread * config["seed"] ** 3
        return 90.0 + (config["mask"] == "only_norm") * (config["seed"] % 2 - 0.5)

    said = introduction.finding_is_it_rho(with_accuracies(six, rule))
    assert "would lose" not in said
    said = introduction.finding_is_it_rho(with_accuracies(six, lambda c: rule(c, spread=0.1)))
    assert f"Left at ρ = {other:g}, SAM would lose to SAM-ON by more than chance" in said
