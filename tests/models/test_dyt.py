"""DyT, y = gamma tanh(alpha x) + beta: its first values, its formula, its limit, its gradient."""

import math

import pytest
import torch

from samlib.models.transformers import DyT


def layer():
    """A DyT of three channels in which no number is a special one."""
    dyt = DyT(3, dtype=torch.float64)
    with torch.no_grad():
        dyt.alpha.fill_(0.7)
        dyt.weight.copy_(torch.tensor([1.5, -0.3, 0.8], dtype=torch.float64))
        dyt.bias.copy_(torch.tensor([0.2, 0.0, -1.1], dtype=torch.float64))
    draw = torch.Generator().manual_seed(0)
    return dyt, torch.randn(4, 5, 3, dtype=torch.float64, generator=draw)


def test_the_first_values_are_the_authors():
    dyt = DyT(3)
    assert {n: p.tolist() for n, p in dyt.named_parameters()} == {
        "alpha": [0.5],
        "weight": [1.0, 1.0, 1.0],
        "bias": [0.0, 0.0, 0.0],
    }
    assert dyt(torch.tensor([[0.0, 1.0, -2.0]])).tolist()[0] == pytest.approx(
        [0.0, math.tanh(0.5), -math.tanh(1.0)]
    )


def test_the_forward_pass_is_the_formula_channel_by_channel():
    dyt, x = layer()
    y = dyt(x)
    for i, numbers in enumerate(x.reshape(-1, 3).tolist()):
        for c, (gamma, beta) in enumerate(((1.5, 0.2), (-0.3, 0.0), (0.8, -1.1))):
            assert y.reshape(-1, 3)[i, c].item() == pytest.approx(
                gamma * math.tanh(0.7 * numbers[c]) + beta, abs=1e-14
            )


def test_as_alpha_vanishes_it_is_an_affine_map():
    dyt, x = layer()
    gamma = dyt.weight.detach().clone()
    distance = []
    for alpha in (1e-2, 1e-3):
        with torch.no_grad():
            dyt.alpha.fill_(alpha)
            dyt.weight.copy_(gamma / alpha)
        distance.append((dyt(x) - (gamma * x + dyt.bias)).abs().max().item())
    assert distance[1] < 1e-4
    assert distance[1] == pytest.approx(distance[0] / 100, rel=1e-2)  # of the second order


def test_gradients_are_those_of_the_formula():
    dyt, x = layer()
    upstream = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)
    (dyt(x) * upstream).sum().backward()
    t = torch.tanh(0.7 * x)
    expected = {
        "weight": (t * upstream).sum((0, 1)),
        "bias": upstream.sum((0, 1)),
        "alpha": (dyt.weight * (1 - t**2) * x * upstream).sum().view(1),
    }
    for name, p in dyt.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])
