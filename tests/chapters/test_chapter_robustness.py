"""The robustness chapter on made-up measurements whose numbers are known."""

import pytest
from made_up import PROFILE, made_up_results

from samlib.chapters import robustness
from samlib.errors import RecordsMissing
from samlib.records import store
from samlib.records.results_folder import committed
from samlib.report.results import load
from samlib.study.methods import ALL, BASE


@pytest.fixture
def rewritten(tmp_path):
    """A function that sets clean, corrupted and attacked accuracy by method, then reads them."""
    folder = made_up_results(tmp_path)

    def rewrite(levels):
        campaign = committed(folder, PROFILE.name)
        for record in store.read(campaign.measures("robustness")).values():
            config = record["config"]
            method = "base" if config["geometry"] == "none" else config["mask"]
            clean, corrupted, attacked = (x + 0.1 * config["seed"] for x in levels[method])
            record["values"] = {
                "clean": clean,
                "corruptions": {"contrast": [corrupted] * 5},
                "corrupted": corrupted,
                "attacked": 10,
                "attacked_clean": clean - 1,
                "attacks": [
                    {"norm": "l2", "radius": 0.25, "accuracy": attacked},
                    {"norm": "linf", "radius": 0.25 / 255, "accuracy": clean - 1.5},
                ],
            }
            kept = {k: v for k, v in record.items() if k not in ("format", "checksum")}
            store.write(campaign.measures("robustness"), kept)
        return load(PROFILE.name, folder)

    return rewrite


GAINS_MORE = {"base": (80, 60, 20), "all": (88, 70, 50), "only_norm": (89, 73, 55)}
GAINS_LESS = {"base": (80, 60, 20), "all": (88, 70, 50), "only_norm": (89, 73, 50)}


def test_what_counts_is_the_gain_beyond_the_clean_gain(rewritten):
    found = rewritten(GAINS_MORE)
    table = robustness.table(found)[0].set_index("test images")
    assert table["SAM-ON − SAM"]["clean"] == "+1.00 [+1.00, +1.00]"
    assert table["more than clean"]["corrupted, mean"].startswith("+2.00")
    assert table["more than clean"]["ℓ₂ attack, 0.25"].startswith("+4.00")
    assert table["more than clean"]["ℓ∞ attack, 0.25/255"].startswith("+0.00")
    read, clean = robustness.conditions(found)["ℓ₂ attack, 0.25"]
    assert robustness.excess(found, BASE, read, clean).mean == pytest.approx(35 - 9)


def test_conditions_without_an_effect_do_not_count(rewritten):
    found = rewritten(GAINS_MORE)
    assert robustness.felt(found) == ["corrupted, mean", "ℓ₂ attack, 0.25"]
    answer = robustness.beyond_clean(found)
    assert (answer.verdict, answer.ours) == ("holds", "2 conditions: 2 holds")
    none = rewritten(dict.fromkeys(GAINS_MORE, (80, 79, 78)))
    assert robustness.felt(none) == []
    assert robustness.beyond_clean(none).verdict == "undecided"
    assert "No condition costs SGD 5 points" in robustness.finding(none)


def test_a_gain_that_vanishes_under_attack_refutes_the_claim(rewritten):
    found = rewritten(GAINS_LESS)
    assert robustness.beyond_clean(found).verdict == "refuted"
    said = robustness.finding(found)
    assert "over SAM is larger than the clean gain for corrupted, mean" in said
    assert "smaller than the clean gain for ℓ₂ attack, 0.25" in said


def test_corruptions_are_averaged_over_severities(rewritten):
    table = robustness.by_corruption(rewritten(GAINS_MORE)).set_index("corruption")
    assert table["SAM"]["contrast"] == "70.05 ± 0.07"
    assert table["SAM"]["pixelate"] == "– ± –"


def test_the_posters_differences_are_computed_from_its_numbers():
    table = robustness.reported_table().set_index("test images")
    assert table["SAM-ON − SAM"]["clean"] == "−0.10"
    assert table["SAM-ON − SAM"]["ℓ₂ attack, 0.5"] == "+5.01"
    assert table["more than clean"]["ℓ₂ attack, 0.5"] == "+5.11"
    assert len(table) == 10


def test_the_figure_has_a_row_per_condition_and_the_clean_one(rewritten):
    figure = robustness.figure(rewritten(GAINS_MORE))
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == ["clean", *robustness.conditions(rewritten(GAINS_MORE))]
    top = figure.axes[0].get_ylim()
    assert top[0] > top[1], "the first row is on top"


def test_without_measurements_it_is_not_run(tmp_path):
    folder = made_up_results(tmp_path)
    for path in committed(folder, PROFILE.name).measures("robustness").glob("*.json"):
        path.unlink()
    found = load(PROFILE.name, folder)
    with pytest.raises(RecordsMissing, match="no robustness of"):
        robustness.beyond_clean(found)
    assert found.cell(ALL)
