"""A small network with a member of the family, or with parts of one, and its steps."""

import pytest
import torch
import torch.nn.functional as F
from conftest import MASK_OF, closure_of, flat, small_batch, small_net
from torch import nn

from samlib import geometry, masks
from samlib.sam import source
from samlib.sam.family import MEMBERS, Setting, make
from samlib.sam.masks.ssam import dynamic
from samlib.sam.perturbation import Perturbation
from samlib.sam.step import sam_step

every_member = pytest.mark.parametrize("name", MEMBERS)
SPOTS = [("all", "l2"), ("only_norm", "elementwise_l2"), ("coordinates", "elementwise_l2")]
BATCHES = [small_batch(torch.float64, seed=s) for s in range(1, 7)]
ONE_PASS = [name for name, member in MEMBERS.items() if member.passes == "1"]


def group_norm(channels):
    return nn.GroupNorm(2, channels)


class Run:
    """A small network, its optimizer and a member of the family."""

    def __init__(self, name, mask="all", shape="l2", rho=0.3, norm=group_norm, **options):
        self.net = small_net(torch.float64, norm=norm)
        self.mask = MASK_OF[mask](self.net) if isinstance(mask, str) else mask(self.net)
        setting = Setting(lr=0.1, steps=8, epochs=4, logits=lambda: self.net(BATCHES[0][0]))
        where = geometry.by_name(shape)
        self.member = make(name, where, rho, self.mask, setting, **options)
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4
        )
        self.calls = 0

    def closure(self, t):
        x, y = BATCHES[t]

        def closure():
            self.calls += 1
            logits = self.net(x)
            each = self.member.descent.per_example
            loss = F.cross_entropy(logits, y, reduction="none" if each else "mean")
            ascended = self.member.perturbation.source
            if not ascended.other_loss:
                return loss
            return loss, source.obf(logits, y, **ascended.options)

        return closure

    def steps(self, *batches, epoch=2, **options):
        """A step per batch, in an epoch in which every member is active."""
        for t in batches:
            self.member(self.closure(t), self.optimizer, epoch=epoch, **options)
        return self

    @property
    def weights(self):
        return flat(self.net.parameters())


def stepped(*batches, lr=0.1, optimizer=None, descent=None, around=sam_step, **parts):
    """Weights after steps with a perturbation of these parts, and the perturbation."""
    net = small_net(torch.float64, norm=group_norm)
    mask = parts.pop("mask", masks.all_parameters)(net)
    perturbation = Perturbation(geometry.L2(), parts.pop("rho", 0.3), mask, **parts)
    if optimizer is None:
        opt = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    else:
        opt = optimizer(net.parameters())
    options = {} if descent is None else {"descent": descent}
    eps = []
    for t in batches:
        seen = []
        watch = lambda found, seen=seen: seen.append([e.clone() for e in found.eps])  # noqa: E731
        around(closure_of(net, *BATCHES[t]), opt, perturbation, on_ascent=watch, **options)
        eps.append(flat(seen[0]) if seen else None)
    return flat(net.parameters()), eps


def same(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def choosing(net):
    """A mask that chooses other coordinates inside its first step."""
    mask = dynamic(net, sparsity=0.5, epochs=2, every=1)
    mask.begin_epoch(0, None)
    return mask
