"""The chapter on when the perturbation is needed, on made-up records whose numbers are known."""

import pytest
from made_up import PROFILE, made_up_results

from samlib import records
from samlib.campaign import place
from samlib.chapters import when
from samlib.results import load


@pytest.fixture
def rewritten(tmp_path):
    """A function that gives every run the test accuracy a rule says, then reads them all."""
    folder = made_up_results(tmp_path)

    def rewrite(rule, recalibrated=lambda config: 50.0):
        runs = place(folder, PROFILE.name).runs
        for record in records.read(runs).values():
            config = record["config"]
            record["test_accuracy"] = rule(config) + 0.01 * config["seed"]
            record["measures"]["recalibrated_test_accuracy"] = recalibrated(config)
            records.write(
                runs, {k: v for k, v in record.items() if k not in ("format", "checksum")}
            )
        return load(PROFILE.name, folder)

    return rewrite


def by_start(config):
    """80 for the base optimizer, 90 with SAM always, 82 where it starts late, 88 if it ends."""
    if config["geometry"] == "none":
        return 80.0
    late, short = config["start"] > 0, config["end"] is not None
    return 82.0 if late else 88.0 if short else 90.0


def test_the_gain_left_is_a_share_of_the_full_gain(rewritten):
    found = rewritten(by_start)
    table, comparisons = when.table(found)
    assert list(table["gain left"]) == ["20 %", "80 %"] * 2
    assert list(table["active epochs"]) == ["2 to 2", "1 to 1"] * 2
    assert [round(c.mean, 6) for c in comparisons] == [-8.0, -2.0] * 2
    assert "gets 20 % of its gain over the base optimizer, SAM 20 %" in when.finding(found)
    assert "is not met" in when.finding(found)


def test_the_expectation_is_met_when_only_sam_recovers_late(rewritten):
    late = {"all": 89.0, "only_norm": 82.0}
    found = rewritten(lambda c: late[c["mask"]] if c["start"] else by_start(c))
    assert "get less than half where SAM gets most is met" in when.finding(found)


def test_statistics_decide_the_claim(rewritten):
    def recalibrated(config):
        return 60.0 + 5 * (config["mask"] == "only_norm") + 0.1 * config["seed"]

    found = rewritten(by_start, recalibrated)
    table = when.statistics(found)[0].set_index("statistics")
    assert table["SAM-ON − base"]["of both passes"] == "+10.00 [+10.00, +10.00]: holds"
    assert table["SAM-ON − base"]["recalibrated after training"].startswith("+5.00 ")
    assert table["SAM-ON − SAM"]["recalibrated after training"].startswith("+5.00 ")
    assert when.not_statistics(found).verdict == "holds"
    none = rewritten(by_start, lambda config: 60.0 + 0.1 * config["seed"])
    assert when.not_statistics(none).verdict == "refuted", "no gain with recalibrated statistics"


def test_the_figure_has_a_point_per_seed_of_every_switched_method(rewritten):
    figure = when.figure(rewritten(by_start))
    drawn = [len(c.get_offsets()) for ax in figure.axes[:2] for c in ax.collections]
    assert drawn == [PROFILE.seeds] * 4


def test_a_profile_too_short_to_switch_says_so(rewritten, monkeypatch):
    monkeypatch.setattr(when, "_switched", lambda *arguments: {})
    assert "too short" in when.finding(rewritten(by_start))
