"""Complex weights, as Fourier layers have them: the step is the one on real and imaginary parts."""

import pytest
import torch
from torch import nn

from samlib import Perturbation, geometry, masks, sam_step
from samlib.sam.geometry import GEOMETRIES, VARIANTS
from samlib.sam.state import dot

RHO = 0.3


class Spectral(nn.Module):
    """A layer of complex weights between two real ones."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.front = nn.Linear(6, 5).double()
        self.weight = nn.Parameter(torch.randn(5, 4, dtype=torch.complex128))
        self.back = nn.Linear(4, 1).double()

    def forward(self, x):
        return self.back((self.front(x).to(torch.complex128) @ self.weight).abs())


def generic(n=2, shape=(4, 3)):
    draw = torch.Generator().manual_seed(1)
    make = [torch.randn(*shape, dtype=torch.complex128, generator=draw) for _ in range(2 * n)]
    return make[:n], make[n:]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_step_gains_most_of_all_in_its_ball(name):
    """Re <g, eps> is rho ||T g||_2 or rho ||T g||_1, which no eps of the ball exceeds."""
    weights, grads = generic()
    ball = VARIANTS[name]
    T = ball.T(["a.weight", "b.bias"], weights, grads)
    eps = ball.eps(RHO, T, grads)
    scale = [torch.ones(())] * 2 if T is None else T
    Tg = torch.cat([(t * g).abs().flatten() for t, g in zip(scale, grads, strict=True)])
    most = Tg.sum() if ball.p == float("inf") else Tg.norm()
    gain = sum((e * g.conj()).real.sum() for e, g in zip(eps, grads, strict=True))
    torch.testing.assert_close(gain, RHO * most, rtol=1e-12, atol=0)
    assert not any(t.is_complex() for t in scale)
    reach = torch.cat([(e.abs() / t).flatten() for e, t in zip(eps, scale, strict=True)])
    reach = reach.max() if ball.p == float("inf") else reach.norm()
    torch.testing.assert_close(reach, torch.tensor(RHO, dtype=torch.float64), rtol=1e-12, atol=0)


def test_fishers_operator_is_that_of_the_squared_size():
    weights, grads = generic()
    T = geometry.Fisher(eta=0.7).T(["a", "b"], weights, grads)
    want = [(1 + 0.7 * g.abs() ** 2) ** -0.5 for g in grads]
    torch.testing.assert_close(T, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["output_scales", "input_scales"])
def test_a_real_scale_per_channel_of_complex_weights(name):
    (weight, *_), (grad, *_) = generic(1)
    axis = GEOMETRIES[name].axis
    scale = torch.ones(weight.shape[axis], dtype=torch.float64, requires_grad=True)
    shape = [1, 1]
    shape[axis] = -1
    # A loss whose gradient with respect to the weights is `grad`: Re <grad, W(s)>.
    loss = (grad.conj() * scale.view(shape) * weight).real.sum()
    (slope,) = torch.autograd.grad(loss, scale)
    want = RHO * slope.view(shape) / slope.norm() * weight
    ball = GEOMETRIES[name]
    (eps,) = ball.eps(RHO, ball.T(["w.weight"], [weight], [grad]), [grad])
    torch.testing.assert_close(eps, want, rtol=1e-12, atol=0)


def test_inner_products_are_those_of_real_and_imaginary_parts():
    (a, *_), (b, *_) = generic(2)
    want = (torch.view_as_real(a) * torch.view_as_real(b)).sum()
    torch.testing.assert_close(dot([a], [b]), want)
    assert not dot([a], [b]).is_complex()


def test_a_step_is_that_on_real_and_imaginary_parts():
    net, x = Spectral(), torch.randn(7, 6, dtype=torch.float64)

    def at(real, imaginary):
        hidden = net.front(x).to(torch.complex128) @ torch.complex(real, imaginary)
        return net.back(hidden.abs()).square().mean()

    parts = [net.weight.detach().real.clone(), net.weight.detach().imag.clone()]
    parts = [p.requires_grad_() for p in parts]
    slope = torch.autograd.grad(at(*parts), parts)
    length = torch.stack(slope).norm()
    pairs = list(zip(parts, slope, strict=True))
    away = [(p + RHO * g / length).detach().requires_grad_() for p, g in pairs]
    slope = torch.autograd.grad(at(*away), away)
    want = torch.complex(*(p.detach() - 0.1 * g for p, g in zip(parts, slope, strict=True)))

    only = masks.from_booleans(net, {"weight": torch.ones(5, 4, dtype=torch.bool)})
    optimizer = torch.optim.SGD([net.weight], lr=0.1)
    before = net.weight.detach().clone()
    sam_step(lambda: net(x).square().mean(), optimizer, Perturbation(geometry.L2(), RHO, only))
    assert not torch.equal(net.weight, before)
    torch.testing.assert_close(net.weight.detach(), want, rtol=1e-12, atol=1e-14)
