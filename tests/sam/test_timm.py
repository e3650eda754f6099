"""Others' networks, of every kind of norm layer: nothing is said, and the step is the formula's."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import Lamb
from torch.func import functional_call

from samlib import Perturbation, geometry, masks, sam_step

RHO = 0.05
O = torch.optim  # noqa: E741
OPTIMIZERS = (
    lambda p: O.SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-4),
    lambda p: O.AdamW(p, lr=1e-3),
    lambda p: Lamb(p, lr=1e-3),
    lambda p: O.RMSprop(p, lr=1e-3),
    lambda p: O.NAdam(p, lr=1e-3),
)
# timm's own small networks, by what normalizes in them.
NETWORKS = {
    "test_resnet": {"BatchNorm2d"},
    "test_byobnet": {"BatchNormAct2d"},
    "test_efficientnet": {"BatchNormAct2d"},
    "test_efficientnet_gn": {"GroupNormAct"},
    "test_efficientnet_ln": {"LayerNormAct2d"},
    "test_efficientnet_evos": {"EvoNorm2dS0"},
    "test_convnext": {"LayerNorm", "LayerNorm2d"},
    "test_convnext2": {"LayerNorm", "LayerNorm2d"},
    "test_mambaout": {"LayerNorm"},
    "test_vit": {"LayerNorm"},
    "test_vit3": {"LayerNorm"},
    "test_vit4": {"RmsNorm"},
}


def gradient(net, weights, x, y):
    weights = {n: w.detach().clone().requires_grad_() for n, w in weights.items()}
    loss = F.cross_entropy(functional_call(net, weights, (x,)), y)
    return dict(zip(weights, torch.autograd.grad(loss, [*weights.values()]), strict=True))


def perturbed_gradient(net, names, x, y):
    """At w + eps, with running statistics that follow both passes."""
    weights = dict(net.named_parameters())
    first = gradient(net, weights, x, y)
    length = torch.cat([first[n].flatten() for n in names]).norm()
    away = {n: w + RHO * first[n] / length if n in names else w for n, w in weights.items()}
    return gradient(net, away, x, y)


@pytest.mark.parametrize(("i", "name"), [*enumerate(NETWORKS)], ids=[*NETWORKS])
def test_timms_networks_are_silent_and_exact(i, name):
    torch.manual_seed(0)
    small = {"img_size": 64} if "vit" in name else {}
    net = timm.create_model(name, num_classes=5, **small).double()
    layers = [(n, m) for n, m in net.named_modules() if type(m).__name__ in NETWORKS[name]]
    names = [f"{n}.{leaf}" for n, m in layers for leaf, _ in m.named_parameters()]
    mask = masks.only_norm(net)
    assert [e.name for e in mask.entries] == names
    assert {type(m).__name__ for _, m in layers} == NETWORKS[name]

    other, make = copy.deepcopy(net), OPTIMIZERS[i % len(OPTIMIZERS)]
    ours, theirs = make(net.parameters()), make(other.parameters())
    ball = Perturbation(geometry.L2(), RHO, mask)
    for _ in range(2):
        x, y = torch.randn(4, 3, 64, 64).double(), torch.randint(5, (4,))
        found = perturbed_gradient(other, names, x, y)
        for n, p in other.named_parameters():
            p.grad = found[n]
        theirs.step()
        sam_step(lambda x=x, y=y: F.cross_entropy(net(x), y), ours, ball)
    torch.testing.assert_close(net.state_dict(), other.state_dict(), rtol=1e-6, atol=1e-9)
