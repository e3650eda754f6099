"""What two gloo processes do in `test_replicas`: one step in every form of data parallel training.

Each form is a function of a fresh network, its optimizer, a perturbation of it and this worker's
batch; `run` returns what the form said, and the weights after it.
"""

import os
import sys
import warnings

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from samlib import Perturbation, SamlibError, geometry, masks, perturbed, sam_step
from samlib.sam.family import Setting, make

RHO, LR = 0.5, 0.1


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)).double()


def batch(rank):
    draw = torch.Generator().manual_seed(rank + 1)
    x = torch.randn(8, 8, dtype=torch.float64, generator=draw)
    return x, torch.randint(3, (8,), generator=draw)


def wrapped(net, optimizer, ball, x, y, **options):
    ddp = DistributedDataParallel(net, **options)
    sam_step(lambda: F.cross_entropy(ddp(x), y), optimizer, ball)


def unused(*given):
    wrapped(*given, find_unused_parameters=True)


def views(*given):
    wrapped(*given, gradient_as_bucket_view=True)


def static(*given):
    wrapped(*given, static_graph=True)


def static_after_plain_steps(net, optimizer, ball, x, y):
    ddp = DistributedDataParallel(net, static_graph=True)
    for _ in range(2):
        F.cross_entropy(ddp(x), y).backward()
    sam_step(lambda: F.cross_entropy(ddp(x), y), optimizer, ball)


def static_later(net, optimizer, ball, x, y):
    """A second wrapper, made when the first step has looked for wrappers already."""
    wrapped(net, torch.optim.SGD(net.parameters(), lr=0.0), ball, x, y)
    static(net, optimizer, ball, x, y)


def sharded_state(net, optimizer, ball, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, in torch itself
        from torch.distributed.optim import ZeroRedundancyOptimizer
    own = ZeroRedundancyOptimizer(net.parameters(), torch.optim.SGD, lr=LR)
    wrapped(net, own, ball, x, y)


def joined(net, optimizer, ball, x, y):
    ddp = DistributedDataParallel(net)
    with ddp.join():
        sam_step(lambda: F.cross_entropy(ddp(x), y), optimizer, ball)


def compiled(net, optimizer, ball, x, y):
    ddp = torch.compile(DistributedDataParallel(net), backend="aot_eager")
    sam_step(lambda: F.cross_entropy(ddp(x), y), optimizer, ball)


def accumulated(net, optimizer, ball, x, y):
    ddp, parts = DistributedDataParallel(net), list(zip(x.chunk(2), y.chunk(2), strict=True))
    for i, (a, b) in enumerate(parts):
        loss = lambda a=a, b=b: F.cross_entropy(ddp(a), b)  # noqa: E731
        if i + 1 < len(parts):
            with ddp.no_sync(), perturbed(loss, ball):
                (loss() / 2).backward()
        else:
            with perturbed(loss, ball):
                (loss() / 2).backward()
    optimizer.step()


def _member(name, net, optimizer, ball, x, y):
    member = make(name, ball.geometry, ball.rho, ball.mask, Setting(lr=LR, steps=2))
    ddp = DistributedDataParallel(net)
    member(lambda: F.cross_entropy(ddp(x), y), optimizer)


def gsam(*given):
    _member("gsam", *given)


def looksam(*given):
    _member("looksam", *given)


def ae_sam(*given):
    _member("ae_sam", *given)


def vasso(*given):
    """Remembers its own gradient, and descends on the mean of all: in the first step as SAM."""
    _member("vasso", *given)


class Module(nn.Module):
    """Stands for a LightningModule, whose training step is DDP's forward pass."""

    def __init__(self, net, step):
        super().__init__()
        self.net, self.step = net, step

    def forward(self, x, y):
        return self.step(lambda: F.cross_entropy(self.net(x), y))


def inside(net, optimizer, ball, x, y, backward=False):
    def arm(loss):  # as Lightning's manual_backward
        ddp.reducer.prepare_for_backward([])
        loss.backward()

    own = {"backward": arm} if backward else {}
    ddp = DistributedDataParallel(
        Module(net, lambda closure: sam_step(closure, optimizer, ball, **own))
    )
    ddp.module.register_forward_hook(lambda *_: setattr(ddp, "require_backward_grad_sync", False))
    ddp(x, y)


def inside_with_its_backward(*given):
    inside(*given, backward=True)


FORMS = (
    *(wrapped, unused, views, sharded_state, compiled, accumulated, inside_with_its_backward),
    *(static, static_after_plain_steps, static_later, inside, joined),
    *(vasso, gsam, looksam, ae_sam),
)


def run(form, rank):
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    ball = Perturbation(geometry.L2(), RHO, masks.only_norm(net))
    try:
        form(net, optimizer, ball, *batch(rank))
        said = ""
    except SamlibError as error:
        said = str(error)
    return said, torch.cat([p.detach().flatten() for p in net.parameters()])


def main(folder, rank):
    torch.set_num_threads(1)
    place = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=place, rank=int(rank), world_size=2)
    torch.save({form.__name__: run(form, int(rank)) for form in FORMS}, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
