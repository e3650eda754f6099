"""The chapter on when the perturbation is needed, on made-up records whose numbers are known."""

import math
from dataclasses import replace

import pytest
from made_up import PROFILE

from samlib.chapters import when


@pytest.fixture
def rewritten(smoke):
    """A function that gives every run the test accuracy a rule says."""

    def rewrite(rule):
        found = {}
        for run_id, record in smoke.records.items():
            accuracy = rule(record["config"]) + 0.01 * record["config"]["seed"]
            found[run_id] = record | {"test_accuracy": accuracy}
        return replace(smoke, records=found)

    return rewrite


def by_start(config):
    """80 for the base optimizer, 90 with SAM always, 82 where it starts late, 88 if it ends."""
    if config["geometry"] == "none":
        return 80.0
    late, short = config["start"] > 0, config["end"] is not None
    return 82.0 if late else 88.0 if short else 90.0


def test_the_gain_left_is_a_share_of_the_full_gain(rewritten):
    found = rewritten(by_start)
    table = when.table(found)
    assert table["gain left"]["share"].tolist() == pytest.approx([20, 80] * 2)
    assert table["active epochs"].to_numpy().tolist() == [[2, 2], [1, 1]] * 2
    assert table["difference"]["mean"].tolist() == pytest.approx([-8.0, -2.0] * 2)
    said = when.finding(found)
    assert "on for the last 1 of 2 epochs, 20 % [20, 20] (SAM-ON) and 20 % [20, 20] (SAM)" in said
    assert "off for the last 1 of 2 epochs, 80 % [80, 80] (SAM-ON)" in said


def test_no_share_is_told_of_a_gain_that_is_not_there(rewritten):
    found = rewritten(lambda c: 75.0 if c["mask"] == "only_norm" else by_start(c))
    shares = when.table(found)["gain left"]["share"].tolist()
    assert shares == pytest.approx([20, 80, math.nan, math.nan], nan_ok=True)
    assert "no share can be given (SAM-ON) and 20 % [20, 20] (SAM)" in when.finding(found)


def test_the_figure_has_a_point_per_seed_of_every_method(rewritten):
    figure = when.figure(rewritten(by_start))
    for ax in figure.axes[:2]:
        drawn = ax.collections[0].get_offsets()
        assert len(drawn) == 6 * PROFILE.seeds  # SAM and SAM-ON at 3 x
        middle = [82.0, 82.01] if ax is figure.axes[0] else [88.0, 88.01]
        switched = [y for x, y in drawn if 0.5 < x < 1.5]
        assert sorted(switched) == pytest.approx(sorted(2 * middle))


def test_a_profile_too_short_to_switch_says_so(rewritten, monkeypatch):
    found = rewritten(by_start)
    monkeypatch.setattr(when, "_switched", lambda *arguments: {})
    assert "too short" in when.finding(found)
    assert when.table(found).empty
    labels = [t.get_text().split("\n") for t in when.figure(found).axes[0].get_xticklabels()]
    assert labels == [["0", "always"], ["2", "SGD"]]
