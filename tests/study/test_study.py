import math
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import pytest
from conftest import one_line

from samlib.chapters import CHAPTERS
from samlib.cli import status
from samlib.errors import ConfigError
from samlib.sam.geometry import GEOMETRIES, L2, VARIANTS
from samlib.study import members, plan, profiles
from samlib.study.cells import Cell, all_cells, count_runs
from samlib.study.methods import ALL, BASE, DECAY, ON, RANDOM, REPORTED, SPARSE_MASKS, Method
from samlib.study.profile import Row
from samlib.study.search import ladder
from samlib.trainer.config import RunConfig


def record(validation, test=50.0):
    return {"validation_accuracy": validation, "test_accuracy": test}


@pytest.fixture
def cell():
    return Cell(RunConfig(), ON, (0.5, 1.0, 2.0), (1000, 1001), (0, 1, 2, 3))


def tuned(cell, best):
    """Records of a cell's whole search, with the best validation accuracy at one value."""
    records = {}
    while cell.chosen(records) is None:
        for run in cell.runs(records):
            score = 90.0 - abs(math.log2(run.rho / best))
            records[run.run_id] = record(score, test=100 - score)
    return records


def test_rho_is_not_chosen_before_the_search_is_complete(cell):
    records = {run.run_id: record(90.0) for run in cell.runs({})[:-1]}
    assert cell.chosen(records) is None
    assert cell.runs(records) == cell.runs({})


def test_rho_maximises_validation_accuracy_and_never_looks_at_the_test_set(cell):
    records = tuned(cell, 1.0)
    assert cell.chosen(records) == 1.0
    extra = [run for run in cell.runs(records) if run not in cell.tuning_runs(records)]
    assert [(run.rho, run.seed) for run in extra] == [(1.0, seed) for seed in range(4)]


def test_as_many_right_answers_are_as_good_whichever_seeds_gave_them(cell):
    """The means of these counts of 413 images differ in their last bit."""
    counts = {run.run_id: (351, 351)[i] for i, run in enumerate(cell.at(1.0, (1, 2)))}
    counts |= {run.run_id: (340, 362)[i] for i, run in enumerate(cell.at(2.0, (1, 2)))}
    records = {run_id: record(100 * right / 413) for run_id, right in counts.items()}
    of_two = replace(cell, tuning=(1, 2))
    one, other, *rest = [r["validation_accuracy"] for r in records.values()]
    assert fmean([one, other]) != fmean(rest)
    assert of_two.validation(1.0, records) == of_two.validation(2.0, records)


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_no_seed_that_chooses_a_value_is_compared(name):
    profile = profiles.get(name)
    for cell in all_cells(plan.chapter_needs(profile)):
        assert not {*cell.tuning} & {*cell.seeds}
        assert cell.tuning == profile.tuning


def test_seeds_that_are_compared_do_not_change_the_choice(cell):
    records = tuned(cell, 1.0)
    records |= {run.run_id: record(0.0) for run in cell.at(1.0)}
    assert cell.chosen(records) == 1.0


def test_what_is_counted_is_what_will_run(cell):
    records = tuned(cell, 1.0)
    assert count_runs([cell], {}) == count_runs([cell], records) == (3 + 2) * 2 + 4
    assert len(cell.runs(records)) == (3 + 2) * 2 + 4


def test_the_count_follows_a_search_that_is_extended(cell):
    records = tuned(cell, 8.0)
    assert count_runs([cell], records) == len(cell.runs(records)) == (3 + 3 + 2) * 2 + 4


def test_the_base_optimizer_has_nothing_to_choose():
    cell = Cell(RunConfig(), BASE, (0.0,), (1000, 1001), (0, 1, 2))
    assert cell.tuning_runs({}) == []
    assert [run.seed for run in cell.runs({})] == [0, 1, 2]
    assert count_runs([cell], {}) == 3


def test_a_weight_decay_is_tuned_as_a_rho_is():
    cell = Cell(RunConfig(), DECAY, (1e-3, 2e-3), (1000,), (0,), refine=False)
    runs = cell.runs({})
    assert [(run.weight_decay, run.geometry) for run in runs] == [(1e-3, "none"), (2e-3, "none")]
    records = {r.run_id: record(r.weight_decay) for r in runs}
    assert [(r.weight_decay, r.seed) for r in cell.runs(records)][-1] == (2e-3, 0)


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_every_method_is_given_as_many_values_a_factor_of_two_apart(name):
    cells = all_cells(plan.chapter_needs(profiles.get(name)))
    starts = {cell.start for cell in cells if len(cell.start) > 1}
    assert len({len(start) for start in starts}) == 1
    for start in starts:
        assert all(b == 2 * a for a, b in pairwise(start))
    assert all(cell.start == (0.0,) for cell in cells if cell.method.plain == BASE)


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_the_base_optimizer_has_every_seed_it_is_compared_on(name):
    profile = profiles.get(name)
    cells = all_cells(plan.chapter_needs(profile))
    for problem, base in profile.bases.items():
        seeds = {seed for cell in cells if cell.base == base for seed in cell.seeds}
        assert seeds <= {*profile.cell(problem, BASE).seeds, *profile.fresh}


