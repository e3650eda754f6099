import pytest

from samlib import profiles, study
from samlib.config import RunConfig
from samlib.errors import ConfigError
from samlib.study import ALL, BASE, ON, SPARSE_MASKS, Cell, Method


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
    cells = {cell for of in study.NOTEBOOKS.values() for cell in of(profile)}
    curves = {cell for cell in study.rho_sweep(profile) if cell.method != BASE}
    by_geometry = {(cell.method.geometry, cell.grid) for cell in curves}
    assert len(by_geometry) == len(study.SWEPT), "masks that are compared share one ladder"
    others = {len(cell.grid) for cell in cells - curves if cell.method != BASE}
    assert len(others) == 1, "elsewhere every method gets as many values of rho"
    for cell in cells:
        ratios = {round(b / a, 6) for a, b in zip(cell.grid, cell.grid[1:], strict=False)}
        assert cell.method == BASE or len(ratios) == 1, "each twice, or alike, the one before"


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_a_method_has_one_cell_whatever_the_notebook(name):
    profile = profiles.get(name)
    seen = {}
    for cells in study.NOTEBOOKS.values():
        for cell in cells(profile):
            assert seen.setdefault((cell.base, cell.method), cell) == cell


def test_quick_has_the_seeds_the_design_asks_for():
    quick = profiles.get("quick")
    for cell in study.introduction(quick):
        assert cell.seeds == 10
    for of in study.NOTEBOOKS.values():
        assert all(cell.seeds >= 5 for cell in of(quick))


def test_runs_of_different_methods_are_paired():
    quick = profiles.get("quick")
    for method in (ALL, ON, Method("l2", "random", "all")):
        run = method.on(quick.bases["wrn"], 0.5, 3)
        changed = {k for k, v in run.to_dict().items() if v != quick.bases["wrn"].to_dict()[k]}
        assert changed <= {"geometry", "mask", "rho", "seed", "radius_over", "sparsity"}


def test_the_sparsity_table_has_every_mask_under_both_rules():
    methods = {cell.method for cell in study.sparsity(profiles.get("quick"))}
    for mask in SPARSE_MASKS:
        assert {m.radius_over for m in methods if m.mask == mask} == {"mask", "all"}


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ConfigError, match="smoke, quick"):
        profiles.get("slow")
    with pytest.raises(ConfigError, match="variants"):
        study.notebook_cells(profiles.get("quick"), "varianst")
