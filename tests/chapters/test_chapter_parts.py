"""The page on parts of SAM-ON, on made-up records whose numbers are known."""

import dataclasses

import pytest
from made_up import PROFILE, with_accuracies

from samlib.chapters import parts

ALONE = {"only_gamma": 88.0, "only_beta": 91.0}


def rule(config):
    if config["geometry"] == "none":
        return 80.0
    return ALONE.get(config["mask"], 90.0 if config["mask"] == "only_norm" else 89.0)


def test_gamma_and_beta_are_compared_each_against_each(smoke):
    table, comparisons = parts.table(with_accuracies(smoke, rule))
    pairs = list(zip(table["perturbed"], table["minus"], strict=True))
    gaps = dict(zip(pairs, (c.mean for c in comparisons), strict=True))
    assert gaps["SAM-ON", "γ only"] == pytest.approx(2.0)
    assert gaps["SAM-ON", "β only"] == pytest.approx(-1.0)
    assert gaps["γ only", "β only"] == pytest.approx(-3.0)
    assert pairs[-1] == ("γ only", "β only")
    assert len(pairs) == len(PROFILE.masks) + 1


def test_the_finding_follows_the_comparisons(smoke):
    said = parts.finding(with_accuracies(smoke, rule))
    assert "SAM-ON is better than γ only (+2.00 [+2.00, +2.00]) and worse than β only" in said
    assert "γ only is worse than β only (−3.00" in said


def test_the_page_opens_with_both_parts_and_the_verdict_on_them(smoke):
    box = parts.opening(with_accuracies(smoke, rule))
    assert box["sees"].startswith("SAM-ON − γ only +2.00 [+2.00, +2.00] points, 2 seeds; SAM-ON −")
    assert box["seen"] == "reversed"
    better = with_accuracies(smoke, lambda c: rule(c) + 2 * (c["mask"] == "only_norm"))
    assert parts.opening(better)["seen"] == "seen"


def test_a_profile_without_gamma_alone_says_so(smoke):
    grids = tuple(row for row in PROFILE.grids if row.method.mask not in ALONE)
    found = dataclasses.replace(smoke, profile=dataclasses.replace(PROFILE, grids=grids))
    assert "not part of this profile" in parts.finding(found)
    assert parts.opening(found)["seen"] == "not run"
    assert len(parts.table(found)[0]) == len(found.profile.masks)


def test_the_figure_has_a_row_per_mask(smoke):
    ax = parts.figure(with_accuracies(smoke, rule)).axes[0]
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels[0] == "SAM"
    assert len(labels) == 1 + len(PROFILE.masks)
    assert "SAM-ON" not in labels
