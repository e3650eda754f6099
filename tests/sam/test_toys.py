"""Toys of two or three weights, on which the family's rules can be told apart by hand."""

import math

import pytest
import torch
from conftest import flat
from torch import nn

from samlib import geometry, masks
from samlib.sam.perturbation import Perturbation
from samlib.sam.radius import Radius
from samlib.sam.step import sam_step


class Weights(nn.Module):
    """Named scalars in float64."""

    def __init__(self, **values):
        super().__init__()
        for name, value in values.items():
            p = nn.Parameter(torch.tensor(float(value), dtype=torch.float64))
            self.register_parameter(name, p)


def trained(toy, loss, steps, *, lr, rho, free=False, only=None):
    """The toy after steps of SAM, unnormalised if free, on a mask of some of its weights."""
    names = only or [n for n, _ in toy.named_parameters()]
    mask = masks.from_booleans(toy, {n: torch.tensor(True) for n in names})
    step = Perturbation(geometry.L2(), rho, mask, radius=Radius(free=free))
    optimizer = torch.optim.SGD(toy.parameters(), lr=lr, foreach=True)
    for t in range(steps):
        sam_step(lambda t=t: loss(toy, t), optimizer, step)
    return toy


def alone(w, slope, steps, *, lr, rho, free=False, only=None):
    """The same steps on plain floats: what a toy's long run is read from, and `trained` held to."""
    for t in range(steps):
        g = slope(w, t)
        kept = {n: g[n] for n in only or w}
        scale = rho if free else rho / math.hypot(*kept.values())
        at = {n: x + scale * kept.get(n, 0.0) for n, x in w.items()}
        g = slope(at, t)
        w = {n: x - lr * g[n] for n, x in w.items()}
    return w


def same_weights(toy, w):
    assert {n: p.item() for n, p in toy.named_parameters()} == pytest.approx(w, rel=1e-9)


def product(toy, t):
    return (toy.u * toy.v - 1) ** 2 / 2


def product_slope(w, t):
    error = w["u"] * w["v"] - 1
    return {"u": error * w["v"], "v": error * w["u"]}


@pytest.mark.parametrize(
    ("only", "free", "u", "v"),
    [
        (("u", "v"), True, 1.973, 0.507),
        (("u", "v"), False, 1.006, 0.986),
        (("u",), False, 2.184, 0.460),
        (("v",), False, 0.692, 1.446),
    ],
)
def test_one_scale_and_one_weight(only, free, u, v):
    """L = (uv - 1)^2 / 2: perturbing the scale u alone makes it grow, and with it the curvature."""
    start = {"u": 2.0, "v": 0.6}
    rule = {"lr": 0.05, "rho": 0.1, "free": free, "only": only}
    end = alone(start, product_slope, 4000, **rule)
    assert end == pytest.approx({"u": u, "v": v}, abs=6e-4)
    toy = trained(Weights(**start), product, 300, **rule)
    same_weights(toy, alone(start, product_slope, 300, **rule))


def test_descent_alone_barely_moves_along_the_minima():
    toy = trained(Weights(u=2, v=0.6), product, 400, lr=0.05, rho=0.0)
    assert toy.u.item() == pytest.approx(1.974, abs=6e-4)
    assert toy.v.item() == pytest.approx(0.507, abs=6e-4)


def valley(toy, examples):
    z = toy.z
    both = ((2 + z) * toy.x1**2, (1 - 2 * z) * toy.x2**2)
    return sum(f * (i in examples) for i, f in enumerate(both)) / len(examples)


def valley_slope(w, examples):
    first, second = ((i in examples) / len(examples) for i in (0, 1))
    return {
        "x1": first * 2 * (2 + w["z"]) * w["x1"],
        "x2": second * 2 * (1 - 2 * w["z"]) * w["x2"],
        "z": first * w["x1"] ** 2 - second * 2 * w["x2"] ** 2,
    }


def test_the_whole_batch_lowers_the_top_eigenvalue_and_single_examples_the_trace():
    """L = (l1 x1^2 + l2 x2^2) / 2, l1 = 2 + z, l2 = 1 - 2z (after Wen, Ma and Li)."""
    start = {"x1": 0.05, "x2": 0.03, "z": 0.0}
    rule = {"lr": 0.02, "rho": 0.05}
    draw = torch.Generator().manual_seed(0)
    order = torch.randint(2, (10_000,), generator=draw).tolist()
    batches = {"whole": lambda t: (0, 1), "single": lambda t: order[t : t + 1]}
    end = {}
    for name, batch in batches.items():

        def slope(w, t, batch=batch):
            return valley_slope(w, batch(t))

        end[name] = alone(start, slope, 10_000, **rule)["z"]
        toy = trained(Weights(**start), lambda w, t, b=batch: valley(w, b(t)), 300, **rule)
        same_weights(toy, alone(start, slope, 300, **rule))
    assert end["whole"] == pytest.approx(-0.258, abs=2e-3)
    assert end["single"] > 0.2


def parabola(h):
    return lambda toy, t: h * toy.x**2 / 2


def test_in_one_dimension_sam_ends_in_a_cycle_of_two():
    toy = Weights(x=1.0)
    trained(toy, parabola(2.0), 200, lr=0.3, rho=0.5)
    one = toy.x.item()
    trained(toy, parabola(2.0), 1, lr=0.3, rho=0.5)
    amplitude = 0.3 * 2 * 0.5 / (2 - 0.3 * 2)  # eta h rho / (2 - eta h)
    assert abs(one) == pytest.approx(amplitude)
    assert toy.x.item() == pytest.approx(-one)
    assert amplitude == pytest.approx(0.214286, abs=1e-6)


@pytest.mark.parametrize(("rho", "grows"), [(1.0, -1), (7 / 6, 0), (1.2, 1)])
def test_in_one_dimension_the_free_radius_bounds_the_learning_rate(rho, grows):
    """Stable iff eta h (1 + rho h) < 2."""
    toy = trained(Weights(x=1.0), parabola(2.0), 40, lr=0.3, rho=rho, free=True)
    size = abs(flat([toy.x]).item())
    assert size == pytest.approx(abs(1 - 0.3 * 2 * (1 + rho * 2)) ** 40)
    assert (size > 1 + 1e-9) - (size < 1 - 1e-9) == grows