def test_a_mask_joins_the_study_by_its_line_in_a_grid():
    quick = profiles.get("quick")
    method = Method("l2", "convolutions")
    more = replace(quick, grids=(*quick.grids, Row(method, ladder(0.1))))
    assert method in more.masks
    assert method not in quick.masks
    assert more.cell("wrn", method) in plan.parts(more).cells


def test_a_variant_joins_the_study_by_its_two_lines_in_a_grid(monkeypatch):
    monkeypatch.setitem(VARIANTS, "mine", L2())
    monkeypatch.setitem(GEOMETRIES, "mine", L2())
    quick = profiles.get("quick")
    assert "mine" not in quick.geometries("wrn")
    lines = [Row(Method("mine", mask), ladder(0.1)) for mask in ("all", "only_norm")]
    more = replace(quick, grids=(*quick.grids, *lines))
    assert more.geometries("wrn")[-1] == "mine"
    cells = plan.variants(more).cells
    for problem in quick.problems:
        assert more.cell(problem, Method("mine", "only_norm")) in cells


def test_a_method_without_a_grid_is_named_with_what_to_do():
    with pytest.raises(
        ConfigError, match=r"quick has no values of rho .*samlib/study/profiles"
    ) as c:
        profiles.get("quick").cell("wrn", Method("l2", "convolutions"))
    one_line(c)


def test_a_network_is_a_transformer_by_what_it_is_not_by_its_problems_name():
    quick = profiles.get("quick")
    more = replace(quick, bases=quick.bases | {"mine": quick.bases["wrn"]})
    assert "mine" in more.problems
    assert "mine" not in more.transformers


def test_every_chapter_with_needs_has_a_module():
    assert set(plan.NEEDS) <= set(CHAPTERS)


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_what_decides_most_comes_first_and_adds_nothing(name):
    profile = profiles.get(name)
    chapters = {*all_cells(plan.NEEDS[name](profile) for name in plan.chapters(profile))}
    needs = plan.chapter_needs(profile)
    assert set(all_cells(needs)) == chapters
    assert all_cells(needs[:1]) == all_cells([plan.introduction(profile)])


def test_the_evidence_is_run_in_the_order_of_its_plan():
    evidence = profiles.get("cifar100-10k")
    first, second, *_ = plan.groups(evidence)
    assert [cell.method for cell in first.cells] == [BASE, ALL, ON, DECAY]
    assert all(cell.seeds == tuple(range(10, 26)) for cell in first.cells)
    assert {cell.method.mask for cell in second.cells} == {*SPARSE_MASKS, "no_norm", "only_norm"}
    assert all(len(cell.seeds) == 8 for cell in second.cells)
    _, _, variants, parts, factors, transformer, members_of, whole = plan.groups(evidence)
    pairs = {(c.method.geometry, c.method.mask) for c in variants.cells}
    shapes = ("elementwise_l2", "layerwise_l2", "elementwise_linf", "fisher")
    assert pairs == {(shape, mask) for shape in shapes for mask in ("all", "only_norm")}
    assert {len(cell.seeds) for cell in (*variants.cells, *parts.cells)} == {8}
    first_pass = [c.method for c in parts.cells if c.method.changes]
    assert first_pass == [m.control(batchnorm="first") for m in (ALL, ON)]
    assert {c.method.mask for c in parts.cells} == {"only_gamma", "only_beta", "all", "only_norm"}
    for group in (factors, transformer):
        assert {len(cell.seeds) for cell in group.cells} == {6}
        assert {cell.method for cell in group.cells} == {BASE, ALL, ON}
    for group, mask in ((members_of, "only_norm"), (whole, "all")):
        names = [dict(cell.method.changes)["member"] for cell in group.cells]
        assert names == [*members.CIFAR], "joined after the plan, see the page on changes"
        assert {cell.method.mask for cell in group.cells} == {mask}


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_a_method_has_one_cell_whatever_the_notebook(name):
    profile = profiles.get(name)
    seen = {}
    for needs in plan.chapter_needs(profile):
        for cell in all_cells([needs]):
            if cell not in plan.confirmation(profile):
                assert seen.setdefault((cell.base, cell.method), cell) == cell


