"""Networks, closures and perturbations for the tests of the step."""

import pytest
import torch
from conftest import MASK_OF, closure_of, flat, small_batch, small_net
from timm.optim import Lion

from samlib import Perturbation
from samlib.sam.geometry import VARIANTS, by_name

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-4),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "lion": lambda p: Lion(p, lr=1e-2, weight_decay=0.1),
}
every_geometry = pytest.mark.parametrize("geometry", VARIANTS)
every_mask = pytest.mark.parametrize("mask", MASK_OF)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def setting(mask="all", geometry="l2", rho=0.3, dtype=torch.float64, **options):
    """A network, the closure of one batch, and a perturbation of it."""
    net = small_net(dtype)
    where = MASK_OF[mask](net) if isinstance(mask, str) else mask(net)
    perturbation = Perturbation(by_name(geometry), rho, where, **options)
    return net, closure_of(net, *small_batch(dtype)), perturbation


def grads_of(loss, net):
    return torch.autograd.grad(loss, list(net.parameters()))


def T_of(geometry, net, grads):
    """T_w as a flat vector."""
    names = [n for n, _ in net.named_parameters()]
    T = by_name(geometry).T(names, [p.detach() for p in net.parameters()], grads)
    if T is None:
        return torch.ones(sum(g.numel() for g in grads), dtype=grads[0].dtype)
    return flat([t.expand_as(g) for t, g in zip(T, grads, strict=True)])
