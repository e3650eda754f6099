"""The search for a value: extended at an edge, refined inside, by hand-made scores."""

import math

import pytest

from samlib.study.search import EXTENSIONS, ladder, neighbours, search


def searched(start, score, **options):
    """A search to its end: the values it asked for in turn, and what it chose."""
    scores = {}
    while True:
        found = search(start, scores.get, **options)
        new = [value for value in found.values if value not in scores]
        assert bool(new) == (found.chosen is None)
        if not new:
            return found
        scores |= {value: score(value) for value in new}


def peak(at):
    return lambda value: -abs(math.log2(value / at))


def test_a_best_value_inside_gets_its_two_neighbours_and_no_more():
    found = searched(ladder(0.1), peak(0.2))
    assert found.values == (0.1, 0.1414, 0.2, 0.2828, 0.4, 0.8)
    assert (found.chosen, found.at_edge) == (0.2, False)


def test_a_neighbour_may_be_chosen():
    assert searched(ladder(0.1), peak(0.28)).chosen == 0.2828


@pytest.mark.parametrize(("at", "joined"), [(1.6, (1.6, 3.2)), (0.05, (0.05, 0.025))])
def test_a_ladder_is_extended_at_an_edge_until_the_best_is_inside(at, joined):
    found = searched(ladder(0.1), peak(at))
    assert set(joined) < set(found.values)
    assert len(found.values) == 4 + 2 + 2
    assert (found.chosen, found.at_edge) == (at, False)


def test_a_search_ends_although_the_best_stays_at_the_edge():
    found = searched(ladder(1.0), lambda value: value)
    assert max(found.values) == pytest.approx(8 * 2**EXTENSIONS * math.sqrt(2), rel=1e-3)
    assert found.at_edge


def test_of_equal_scores_the_smaller_value_is_chosen():
    assert searched(ladder(1.0), lambda value: 0.0 if value >= 2 else -1.0).chosen == 2.0


def test_without_refinement_a_ladder_is_taken_as_it_is():
    found = searched(ladder(1.0, 2), lambda value: value, refine=False)
    assert found == ((1.0, 2.0), 2.0, True, 0)


def test_a_single_value_is_not_searched():
    assert search((0.0,), {}.get).chosen == 0.0


def test_what_is_still_to_come_is_counted_as_far_as_it_can_be_told():
    assert search(ladder(0.1), {}.get).expected == 2
    scores = {v: peak(0.2)(v) for v in ladder(0.1)}
    inside = search(ladder(0.1), scores.get)
    assert (inside.chosen, inside.expected) == (None, 0)
    assert {*neighbours(0.2)} < {*inside.values}
