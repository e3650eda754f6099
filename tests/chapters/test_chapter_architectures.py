"""The architectures chapter on made-up records whose numbers are known."""

import functools
from dataclasses import replace

import pytest
from made_up import PROFILE, made_up, with_accuracies

from samlib.chapters import architectures
from samlib.report import html
from samlib.report.stats import holm
from samlib.study.methods import ALL, BASE, ON


@pytest.fixture
def rewritten(smoke):
    """A function that gives every run the test accuracy a rule says."""
    return functools.partial(with_accuracies, smoke)


def levels(base=60.0, everything=70.0, on=75.0):
    def rule(config):
        if config["geometry"] == "none":
            return base
        return everything if config["mask"] == "all" else on

    return rule


NETWORKS = ["WRN-10-1", "ResNet-8", "ResNeXt-11 4x2d", "ViT-micro"]


def test_every_network_has_a_row_and_its_own_base_optimizer(rewritten):
    found = rewritten(levels())
    table, comparisons = architectures.table(found)
    assert list(table["network"]) == NETWORKS
    assert list(table["base"]["optimizer"]) == ["SGD"] * 3 + ["AdamW"]
    assert [round(c.mean, 6) for c in comparisons] == [5.0] * 4
    over_base, _ = architectures.table(found, BASE)
    assert over_base["SAM-ON − base"]["mean"].tolist() == pytest.approx([15.0] * 4)


def test_claim_5_is_about_adamw_and_wants_at_least_sam(rewritten):
    assert architectures.transformers(rewritten(levels())).seen == "seen"
    as_good = rewritten(levels(everything=75.0))
    assert architectures.transformers(as_good).seen == "seen", "as good as SAM is enough"
    assert architectures.transformers(rewritten(levels(everything=76.0))).seen == "reversed"
    no_gain = architectures.transformers(rewritten(levels(base=75.0)))
    assert no_gain.seen == "no difference", "a gain over AdamW is asked for"


def test_claim_6_is_about_lion_and_not_run_without_it(rewritten):
    found = rewritten(levels())
    assert architectures.lion(found).seen == "not run"
    lion = PROFILE.bases["vit"].replace(optimizer="lion", lr=1e-3)
    profile = replace(PROFILE, bases=PROFILE.bases | {"vit-lion": lion})
    more = replace(found, profile=profile)
    records = dict(found.records)
    for method, level in ((BASE, 60.0), (ALL, 70.0), (ON, 75.0)):
        cell = more.cell(method, "vit-lion")
        for run in [*cell.tuning_runs(records), *(r for v in cell.start for r in cell.at(v))]:
            records[run.run_id] = made_up(run) | {"test_accuracy": level + 0.01 * (run.seed % 9)}
    answer = architectures.lion(replace(more, records=records))
    assert answer.seen == "seen"
    assert "over Lion" in answer.ours


def test_verdicts_of_rows_are_corrected_together(rewritten):
    # 4.7 and 5.3 against SAM: p is 0.04 alone and 0.15 after the correction over four
    uneven = levels(everything=70.0)
    found = rewritten(
        lambda c: uneven(c) + (0.6 * c["seed"] - 0.3) * (c["mask"] == "all" and c["rho"] > 0)
    )
    table, comparisons = architectures.table(found)
    assert {c.seen for c in comparisons} == {"seen"}
    assert set(table["SAM-ON − SAM"]["seen"]) == {"open"}
    assert list(table["SAM-ON − SAM"]["p"]) == holm([c.p for c in comparisons])
    assert "not told apart from SAM on WRN-10-1, ResNet-8" in architectures.finding(found)


def test_how_far_a_network_fits_stands_beside_what_it_could_learn(rewritten):
    found = rewritten(levels())
    records = {
        i: r | {"curves": r["curves"] | {"train_accuracy": [10.0, 96.0]}}
        for i, r in found.records.items()
    }
    said = architectures.finding_fit(replace(found, records=records))
    assert "96 % (WRN-10-1, 64 % of whose labels are right)" in said
    assert "96 % (ViT-micro, 82 % of whose labels are right)" in said


def test_the_finding_names_networks_by_what_was_found(rewritten):
    def rule(config):
        return levels(base=80.0 if config["optimizer"] == "adamw" else 60.0)(config)

    said = architectures.finding(rewritten(rule))
    assert "worse than its base optimizer on ViT-micro" in said
    assert "better than SAM on WRN-10-1, ResNet-8" in said
    same = architectures.finding(rewritten(levels(everything=75.0)))
    assert "no different from SAM on WRN-10-1" in same


def test_reported_differences_are_computed():
    table = html.as_text(architectures.reported_table()).set_index("network")
    assert table["reported SAM-ON − SAM"]["ViT-S/32, ImageNet, Lion"] == "+0.74"
    assert table["reported SAM-ON − SAM"]["ViT-S/32, ImageNet, AdamW"] == "−0.10"
    assert table["reported SAM-ON − SAM"]["WRN-28-10, CIFAR-100"] == "+0.41"
    assert set(table.loc["ViT-T, CIFAR-10 and CIFAR-100, AdamW"]) == {"not sourced"}


def test_rows_of_both_panels_run_from_the_top(rewritten):
    axes = architectures.figure(rewritten(levels())).axes
    for ax in axes:
        bottom, top = ax.get_ylim()
        assert bottom > top