def test_a_confirmation_has_seeds_of_its_own_and_chooses_nothing():
    evidence = profiles.get("cifar100-10k")
    cells = plan.confirmation(evidence)
    assert [cell.method for cell in cells] == [BASE, ON, ON.but(member="msam")]
    assert {cell.seeds for cell in cells} == {tuple(range(100, 108))}
    others = {*all_cells(plan.chapter_needs(evidence))} - {*cells}
    assert {*cells} <= {*plan.one_pass(evidence).beside}
    for cell in others:
        assert not {*evidence.fresh} & {*cell.seeds, *cell.tuning}
    for cell in cells:
        first = evidence.cell(evidence.headline, cell.method)
        assert cell.like == first
        assert cell.chosen({}) == first.chosen({})
    assert plan.confirmation(profiles.get("quick")) == []


def test_quick_has_the_seeds_the_design_asks_for():
    quick = profiles.get("quick")
    for cell in plan.introduction(quick).cells:
        assert len(cell.seeds) >= 16
    assert all(len(cell.seeds) >= 5 for cell in all_cells(plan.chapter_needs(quick)))


def test_runs_of_different_methods_are_paired():
    quick = profiles.get("quick")
    for method in (ALL, ON, Method("l2", "random", "all")):
        run = method.on(quick.bases["wrn"], 0.5, 3)
        changed = {k for k, v in run.to_dict().items() if v != quick.bases["wrn"].to_dict()[k]}
        assert changed <= {"geometry", "mask", "rho", "seed", "radius_over", "sparsity"}


def test_the_sparsity_chapter_has_every_sparse_mask():
    needs = plan.sparsity(profiles.get("quick"))
    assert RANDOM in {cell.method for cell in needs.cells}
    methods = {cell.method for cell in all_cells([needs])}
    assert {m.mask for m in methods} > {*SPARSE_MASKS}


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ConfigError, match="smoke, quick"):
        profiles.get("slow")
    with pytest.raises(ConfigError, match="variants"):
        plan.chapter_needs(profiles.get("quick"), "varianst")


def test_a_profile_is_asked_for_its_own_chapters_only():
    imagenet = profiles.get("imagenet")
    (needs,) = plan.chapter_needs(imagenet, "architectures")
    assert needs.cells
    with pytest.raises(ConfigError, match="of profile imagenet 'rho_sweep'; valid: introduction"):
        plan.chapter_needs(imagenet, "rho_sweep")


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_status_has_a_row_for_every_chapter_of_a_profile(name, tmp_path):
    profile = profiles.get(name)
    rows = status.status(profile, tmp_path).splitlines()[2:]
    assert [row.split()[0] for row in rows] == list(plan.chapters(profile))


def test_a_switched_method_takes_the_rho_of_the_one_it_switches():
    profile = profiles.get("quick")
    late = profile.cell("wrn", ON.control(start=6))
    always = profile.cell("wrn", ON)
    records = tuned(always, 2.0)
    assert late.chosen({}) is None
    assert late.chosen(records) == always.chosen(records) == 2.0
    extra = [run for run in late.runs(records) if run not in always.tuning_runs(records)]
    assert {(run.rho, run.start, run.seed) for run in extra} == {(2.0, 6, s) for s in late.seeds}


def test_a_reported_rho_is_taken_from_a_row_of_its_own_without_a_search():
    paper = profiles.get("paper")
    everything, on = (paper.cell("wrn", method) for method in REPORTED)
    assert (everything.chosen({}), on.chosen({})) == (0.1, 1.0)
    assert [(run.rho, run.seed) for run in on.runs({})] == [(1.0, s) for s in range(paper.seeds)]
    assert paper.cell("wrn", ON).chosen({}) is None
    assert {*plan.introduction(paper).beside} == {everything, on}
    assert not {everything, on} & {*plan.sharpness(paper).cells, *plan.robustness(paper).cells}
    for name in profiles.PROFILES.keys() - {"paper"}:
        assert not any(profiles.get(name).has("wrn", method) for method in REPORTED)


def test_a_changed_method_searches_where_the_plain_one_does():
    profile = profiles.get("quick")
    fixed = profile.cell("wrn", ON.but(**plan.FIXED))
    assert fixed.start == profile.cell("wrn", ON).start
    assert all(run.updated == "no_norm" for run in fixed.runs({}))
    base = profile.cell("wrn", BASE.control(**plan.FIXED))
    assert {run.updated for run in base.runs({})} == {"no_norm"}


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_every_run_of_every_chapter_is_a_valid_configuration(name):
    for needs in plan.chapter_needs(profiles.get(name)):
        for cell in all_cells([needs]):
            assert cell.at(cell.start[-1])[0].run_id
        assert {m.cell for m in needs.measured} <= set(needs.cells)
