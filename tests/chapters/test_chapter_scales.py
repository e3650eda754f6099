"""The page on channel scales, on made-up records whose numbers are known."""

import functools

import pytest
from made_up import with_accuracies

from samlib.chapters import scales


@pytest.fixture
def rewritten(smoke):
    """A function that gives every run the test accuracy a rule says."""
    return functools.partial(with_accuracies, smoke)


def levels(level=88.0, fixed=0.0):
    """80 for the base optimizer, 89 for SAM, 90 for SAM-ON; less by `fixed` with fixed norms."""

    def rule(config):
        less = fixed if config["updated"] == "no_norm" else 0.0
        if config["geometry"] == "none":
            return 80.0 - less
        if config["geometry"].endswith("_scales"):
            return level - less
        return (90.0 if config["mask"] == "only_norm" else 89.0) - less

    return rule


@pytest.mark.parametrize(("level", "seen"), [(88.0, "seen"), (91.0, "reversed")])
def test_sam_on_must_beat_both_kinds_of_scales(rewritten, level, seen):
    answer = scales.beyond_scales(rewritten(levels(level)))
    assert answer.seen == seen
    assert "over output-channel scales" in answer.ours


def test_one_kind_of_scales_that_does_as_well_is_no_difference(rewritten):
    def rule(config):
        return 90.0 if config["geometry"] == "input_scales" else levels()(config)

    found = rewritten(rule)
    assert [c.seen for c in scales.table(found)[1]] == ["seen", "no difference"]
    assert scales.beyond_scales(found).seen == "no difference"
    assert "no different from input-channel scales" in scales.finding(found)


def test_fixed_methods_are_compared_with_fixed_methods(rewritten):
    found = rewritten(levels(84.0, fixed=5.0))
    table = scales.fixed(found)
    assert table["minus base"]["mean"].tolist() == pytest.approx([9.0, 10.0, 4.0, 4.0])
    assert table["accuracy"]["mean"][1] == pytest.approx(85, abs=0.1)
    assert "better than output-channel scales (+6.00" in scales.finding_fixed(found)


def test_the_numbers_moved_are_told(rewritten):
    said = scales.finding_moved(rewritten(levels()))
    assert "Of 336 output scales 112 are in front of batch norm. The other 224 move" in said
    assert "289 input scales, beside 240 γ and as many β" in said


def test_the_figure_shows_differences_on_the_same_seeds(rewritten):
    drawn = scales.figure(rewritten(levels())).axes[0].collections
    assert [c.get_offsets()[0][0] for c in drawn][:3] == pytest.approx([-1.0, -2.0, -2.0])
