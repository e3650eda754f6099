"""A small network with two norm layers, and its step by the formula."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from samlib import Perturbation, geometry, perturbed, sam_step

RHO = 0.5


def ball(mask, **options):
    return Perturbation(geometry.L2(), RHO, mask, **options)


def sgd(net, lr=0.1):
    return torch.optim.SGD(net.parameters(), lr=lr)


def two_norms():
    torch.manual_seed(0)
    layers = nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8)
    return nn.Sequential(*layers, nn.Linear(8, 3)).double()


def batch(seed=1, n=16):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, dtype=torch.float64, generator=draw)
    return x, torch.randint(3, (n,), generator=draw)


def loss_of(net, x, y):
    return lambda: F.cross_entropy(net(x).to(x.dtype), y)


def descent_gradient(net, x, y, names):
    """The gradient at w + eps by name, from autograd on a copy of the weights alone."""

    def gradient(weights):
        weights = {n: w.detach().clone().requires_grad_() for n, w in weights.items()}
        loss = F.cross_entropy(functional_call(net, weights, (x,)), y)
        wanted = [n for n, p in net.named_parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, [weights[n] for n in wanted])
        return dict(zip(wanted, found, strict=True))

    weights = dict(net.named_parameters())
    first = gradient(weights)
    length = torch.cat([first[n].flatten() for n in names]).norm()
    away = {n: w + RHO * first[n] / length if n in names else w for n, w in weights.items()}
    return gradient(away)


def assert_a_step_is_right(net, mask, *, names=None, loss=None):
    """sam_step with SGD moves weights as the formula says, in float64, and warns of nothing."""
    x, y = batch()
    names = names or [e.name for e in mask.entries]
    gradient = descent_gradient(net, x, y, names)
    want = {n: p.detach() - 0.1 * gradient.get(n, 0.0) for n, p in net.named_parameters()}
    sam_step(loss or loss_of(net, x, y), sgd(net), ball(mask))
    for n, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), want[n], rtol=1e-10, atol=1e-12)


def steps(closure, mask):
    with perturbed(closure, ball(mask)) as loss:
        yield loss
