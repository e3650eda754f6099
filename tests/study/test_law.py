"""The law of rho and shares, on records and a linear loss whose answer is known."""

import pytest
import torch

from samlib.study import law
from samlib.study.cells import Cell
from samlib.study.methods import ALL, ON, Method
from samlib.trainer.config import RunConfig

RUN = ALL.on(RunConfig(), 0.1, 1000)


def with_shares(*shares, total=1000):
    return {"curves": {"gradient_share": list(shares)}, "mask": {"count": 20, "total": total}}


def test_the_share_is_the_mean_over_epochs_and_then_runs():
    other = ALL.on(RunConfig(), 0.1, 1001)
    records = {RUN.run_id: with_shares(0.1, None, 0.3), other.run_id: with_shares(0.4)}
    assert law.norm_share([RUN, other], records) == pytest.approx(0.3)
    assert law.norm_share([RUN], {}) is None
    assert law.norm_share([RUN], {RUN.run_id: {"curves": {}}}) is None


def test_a_random_mask_has_the_share_of_its_coordinates():
    assert law.counted_share(RUN, {RUN.run_id: with_shares(0.1)}) == 0.02
    assert law.counted_share(RUN, {}) is None


def test_on_a_linear_loss_the_predicted_rho_gives_the_same_rise():
    """L(w) = g.w: the ascent step of length rho along P g raises it by rho ||P g||."""
    g = torch.linspace(-1, 2, 50, dtype=torch.float64)
    masked = g.clone()
    masked[10:] = 0
    rho = law.predicted(0.25, (masked.norm() / g.norm()).square().item())
    assert rho * masked.norm().item() == pytest.approx(0.25 * g.norm().item(), rel=5e-3)


def test_cells_at_the_laws_rho_wait_for_the_runs_it_is_made_of():
    all_ = Cell(RunConfig(), ALL, (0.1,), (1000,), (0,))
    by_law = Method("l2", "only_norm", rho_from="law")
    on = Cell(RunConfig(), by_law, (0.5,), (1000,), (0,), like=all_)
    assert on.chosen({}) is None
    records = {RUN.run_id: with_shares(0.04)}
    assert on.chosen(records) == 0.5
    assert [run.rho for run in on.runs(records)] == [0.5]
    own = Cell(RunConfig(), ON, (0.5, 1.0), (1000,), (0,))
    random = Cell(
        RunConfig(),
        Method("l2", "random", rho_from="law"),
        *((1.0,), (1000,), (0,)),
        like=all_,
        counted=own,
    )
    assert random.chosen(records) is None
    records[own.any_run.run_id] = with_shares(total=2000)
    assert random.chosen(records) == law.predicted(0.1, 0.01) == pytest.approx(1.0)
