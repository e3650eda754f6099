"""The robustness chapter on made-up measurements whose numbers are known."""

from dataclasses import replace

import pytest
from made_up import with_measures
from matplotlib.collections import LineCollection
from planted import planted

from samlib.chapters import robustness, verdicts
from samlib.errors import RecordsMissing
from samlib.measures.shifted_sets import SETS
from samlib.report import formats
from samlib.study import plan, profiles
from samlib.study.methods import BASE


@pytest.fixture
def rewritten(smoke):
    """A function that sets clean, corrupted and attacked accuracy by method."""

    def rewrite(levels):
        def change(config, values):
            method = "base" if config["geometry"] == "none" else config["mask"]
            clean, corrupted, attacked = (x + 0.1 * config["seed"] for x in levels[method])
            values |= {
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

        return with_measures(smoke, "robustness", change)

    return rewrite


GAINS_MORE = {"base": (80, 60, 20), "all": (88, 70, 50), "only_norm": (89, 73, 55)}
GAINS_LESS = {"base": (80, 60, 20), "all": (88, 70, 50), "only_norm": (89, 73, 50)}


def test_what_counts_is_the_gain_beyond_the_clean_gain(rewritten):
    found = rewritten(GAINS_MORE)
    table = robustness.table(found).set_index("test images")
    assert table["SAM-ON − SAM"].loc["clean", ["mean", "low"]].tolist() == pytest.approx([1, 1])
    beyond = table["more than clean"]["mean"]
    assert beyond["corrupted, mean"] == pytest.approx(2)
    assert beyond["ℓ₂ attack, 0.25"] == pytest.approx(4)
    read, clean = robustness.conditions(found)["ℓ₂ attack, 0.25"]
    assert robustness.excess(found, BASE, read, clean).mean == pytest.approx(35 - 9)


def test_conditions_without_an_effect_are_not_counted(rewritten):
    found = rewritten(GAINS_MORE)
    assert robustness.felt(found) == ["corrupted, mean", "ℓ₂ attack, 0.25"]
    assert list(robustness.table(found)["test images"]) == ["clean", *robustness.felt(found)]
    answer = robustness.beyond_clean(found)
    assert answer.seen == "seen"
    assert answer.ours.startswith("+2.00 ")
    assert answer.ours.endswith("; the lower of two)")
    none = rewritten(dict.fromkeys(GAINS_MORE, (80, 79, 78)))
    assert robustness.felt(none) == []
    assert robustness.beyond_clean(none).seen == "open"
    assert "No condition costs SGD 5 points" in robustness.finding(none)


def test_a_gain_that_vanishes_under_attack_reverses_the_claim(rewritten):
    found = rewritten(GAINS_LESS)
    assert robustness.beyond_clean(found).seen == "reversed"
    said = robustness.finding(found)
    assert "SAM-ON − SAM is larger than on clean images for corrupted, mean" in said
    assert "smaller than on clean images for ℓ₂ attack, 0.25" in said


def test_where_nothing_is_right_no_gain_is_to_be_seen(rewritten):
    lost = rewritten({key: (*of[:2], 0) for key, of in GAINS_MORE.items()})
    said = "every method is right on less than 1 % of the images"
    assert said in robustness.finding(lost)
    assert robustness.beyond_clean(lost).in_a_cell.endswith(f"; there {said}")
    less = rewritten(GAINS_LESS)
    assert "less than 1 %" not in robustness.finding(less) + robustness.beyond_clean(less).ours


def test_corruptions_are_averaged_over_severities(rewritten):
    table = robustness.by_corruption(rewritten(GAINS_MORE)).set_index("corruption")
    assert table["SAM"].loc["contrast"].tolist() == pytest.approx([70.05, 0.1 / 2**0.5, 2])
    assert table["SAM"].loc["pixelate", "n"] == 0
    assert formats.as_text(table)["SAM"].iloc[-1] == "– ± –"


def test_the_attacks_of_the_duality_paper_stand_apart(smoke):
    level = {"base": 10.0, "all": 30.0, "only_norm": 35.0}

    def change(config, values):
        method = "base" if config["geometry"] == "none" else config["mask"]
        for attack in values["attacks"]:
            attack["accuracy"] = level[method] + 0.1 * config["seed"]

    found = with_measures(smoke, "robustness", change)
    table = robustness.duality(found).set_index(("test images", ""))
    assert table.index.tolist() == [
        "ℓ∞ attack, 1/255",
        "ℓ∞ attack, 2/255",
        "ℓ₂ attack, 16/255",
        "ℓ₂ attack, 32/255",
    ]
    assert table["SAM − SGD", "mean"].tolist() == pytest.approx([20] * 4)
    assert table["SAM-ON − SAM", "mean"].tolist() == pytest.approx([5] * 4)
    assert not {*table.index} & {*robustness.conditions(found)}
    assert len(robustness.conditions(found)) == 7


def test_records_without_those_attacks_leave_the_table_empty(rewritten):
    assert robustness.duality(rewritten(GAINS_MORE)).empty


def test_the_posters_differences_are_computed_from_its_numbers():
    table = formats.as_text(robustness.reported_table()).set_index("test images")
    assert table["SAM-ON − SAM"]["clean"] == "−0.10"
    assert table["SAM-ON − SAM"]["ℓ₂ attack, 0.5"] == "+5.01"
    assert table["more than clean"]["ℓ₂ attack, 0.5"] == "+5.11"
    assert len(table) == 10


def test_the_figure_has_a_row_per_condition_and_the_clean_one(rewritten):
    figure = robustness.figure(rewritten(GAINS_MORE))
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == ["clean", *robustness.felt(rewritten(GAINS_MORE))]
    top = figure.axes[0].get_ylim()
    assert top[0] > top[1], "the first row is on top"


def test_a_tick_is_the_clean_gain_on_the_same_images(rewritten):
    def change(config, values):
        values["attacked_clean"] -= 3 * (config["mask"] == "only_norm")

    figure = robustness.figure(with_measures(rewritten(GAINS_MORE), "robustness", change))
    ticks = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    ends = [tick.get_segments()[0].tolist() for tick in ticks]
    assert [end[0][0] for end in ends] == pytest.approx([1, -2]), "of SAM-ON over SAM"
    assert [round(end[0][1] + 0.35) for end in ends] == [1, 2], "beside their conditions"


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """ImageNet, with two shifted sets on disk for every run, one for some and two for none."""
    folder, profile = tmp_path_factory.mktemp("planted") / "imagenet", profiles.get("imagenet")
    bases = {"vit": profile.bases["vit"].replace(model="vit_micro")}  # is built faster
    found = planted(replace(profile, bases=bases), {}, folder, only=("robustness",))

    def change(config, values):
        method = "base" if config["geometry"] == "none" else config["mask"]
        place = ("base", "all", "only_norm").index(method)
        on_disk = {"imagenet": 70 + place, "imagenetv2": 50 + 3 * place, "imagenet-r": 30 + place}
        if method == "base":
            on_disk["imagenet-a"] = 5
        values.clear()
        values |= {name: {"missing": "no such folder"} for name in SETS}
        for name, accuracy in on_disk.items():
            values[name] = {"accuracy": accuracy + 0.1 * config["seed"], "images": 10}

    return with_measures(found, "shifted_sets", change)


def test_imagenets_conditions_are_the_shifted_sets_that_all_methods_have(imagenet):
    assert list(robustness.conditions(imagenet)) == ["ImageNetV2", "ImageNet-R"]
    table = robustness.table(imagenet).set_index(("test images", ""))
    assert table.index.tolist() == ["clean", "ImageNetV2", "ImageNet-R"]
    assert table["SAM", "mean"].tolist() == pytest.approx([71.05, 53.05, 31.05])
    assert table["more than clean", "mean"].tolist()[1:] == pytest.approx([2, 0])
    answer = verdicts.answer(verdicts.BY_KEY["13"], imagenet)
    assert answer.seen == "no difference"
    assert answer.ours.startswith("+0.00 ")
    assert "Of 2 conditions 2 cost AdamW 5 points or more" in robustness.finding(imagenet)
    assert len(robustness.figure(imagenet).axes[0].get_yticklabels()) == 3


def test_imagenet_has_no_table_of_corruptions_or_attacks(imagenet):
    assert plan.robust_family(imagenet.profile).cells == []
    for name in ("corruptions", "duality"):
        assert robustness.TABLES[name](imagenet).empty, name


def test_without_measurements_it_is_not_run(smoke):
    found = replace(smoke, measures=smoke.measures | {"robustness": {}})
    with pytest.raises(RecordsMissing, match="no robustness of"):
        robustness.beyond_clean(found)
