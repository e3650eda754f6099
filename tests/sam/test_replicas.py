"""Data parallel training in two gloo processes: right to the float64 reference, or refused."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.fsdp
import torch.nn.functional as F
from gloo_worker import LR, RHO, batch, network
from torch.func import functional_call

from samlib.files import project_root

SHARDS_ON_A_CPU = pytest.mark.skipif(
    not hasattr(torch.distributed.fsdp, "fully_shard"), reason="PyTorch 2.5 shards on GPUs alone"
)
WORKER = Path(__file__).parents[1] / "gloo_worker.py"


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each worker has by form: what was said, and its weights."""
    folder = tmp_path_factory.mktemp("gloo")
    environment = os.environ | {"PYTHONPATH": str(project_root()), "PYTHONWARNINGS": "error"}
    started = [
        subprocess.Popen([sys.executable, str(WORKER), str(folder), str(rank)], env=environment)
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=240) for process in started] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def gradient(net, weights, x, y):
    weights = {n: w.detach().clone().requires_grad_() for n, w in weights.items()}
    loss = F.cross_entropy(functional_call(net, weights, (x,)), y)
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def perturbed_gradient(net, x, y):
    weights = dict(net.named_parameters())
    norm = ("1.weight", "1.bias")
    first = gradient(net, weights, x, y)
    length = torch.cat([first[n] for n in norm]).norm()
    away = {n: w + RHO * first[n] / length if n in norm else w for n, w in weights.items()}
    return gradient(net, away, x, y)


def reference(parts):
    """One step of SGD along the mean of the parts' gradients, each at its own w + eps."""
    net = network()
    found = [perturbed_gradient(net, x, y) for x, y in parts]
    weights = net.named_parameters()
    return torch.cat(
        [(w.detach() - LR * sum(g[n] for g in found) / len(found)).flatten() for n, w in weights]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        *("wrapped", "unused", "views", "sharded_state", "compiled", "inside_with_its_backward"),
        "vasso",
    ],
)
def test_replicas_step_along_the_mean_of_their_gradients(seen, form):
    want = reference([batch(rank) for rank in (0, 1)])
    for rank in (0, 1):
        said, got = seen[rank][form]
        assert said == ""
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
def test_replicas_that_accumulate_perturb_each_micro_batch(seen):
    chunks = [(x.chunk(2), y.chunk(2)) for x, y in (batch(rank) for rank in (0, 1))]
    want = reference([(x[i], y[i]) for x, y in chunks for i in (0, 1)])
    for rank in (0, 1):
        said, got = seen[rank]["accumulated"]
        assert said == ""
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("static", "static_graph takes the ascent's pass"),
        ("static_after_plain_steps", "static_graph takes the ascent's pass"),
        ("static_later", "static_graph takes the ascent's pass"),
        ("joined", "join has a process that is done answer every pass"),
        ("inside", "inside the forward pass of DistributedDataParallel"),
        ("gsam", "descent Subtract uses the gradient of the ascent's pass"),
        ("looksam", "descent Reuse uses the gradient of the ascent's pass"),
        ("ae_sam", "when Adaptive uses the gradient of the ascent's pass"),
    ],
)
def test_what_would_let_replicas_drift_apart_is_refused(seen, form, why):
    before = torch.cat([p.detach().flatten() for p in network().parameters()])
    for rank in (0, 1):
        said, got = seen[rank][form]
        assert why in said
        assert torch.equal(got, before)


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, pytest.param(2, marks=SHARDS_ON_A_CPU)])
def test_fsdp_is_refused_for_what_it_is(version, tmp_path):
    script = f"""
import sys, torch, torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from samlib import ConfigError, Perturbation, geometry, masks, sam_step
dist.init_process_group("gloo", init_method="file://{tmp_path}/x", rank=0, world_size=1)
net = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
mask = masks.only_norm(net)
if {version} == 1:
    net = FullyShardedDataParallel(net, device_id=torch.device("cpu"), use_orig_params=True)
else:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
said = []
for call in (lambda: masks.only_norm(net),
             lambda: sam_step(lambda: net(torch.randn(4, 8)).square().sum(),
                              torch.optim.SGD(net.parameters(), 0.1),
                              Perturbation(geometry.L2(), 0.1, mask))):
    try:
        call()
    except ConfigError as error:
        said.append(str(error))
print(said)
"""
    with warnings.catch_warnings():
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            env=os.environ | {"PYTHONPATH": str(project_root())},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sharded by FSDP") == 2
