from dataclasses import replace

import pytest
from conftest import one_line

from samlib.chapters import CHAPTERS
from samlib.cli import status
from samlib.errors import ConfigError
from samlib.sam.geometry import GEOMETRIES, L2, VARIANTS
from samlib.study import methods, plan, profiles
from samlib.study.cells import Cell
from samlib.study.methods import ALL, BASE, HEADLINE, ON, SPARSE_MASKS, Method
from samlib.trainer.config import RunConfig


def record(validation, test=50.0):
    return {"validation_accuracy": validation, "test_accuracy": test}


@pytest.fixture
def cell():
    return Cell(RunConfig(), ON, (0.5, 1.0, 2.0), sweep_seeds=2, seeds=4)


def test_rho_is_not_chosen_before_the_sweep_is_complete(cell):
    records = {run.run_id: record(90.0) for run in cell.sweep[:-1]}
    assert cell.chosen(records) is None
    assert cell.runs(records) == cell.sweep


def test_rho_maximises_validation_accuracy_and_never_looks_at_the_test_set(cell):
    by_rho = {0.5: 90.0, 1.0: 92.0, 2.0: 91.0}
    records = {r.run_id: record(by_rho[r.rho], test=100 - by_rho[r.rho]) for r in cell.sweep}
    assert cell.chosen(records) == 1.0
    extra = [run for run in cell.runs(records) if run not in cell.sweep]
    assert {(run.rho, run.seed) for run in extra} == {(1.0, 0), (1.0, 1), (1.0, 2), (1.0, 3)} - {
        (run.rho, run.seed) for run in cell.sweep
    }


def test_seeds_beyond_the_sweep_do_not_change_the_choice(cell):
    records = {r.run_id: record({0.5: 90.0, 1.0: 92.0, 2.0: 91.0}[r.rho]) for r in cell.sweep}
    for run in cell.at(1.0, 4)[2:]:
        records[run.run_id] = record(0.0)
    assert cell.chosen(records) == 1.0


def test_of_two_equal_rhos_the_smaller_is_chosen(cell):
    assert cell.chosen({run.run_id: record(90.0) for run in cell.sweep}) == 0.5


def test_the_size_counts_what_will_run(cell):
    records = {run.run_id: record(90.0) for run in cell.sweep}
    assert cell.size == len({run.run_id for run in cell.runs(records)}) == 3 * 2 + 2


def test_the_base_optimizer_has_nothing_to_choose():
    cell = Cell(RunConfig(), BASE, (0.0,), sweep_seeds=2, seeds=3)
    assert cell.sweep == []
    assert [run.seed for run in cell.runs({})] == [0, 1, 2]
    assert cell.size == 3


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_rho_is_tuned_alike_on_both_sides(name):
    profile = profiles.get(name)
    cells = set(plan.all_cells(plan.chapter_needs(profile)))
    tuned = {cell for cell in cells if len(cell.grid) > 1 and cell.like is None}
    swept = set(profile.ladders) - set(profile.bases)
    curves = {
        cell
        for cell in cells
        if cell.base == profile.bases[profile.headline]
        and cell.method == cell.method.plain
        and cell.method.geometry in swept
        and cell.method.mask in methods.CURVES
    }
    by_geometry = {(cell.method.geometry, cell.grid) for cell in curves}
    assert len(by_geometry) == len(swept), "masks that are compared share one ladder"
    laddered = set()
    for family in set(profile.ladders) & set(profile.bases):
        pair = [profile.cell(family, method) for method in (ALL, ON)]
        assert len({(cell.grid, cell.sweep_seeds) for cell in pair}) == 1
        laddered |= set(pair)
    others = {len(cell.grid) for cell in tuned - curves - laddered}
    assert len(others) == 1, "elsewhere every method gets as many values of rho"
    for cell in tuned:
        ratios = {round(b / a, 6) for a, b in zip(cell.grid, cell.grid[1:], strict=False)}
        assert len(ratios) == 1, "each twice, or alike, the one before"
    bases = {cell for cell in cells if cell.method.geometry == "none"}
    assert all(cell.grid == (0.0,) for cell in bases)


def test_a_mask_joins_the_study_by_its_line_in_a_grid():
    quick = profiles.get("quick")
    more = replace(quick, grids=quick.grids | {("l2", "convolutions"): (0.1, 0.2)})
    method = Method("l2", "convolutions")
    assert method in more.masks
    assert method not in quick.masks
    assert more.cell("wrn", method) in plan.sparsity(more).cells


