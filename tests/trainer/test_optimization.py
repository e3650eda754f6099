"""What the trainer's optimizer updates and decays; warm-up and clipping."""

import math

import pytest
import torch
import torch.nn.functional as F

from samlib import masks
from samlib.trainer.build import build_model, build_optimizer
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import train

TINY = {"train_size": 80, "validation_size": 40, "epochs": 3, "batch_size": 32, "lr": 0.05}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion"])
@pytest.mark.parametrize("mask", ["all", "only_norm"])
def test_fixed_norm_parameters_are_perturbed_but_never_updated(optimizer, mask):
    config = RunConfig(**TINY, optimizer=optimizer, geometry="l2", rho=0.5, mask=mask)
    kept = []

    def look(run):
        kept.append([p.detach().clone() for p in run.model.parameters()])

    record = train(config.replace(updated="no_norm", lr=1e-3), on_epoch=look)
    start = build_model(config)
    norm = {id(e.parameter) for e in masks.only_norm(start).entries}
    for p, end in zip(start.parameters(), kept[-1], strict=True):
        assert torch.equal(p, end) == (id(p) in norm)
    if mask == "only_norm":
        assert record["curves"]["norm_share"] == [1.0] * 3
        plain = train(
            config.replace(updated="no_norm", lr=1e-3, geometry="none", mask="all", rho=0)
        )
        assert plain["curves"]["train_loss"] != record["curves"]["train_loss"]


def test_the_step_zeroes_the_gradients_of_fixed_parameters():
    model = build_model(RunConfig())
    optimizer = build_optimizer(RunConfig(updated="no_norm"), model)
    model.norm1.weight.grad = torch.ones_like(model.norm1.weight)
    optimizer.zero_grad()
    assert model.norm1.weight.grad is None


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion"])
def test_decay_can_spare_the_norm_layers(optimizer):
    config = RunConfig(optimizer=optimizer, weight_decay=0.1, lr=0.01)
    ends = {}
    for decayed in ("all", "no_norm"):
        model = build_model(config)
        step = build_optimizer(config.replace(decayed=decayed), model)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        step.step()
        ends[decayed] = {n: p.detach().clone() for n, p in model.named_parameters()}
    start = dict(build_model(config).named_parameters())
    assert not torch.equal(ends["all"]["norm1.weight"], start["norm1.weight"])
    assert torch.equal(ends["no_norm"]["norm1.weight"], start["norm1.weight"])
    assert torch.equal(ends["no_norm"]["fc.weight"], ends["all"]["fc.weight"])


def rates(**changes):
    """Learning rate of every epoch."""
    found = []
    config = RunConfig(**TINY | {"epochs": 6, "lr": 0.1} | changes)
    train(config, on_epoch=lambda run: found.append(run.optimizer.param_groups[0]["lr"]))
    return found  # as the next epoch will use them


def test_the_rate_rises_linearly_and_falls_as_a_cosine():
    def cosine(step, of):
        return 0.1 * (1 + math.cos(math.pi * step / of)) / 2

    assert rates() == pytest.approx([cosine(e, 6) for e in range(1, 7)], abs=1e-12)
    warm = [0.1 * 2 / 3, 0.1, 0.1, cosine(1, 3), cosine(2, 3), 0]
    assert rates(warmup_epochs=3) == pytest.approx(warm, abs=1e-12)
    whole = rates(warmup_epochs=6)
    assert whole[:5] == pytest.approx([0.1 * e / 6 for e in range(2, 7)])


def test_the_descent_gradient_is_clipped_over_all_parameters():
    x, y = torch.randn(16, 1, 8, 8), torch.randint(10, (16,))
    norms = {}
    for clip in (0.0, 0.01, 1e6):
        model = build_model(RunConfig())
        optimizer = build_optimizer(RunConfig(clip_norm=clip), model)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        norms[clip] = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    assert norms[0.01] == pytest.approx(0.01, rel=1e-4)
    assert norms[0.0] == norms[1e6] > 0.1


def test_a_resumed_warm_up_goes_on_where_it_was(tmp_path):
    config = RunConfig(**TINY | {"epochs": 5}, warmup_epochs=3, clip_norm=0.5)
    whole = train(config)["curves"]

    def stop(run):
        if run.epoch == 2:
            raise InterruptedError

    path = tmp_path / "c.pt"
    with pytest.raises(InterruptedError):
        train(config, checkpoints=path, checkpoint_seconds=0, on_epoch=stop)
    assert train(config, checkpoints=path, checkpoint_seconds=0)["curves"] == whole
