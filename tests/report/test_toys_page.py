"""The toys' numbers, and that plain arithmetic does what the library's own step does."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from samlib import Perturbation, geometry, masks, sam_step
from samlib.report import toys
from samlib.sam.radius import Radius


@pytest.mark.parametrize(
    ("rule", "mask", "u", "v", "curvature"),
    [
        ("GD", "both", 1.974, 0.507, 4.152),
        ("USAM", "both", 1.973, 0.507, 4.149),
        ("SAM", "both", 1.006, 0.986, 1.984),
        ("USAM", "u alone", 1.974, 0.507, 4.153),
        ("SAM", "u alone", 2.184, 0.460, 4.981),
        ("USAM", "v alone", 1.973, 0.507, 4.148),
        ("SAM", "v alone", 0.692, 1.446, 2.568),
    ],
)
def test_one_scale_and_one_weight(rule, mask, u, v, curvature):
    end = toys.product_path(rule, mask)[-1]
    assert end == pytest.approx([u, v], abs=6e-4)
    assert (end**2).sum() == pytest.approx(curvature, abs=6e-4)


class Product(nn.Module):
    """u and v of the first toy in float64."""

    def __init__(self):
        super().__init__()
        for name, value in zip("uv", toys.START, strict=True):
            p = nn.Parameter(torch.tensor(value, dtype=torch.float64))
            self.register_parameter(name, p)


@pytest.mark.parametrize("rule", toys.RULES)
@pytest.mark.parametrize("mask", toys.MASKS)
def test_the_librarys_step_takes_the_same_path(rule, mask):
    toy, steps = Product(), 25
    optimizer = torch.optim.SGD(toy.parameters(), lr=toys.LR)
    chosen = {"uv"[i]: torch.tensor(True) for i in toys.MASKS[mask]}
    perturbation = Perturbation(
        geometry.L2(),
        toys.RHO,
        masks.from_booleans(toy, chosen),
        radius=Radius(free=rule == "USAM"),
    )
    for _ in range(steps):
        step = None if rule == "GD" else perturbation
        sam_step(lambda: (toy.u * toy.v - 1) ** 2 / 2, optimizer, step)
    end = toys.product_path(rule, mask, steps)[-1]
    assert [toy.u.item(), toy.v.item()] == pytest.approx(list(end), rel=1e-10)


def test_the_gradients_are_those_of_the_losses():
    w = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)

    def example(i, w):
        return ((2 + w[2]) * w[0] ** 2, (1 - 2 * w[2]) * w[1] ** 2)[i]

    for examples in ((0,), (1,), (0, 1)):
        loss = sum(example(i, w) for i in examples) / len(examples)
        (expected,) = torch.autograd.grad(loss, w)
        assert toys.valley(examples)(tuple(w.tolist())) == pytest.approx(expected.tolist())


def test_the_whole_batch_lowers_the_top_eigenvalue_and_single_examples_the_trace():
    table = toys.valley_table()
    z = table["z", ""]
    assert z[0] == pytest.approx(-0.258, abs=5e-4)
    assert z[1:].between(0.236, 0.248).all()
    assert len(z) == 1 + toys.VALLEY_SEEDS
    assert table["top", ""][0] < 2 < table["top", ""][1:].min()
    assert table["trace", ""][0] > 3 > table["trace", ""][1:].max()


def test_in_one_dimension_sam_cycles_and_usam_is_bounded_in_rho():
    table = toys.parabola_table().set_index(("ρ", ""))
    assert table["SAM", ""].tolist() == pytest.approx(table["cycle by formula", ""].tolist())
    assert table["SAM", ""][0.5] == pytest.approx(0.214286, abs=1e-6)
    assert table["USAM", ""][1.0] < 1e-3
    assert table["USAM", ""][1.2] > 1e3
    h, lr = 2.0, 0.3
    neutral = toys.path(toys.parabola(h), (1.0,), "USAM", lr=lr, rho=7 / 6)
    assert [abs(x) for (x,) in islice(neutral, 50)] == pytest.approx([1.0] * 50)


def test_a_zero_gradient_moves_nothing():
    for rule in toys.RULES:
        walk = toys.path(toys.product, (1.0, 1.0), rule, lr=0.1, rho=0.1)
        assert toys.after(3, walk) == (1.0, 1.0)


def test_the_figure_shows_every_rule_under_every_mask():
    axes = toys.figure(steps=20).axes
    assert [ax.get_title("left") for ax in axes] == [f"perturbed: {mask}" for mask in toys.MASKS]
    walk = toys.product_path("SAM", "u alone", 20)
    assert any(np.array_equal(line.get_xydata(), walk) for line in axes[1].lines)


def test_the_opening_holds_the_ends_of_three_paths():
    said = toys.opening()["sees"]
    for number in ("1.97", "4.15", "1.01", "1.98", "2.18", "4.98"):
        assert number in said
