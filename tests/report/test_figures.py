"""What the figures of the study share."""

import matplotlib.pyplot as plt
import pytest

from samlib.report.figures import plain_ticks


def drawn(low, high):
    """The labels of a logarithmic axis from low to high, empty ones left out."""
    figure, ax = plt.subplots()
    ax.set_xlim(low, high)
    ax.set_xscale("log")
    plain_ticks(ax.xaxis)
    figure.canvas.draw()
    labels = [*ax.get_xticklabels(), *ax.get_xticklabels(minor=True)]
    plt.close(figure)
    return [label.get_text() for label in labels if label.get_text()]


@pytest.mark.parametrize(("low", "high"), [(0.0135, 0.028), (50.0, 95.0), (0.002, 0.015)])
def test_less_than_a_decade_has_a_few_round_numbers(low, high):
    within = [label for label in drawn(low, high) if low <= float(label) <= high]
    assert 2 <= len(within) <= 4
    assert all(len(label.lstrip("0.")) <= 2 for label in within), "two digits at most"


def test_less_than_two_decades_have_ones_twos_and_fives():
    within = [label for label in drawn(1.4, 52.0) if 1.4 <= float(label) <= 52]
    assert within == ["2", "5", "10", "20", "50"]


def test_two_decades_keep_their_powers_of_ten():
    assert any("10^" in label for label in drawn(1.0, 200.0))
