"""Sources by themselves: limits that are SAM, invariants, formulas."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import closure_of, flat, selected, small_net
from dense_family import Dense, normal, turned
from member_run import BATCHES, group_norm, same, stepped

from samlib import geometry, masks, models
from samlib.sam import family, source
from samlib.sam.masks.sparse import random
from samlib.sam.perturbation import Perturbation
from samlib.sam.radius import Radius
from samlib.sam.step import sam_step
from samlib.sam.when import Adaptive, Every, Sometimes


@pytest.mark.parametrize(
    "parts",
    [
        {"source": lambda: source.Mean(theta=1.0)},
        {"source": lambda: source.Residual(sigma=0.0)},
        {"source": lambda: source.Eigen(alpha=0.0), "radius": Radius(free=True)},
        {"when": lambda: Every(1)},
        {"when": lambda: Sometimes(1.0)},
        {"when": lambda: Adaptive(10, early=-float("inf"), late=-float("inf"))},
        {"radius": Radius(follows="lr", largest_lr=0.1)},
        {"radius": Radius(follows="sqrt_lr", largest_lr=0.1)},
    ],
)
def test_limits_that_are_sam(parts):
    parts = {k: v() if callable(v) else v for k, v in parts.items()}
    exact = type(parts.get("source")) not in (source.Mean, source.Eigen)
    same(stepped(0, 1, 2, **parts)[0], stepped(0, 1, 2)[0], atol=0 if exact else 1e-12)


def test_on_one_batch_at_rest_the_mean_is_sam_and_the_residual_nothing():
    eps = {
        name: stepped(0, 0, 0, 0, lr=0.0, source=kind())[1]
        for name, kind in (("mean", source.Mean), ("residual", source.Residual))
    }
    sams = stepped(0, lr=0.0)[1][0]
    assert all(torch.equal(e, sams) for e in eps["mean"])
    assert torch.equal(eps["residual"][0], sams)
    assert all((e == 0).all() for e in eps["residual"][1:])


def test_on_one_batch_at_rest_async_sam_is_sam_from_the_second_step_on():
    none, *rest = stepped(0, 0, 0, lr=0.0, source=source.LastClean())[1]
    assert (none == 0).all()
    assert all(torch.equal(e, stepped(0, lr=0.0)[1][0]) for e in rest)


@pytest.mark.parametrize("sign", [-1, 1])
def test_without_momentum_msam_is_the_last_gradient_with_its_sign(sign):
    bare = lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.0, 0.999))  # noqa: E731
    _, up = stepped(0, 1, optimizer=bare, source=source.Last())
    _, mine = stepped(0, 1, optimizer=bare, source=source.Momentum(sign))
    assert mine[0] is None
    same(mine[1], sign * up[1])


def test_adam_and_lion_show_their_first_moment():
    from timm.optim import Lion

    for make_one in (torch.optim.AdamW, Lion):
        eps = stepped(
            0, 1, optimizer=lambda p, m=make_one: m(p, lr=1e-2), source=source.Momentum()
        )[1]
        assert eps[1].norm().item() == pytest.approx(0.3)


def test_one_step_of_plain_descent_drifts_along_its_gradient():
    bare = lambda p: torch.optim.SGD(p, lr=0.1)  # noqa: E731
    last = stepped(0, 1, 2, optimizer=bare, source=source.Last())
    drift = stepped(0, 1, 2, optimizer=bare, source=source.Drift())
    same(drift[0], last[0], atol=1e-11)
    same(drift[1][2], last[1][2], atol=1e-11)


def test_a_drift_of_one_step_on_sgd_is_its_momentum():
    drift = stepped(0, 1, 2, source=source.Drift())
    same(drift[0], stepped(0, 1, 2, source=source.Momentum(1))[0], atol=1e-11)


def test_a_longer_round_drifts_by_its_whole_way_until_the_next():
    net = small_net(torch.float64, norm=group_norm)
    perturbation = Perturbation(
        geometry.L2(), 0.3, masks.all_parameters(net), source=source.Drift(every=2)
    )
    optimizer, at, eps = torch.optim.SGD(net.parameters(), lr=0.1), [], []
    for t in range(6):
        at.append(flat(net.parameters()).clone())
        watch = lambda found: eps.append(flat(found.eps))  # noqa: E731
        sam_step(closure_of(net, *BATCHES[t]), optimizer, perturbation, on_ascent=watch)
    assert (eps[0] == 0).all()
    assert (eps[1] == 0).all()
    for t, way in ((2, at[2] - at[0]), (3, at[2] - at[0]), (4, at[4] - at[2]), (5, at[4] - at[2])):
        same(eps[t], -0.3 * way / way.norm(), atol=1e-11)


def test_coordinates_that_are_chosen_anew_within_a_round_drift_from_there():
    net = small_net(torch.float64, norm=group_norm)
    mask = random(net, count=40, seed=0, redraw=True)
    step = Perturbation(geometry.L2(), 0.3, mask, source=source.Drift(every=3, sign=1))
    optimizer, at, found = torch.optim.SGD(net.parameters(), lr=0.1), [], []
    for t in range(4):
        if t == 1:
            mask.begin_epoch(1, None)
        at.append(flat(net.parameters()).clone())
        sam_step(closure_of(net, *BATCHES[t]), optimizer, step, on_ascent=found.append)
    assert all((flat(f.eps) == 0).all() for f in found[:3])
    way = (at[3] - at[1])[selected(mask)]
    same(flat(found[3].eps), 0.3 * way / way.norm(), atol=1e-11)


def test_eigen_sam_has_the_length_of_its_formula_and_turns_by_nothing_where_v_is_g():
    net = small_net(torch.float64, norm=group_norm)
    mask, eigen = masks.only_norm(net), source.Eigen(alpha=0.5)
    g = [t * 2.0 for t in (e.parameter.detach().clone() for e in mask.entries)]
    eigen.held(mask.entries, "v")
    draw = torch.Generator().manual_seed(5)
    v = [torch.randn(t.shape, generator=draw, dtype=t.dtype) for t in g]
    norm = flat(v).norm()
    torch._foreach_copy_(eigen.held(mask.entries, "v"), [t / norm for t in v])
    cos = (flat(v) @ flat(g) / norm / flat(g).norm()).item()
    d = flat(eigen.direction(mask, g, ()))
    assert d.norm().item() == pytest.approx((1 + 0.25 * (1 - cos**2)) ** 0.5)
    torch._foreach_copy_(eigen.held(mask.entries, "v"), [t / flat(g).norm() for t in g])
    same(flat(eigen.direction(mask, g, ())), flat(g) / flat(g).norm())


def test_eigen_sam_measures_in_evaluation_mode():
    net = small_net(torch.float64)
    evaluated, trained = copy.deepcopy(net).eval(), copy.deepcopy(net)
    mask, eigen = masks.only_norm(net), source.Eigen()
    step = Perturbation(geometry.L2(), 0.3, mask, source=eigen, radius=Radius(free=True))
    sam_step(closure_of(net, *BATCHES[0]), torch.optim.SGD(net.parameters(), lr=0.1), step)
    v = flat(eigen.held(mask.entries, "v"))
    found = []
    for model in (evaluated, trained):
        reference = Dense(model, BATCHES, masks.only_norm(model), 0.3, False)
        found.append(turned(reference, 0, normal(reference))[reference.on])
    same(v, found[0], atol=1e-11)
    assert (v @ found[1]).abs() < 0.99
    assert all(m.training for m in net.modules())


def test_a_zero_direction_moves_nothing():
    nothing = [torch.zeros(3), torch.zeros(2, 2)]
    for shape in ("l2", "elementwise_l2", "elementwise_linf", "layerwise_l2", "fisher"):
        where = geometry.by_name(shape)
        weights = [torch.ones(3), torch.ones(2, 2)]
        eps = where.eps(0.3, where.T(["weight"] * 2, weights, nothing), nothing)
        assert all((e == 0).all() for e in eps)


def test_a_source_that_renews_itself_does_so_in_perturbed_steps_alone():
    renewed = []

    class Watched(source.Eigen):
        def refresh(self, *given):
            renewed.append(self.steps)
            super().refresh(*given)

    net = small_net(torch.float64, norm=group_norm)
    step = Perturbation(
        geometry.L2(),
        0.3,
        masks.only_norm(net),
        source=Watched(every=2),
        radius=Radius(free=True),
        when=Every(2),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for t in (0, 1, 2, 3, 4, 5, 0, 1):
        sam_step(closure_of(net, *BATCHES[t]), optimizer, step)
    assert len(renewed) == 2  # steps 0 and 4, of the perturbed 0, 2, 4, 6


@pytest.mark.parametrize("name", ["eigen_sam", "penalty"])
def test_what_differentiates_twice_works_through_fused_attention(name):
    torch.manual_seed(0)
    net = models.build("vit_micro", num_classes=10, in_channels=1, image_size=8)
    x, y = torch.randn(4, 1, 8, 8), torch.arange(4)

    def closure():
        return F.cross_entropy(net(x), y)

    setting = family.Setting(lr=0.1, steps=4, epochs=2, logits=lambda: net(x))
    member = family.make(name, geometry.L2(), 0.1, masks.only_norm(net), setting)
    before = flat(net.parameters()).clone()
    member(closure, torch.optim.SGD(net.parameters(), lr=0.1), epoch=0)
    after = flat(net.parameters())
    assert after.isfinite().all()
    assert not torch.equal(before, after)