def test_a_variant_joins_the_study_by_its_two_lines_in_a_grid(monkeypatch):
    monkeypatch.setitem(VARIANTS, "mine", L2())
    monkeypatch.setitem(GEOMETRIES, "mine", L2())
    quick = profiles.get("quick")
    assert "mine" not in quick.geometries
    lines = {("mine", mask): (0.1, 0.2) for mask in ("all", "only_norm")}
    more = replace(quick, grids=quick.grids | lines)
    assert more.geometries[-1] == "mine"
    cells = plan.variants(more).cells
    for family in quick.families:
        assert more.cell(family, Method("mine", "only_norm")) in cells


def test_a_method_without_a_grid_is_named_with_what_to_do():
    with pytest.raises(ConfigError, match=r"quick has no values of rho .*samlib/profiles.py") as c:
        profiles.get("quick").cell("wrn", Method("l2", "convolutions"))
    one_line(c)


def test_a_network_is_a_transformer_by_what_it_is_not_by_its_familys_name():
    quick = profiles.get("quick")
    more = replace(quick, bases=quick.bases | {"mine": quick.bases["wrn"]})
    assert "mine" in more.families
    assert "mine" not in more.transformers


def test_every_chapter_with_needs_has_a_module():
    assert set(plan.NEEDS) <= set(CHAPTERS)


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_what_decides_most_comes_first_and_adds_nothing(name):
    profile = profiles.get(name)
    chapters = {c for n in plan.chapters(profile) for c in plan.NEEDS[n](profile).cells}
    needs = plan.chapter_needs(profile)
    assert set(plan.all_cells(needs)) == chapters
    assert needs[0].cells == [profile.cell(profile.headline, m) for m in HEADLINE]


def test_a_short_campaign_begins_with_what_its_profile_promises():
    short = profiles.get("cifar100-short")
    order = [
        [(cell.base.model, cell.method.mask, cell.method.radius_over) for cell in needs.cells]
        for needs in plan.decisive(short)
    ]
    headline = [("all", "mask"), ("all", "mask"), ("only_norm", "mask")]
    assert order == [
        [("wrn16_4", *method) for method in headline],
        [("resnet56", *method) for method in headline],
        [("wrn16_4", "random", "mask")],
        [("wrn16_4", "random", "all")],
        [("wrn16_4", "no_norm", "mask")],
        [("vit_t", *method) for method in headline],
    ]
    sam = short.cell("wrn", ALL)
    assert (sam.sweep_seeds, sam.seeds) == (1, 3)


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_a_method_has_one_cell_whatever_the_notebook(name):
    profile = profiles.get(name)
    seen = {}
    for needs in plan.chapter_needs(profile):
        for cell in needs.cells:
            assert seen.setdefault((cell.base, cell.method), cell) == cell


def test_quick_has_the_seeds_the_design_asks_for():
    quick = profiles.get("quick")
    for cell in plan.introduction(quick).cells:
        assert cell.seeds >= 10
    assert all(cell.seeds >= 5 for cell in plan.all_cells(plan.chapter_needs(quick)))


def test_runs_of_different_methods_are_paired():
    quick = profiles.get("quick")
    for method in (ALL, ON, Method("l2", "random", "all")):
        run = method.on(quick.bases["wrn"], 0.5, 3)
        changed = {k for k, v in run.to_dict().items() if v != quick.bases["wrn"].to_dict()[k]}
        assert changed <= {"geometry", "mask", "rho", "seed", "radius_over", "sparsity"}


def test_the_sparsity_table_has_every_mask_under_both_rules():
    methods = {cell.method for cell in plan.sparsity(profiles.get("quick")).cells}
    for mask in SPARSE_MASKS:
        assert {m.radius_over for m in methods if m.mask == mask} == {"mask", "all"}


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
    late = profile.cell("wrn", ON.but(own_rho=False, start=6))
    always = profile.cell("wrn", ON)
    records = {r.run_id: record(90.0 + (r.rho == 2.0)) for r in always.sweep}
    assert late.chosen({}) is None
    assert late.chosen(records) == always.chosen(records) == 2.0
    extra = [run for run in late.runs(records) if run not in always.sweep]
    assert {(run.rho, run.start, run.seed) for run in extra} == {(2.0, 6, s) for s in range(5)}
    assert late.size == len(extra)


def test_a_changed_method_tunes_its_own_rho_on_the_grid_of_the_others():
    profile = profiles.get("quick")
    fixed = profile.cell("wrn", ON.but(**plan.FIXED))
    assert fixed.grid == profile.grids["l2", "only_norm"]
    assert all(run.updated == "no_norm" for run in fixed.sweep)
    assert {run.updated for run in profile.cell("wrn", BASE.but(**plan.FIXED)).runs({})} == {
        "no_norm"
    }


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_every_run_of_every_chapter_is_a_valid_configuration(name):
    for needs in plan.chapter_needs(profiles.get(name)):
        for cell in needs.cells:
            assert cell.at(cell.grid[-1], 1)[0].run_id
        assert {m.cell for m in needs.measured} <= set(needs.cells)
